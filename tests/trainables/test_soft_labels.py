"""Labels that are drawn at each access: bounds, means, and independence of ranks and interruptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search_spaces.label_policy import SMOOTHED
from search_spaces.results import Order
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, TRIAL_ID, Teller, ToyNet, ToySet, same, toy_protocol, toy_set
from trainables.checkpoint import Checkpoints
from trainables.fitting import Stopped, fit
from trainables.groups import SingleProcess
from trainables.label_values import trained_values
from trainables.soft_labels import drawn_labels, has_soft_labels
from trainables.storage import Storage

ONE = SingleProcess(torch.device("cpu"))

RAW = np.array([[1, -1, np.nan], [0, -1, -1], [-1, 1, 0]], dtype=np.float32)
LABELS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("policy", "blank", "expected"),
    [
        ("ignore", "mask", [[1, np.nan, np.nan], [0, np.nan, np.nan], [np.nan, 1, 0]]),
        ("ones", "mask", [[1, 1, np.nan], [0, 1, 1], [1, 1, 0]]),
        ("zeros", "zero", [[1, 0, 0], [0, 0, 0], [0, 1, 0]]),
        ("lsr_ones", "mask", [[1, 0.7, np.nan], [0, 0.7, 0.7], [0.7, 1, 0]]),
        ("lsr_zeros", "zero", [[1, 0.15, 0], [0, 0.15, 0.15], [0.15, 1, 0]]),
        ({"a": "ones", "c": "lsr_zeros"}, "mask", [[1, np.nan, np.nan], [0, np.nan, 0.15], [1, 1, 0]]),
    ],
)
def test_targets_of_training(policy, blank, expected):
    targets = trained_values(RAW, LABELS, policy, blank)
    np.testing.assert_allclose(targets, np.array(expected, dtype=np.float32), equal_nan=True)
    assert targets.dtype == np.float32
    assert has_soft_labels(targets) == ("lsr" in str(policy))


def test_classes_have_no_soft_labels():
    assert not has_soft_labels(np.array([0, 1, -1]))


@pytest.mark.parametrize("policy", ["lsr_ones", "lsr_zeros"])
def test_draws_are_uniform_within_their_bounds_and_leave_known_labels_alone(policy):
    targets = torch.from_numpy(np.tile(trained_values(RAW, LABELS, policy), (4000, 1)))
    drawn = drawn_labels(targets, seed=3, step=7, ghost=0)
    soft = (targets > 0) & (targets < 1)
    low, high = SMOOTHED[policy]
    values = drawn[soft]
    assert low - 1e-6 <= float(values.min()) < low + 0.002
    assert high - 0.002 < float(values.max()) <= high + 1e-6
    assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.002)
    assert float(values.std()) == pytest.approx((high - low) / 12**0.5, abs=0.002)
    np.testing.assert_array_equal(drawn[~soft], targets[~soft])


def test_draws_depend_on_seed_step_and_ghost_batch_alone():
    targets = torch.full((8, 2), 0.7)
    first = drawn_labels(targets, 1, 2, 3)
    torch.manual_seed(0)
    assert torch.equal(first, drawn_labels(targets, 1, 2, 3))
    others = [drawn_labels(targets, *at) for at in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert not any(torch.equal(first, other) for other in others)


def _soft_set() -> ToySet:
    images = toy_set(kind="multilabel", masked=0.1)
    targets = images.targets.copy()
    targets[::3] = np.where(targets[::3] == 1, np.float32(0.7), targets[::3])
    return ToySet(images.images, images.positions, targets)


def _fit_soft(group, train_set=None, **options):
    net = ToyNet()
    result = fit(
        net,
        train_set or _soft_set(),
        toy_set(n=12, seed=1, kind="multilabel"),
        protocol=toy_protocol(),
        normalise=NORMALISE,
        input_size=8,
        seed=5,
        primary="auc_macro",
        group=group,
        tell=options.pop("tell", Teller()),
        **options,
    )
    return [loss for row in result.history for loss in row["step_losses"]], result


def _losses_on_each_rank(group):
    return _fit_soft(group)[0]


def test_training_with_drawn_labels_is_the_same_on_two_ranks(tmp_path):
    alone, _ = _fit_soft(ONE)
    for losses in on_ranks(_losses_on_each_rank, 2, tmp_path):
        np.testing.assert_allclose(losses, alone, rtol=1e-4)
    fixed = _soft_set()
    fixed.targets[:] = np.where((fixed.targets > 0) & (fixed.targets < 1), np.float32(1), fixed.targets)
    assert not np.allclose(_fit_soft(ONE, fixed)[0], alone, rtol=1e-4)


def test_training_with_drawn_labels_resumes_bit_for_bit(tmp_path):
    losses, whole = _fit_soft(ONE)
    checkpoints = Checkpoints(Storage(tmp_path / "store"), TRIAL_ID, 0.0, ONE)
    with pytest.raises(Stopped):
        _fit_soft(ONE, tell=Teller([Order.GO, Order.STOP]), checkpoints=checkpoints)
    resumed_losses, resumed = _fit_soft(ONE, checkpoints=Checkpoints(Storage(tmp_path / "store"), TRIAL_ID, 0.0, ONE))
    assert resumed.resumed_from == 4
    assert resumed_losses == losses
    assert same(whole.final, resumed.final)
