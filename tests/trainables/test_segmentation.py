"""Whole trials on masks: they learn, kept weights give the same predictions, and interruptions do not matter."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from dashboards.prediction_sets import read_predictions
from dashboards.statistics import mask_metrics
from search_spaces.names import Artifact
from search_spaces.protocol import Augmentation, Budget, Protocol
from search_spaces.representations import KeptRepresentations, ProbeSpec
from search_spaces.results import Order
from search_spaces.trial import ResolvedScale, Workspace
from tests.trainables.made_masks import PATIENTS, save_masks
from tests.trainables.made_tasks import make_library, make_task
from tests.trainables.toy import NORMALISE, TRIAL_ID, Teller, toy_trial
from trainables import representations
from trainables.activations import activations
from trainables.augmentation import Augment, EvaluationTransform
from trainables.groups import SingleProcess
from trainables.loop import evaluate_only, train
from trainables.mask_predictions import EvaluationRows, evaluation_values, mask_table
from trainables.mask_sets import MaskSet
from trainables.storage import Storage

ONE = SingleProcess()
NET = ResolvedScale(name="tiny", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=16)
PROTOCOL = Protocol.model_validate(
    {
        "budget": {"steps": 60},
        "lr": 0.01,
        "global_batch_size": 8,
        "ghost_batch_size": 4,
        "storage_size": 20,
        "evaluations": 3,
        "augmentation": {"crop_scale": [0.7, 1.0], "elastic": 0.01},
    }
)


@pytest.fixture
def make_trial(tmp_path):
    def make(trial_id=TRIAL_ID, labels=("square",), storage="store", protocol=PROTOCOL, **columns):
        library = make_library(tmp_path)
        save_masks(library, labels=labels, **columns)
        task = make_task(library, "squares", {"test": {}, "men": {"where": {"sex": ["M"]}}}, primary="dice",
                         groups=("sex",), nsd_tolerance=1.5)  # fmt: skip
        workspace = Workspace(home=str(library.home), storage=str(tmp_path / storage), checkpoint_every_s=1e9)
        return toy_trial(trial_id=trial_id, scale=NET, task=task, protocol=protocol, workspace=workspace)

    return make


def folder_of(trial):
    return Storage(trial.workspace.storage).fetch(trial.trial_id, Artifact.TRIAL).parent


def same_tables(one, other):
    """Rows and metadata; a distance that is undefined in both (NaN) is equal, which Arrow denies."""
    tables = [pq.read_table(path) for path in (one, other)]
    assert tables[0].schema.metadata == tables[1].schema.metadata
    pd.testing.assert_frame_equal(*(table.to_pandas() for table in tables))


def test_a_trial_learns_its_masks_and_publishes_counts(make_trial):
    trial, tell = make_trial(), Teller()
    result = train(trial, ONE, tell)
    folder = folder_of(trial)
    table = pq.read_table(folder / "predictions" / "test.parquet")
    assert table.column_names == [
        "image_id", "patient_id", "g_sex", "label", "y", "tp", "fp", "fn", "tn", "hd95", "nsd",
    ]  # fmt: skip
    found = read_predictions(folder / "predictions" / "test.parquet")
    images = sum(trial_split(k) == "test" for k in range(2 * PATIENTS))
    assert found.logits.shape == (images, 1, 4)
    assert (found.logits.sum(axis=2) == 20 * 20).all()
    numbers = mask_metrics(found.labels, found.logits, found.distances, found.patient)
    assert numbers["dice"] > 0.7  # a mask of all pixels has about 0.25
    assert max(r["val"] for r in tell.reports) > 0.7
    assert result.best_value == pytest.approx(max(r["val"] for r in tell.reports))
    assert 0.5 < numbers["nsd"] <= 1
    assert 0 < numbers["hd95"] < 20
    assert numbers["empty_images"] == sum(found.y[:, 0] == 0) > 0
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    (threshold,) = json.loads(metadata["mask_thresholds"])
    assert 0 < threshold < 1
    validation = read_predictions(folder / "predictions" / "val.parquet")
    assert np.isnan(validation.distances).all()
    assert read_predictions(folder / "predictions" / "men.parquet").images < images


def trial_split(image):
    share = (image // 2) / PATIENTS
    return "train" if share < 0.5 else "val" if share < 0.67 else "test"


def test_kept_weights_give_the_same_predictions_at_the_same_threshold(make_trial, tmp_path):
    trial = make_trial(
        protocol=PROTOCOL.model_copy(update={"budget": PROTOCOL.budget.model_copy(update={"steps": 12})})
    )
    train(trial, ONE, Teller())
    files = evaluate_only(trial, folder_of(trial) / Artifact.WEIGHTS, ["test"], tmp_path / "again", ONE)
    same_tables(files["test"], folder_of(trial) / "predictions" / "test.parquet")


def test_an_interrupted_trial_ends_as_one_that_was_not(make_trial):
    short = {"budget": PROTOCOL.budget.model_copy(update={"steps": 12})}
    whole = make_trial(protocol=PROTOCOL.model_copy(update=short))
    train(whole, ONE, Teller())
    broken = make_trial(storage="other", protocol=PROTOCOL.model_copy(update=short))
    assert train(broken, ONE, lambda report: Order.STOP if report["step"] == 4 else Order.GO) is None
    assert train(broken, ONE, Teller()) is not None
    for name in ("test", "val"):
        same_tables(*(folder_of(t) / "predictions" / f"{name}.parquet" for t in (whole, broken)))


def test_a_label_of_which_the_resized_truth_kept_no_pixel_is_not_counted_as_absent(make_trial):
    """A prediction on it may be right, so that it is no false alarm; nor is it a miss."""
    frame = pd.DataFrame(
        {"image_id": ["a", "b", "c"], "patient_id": list("pqr"), "y_square": np.array([1, 0, 1], np.float32),
         "raw_square": pd.array([1, 0, 1], dtype="Int8")}
    )  # fmt: skip
    values = np.array([[0, 3, 0, 397], [0, 3, 0, 397], [5, 3, 2, 390]], dtype=float)
    values = np.concatenate([values, np.full((3, 2), np.nan)], axis=1)[:, None]
    table = mask_table(frame, values, make_trial(), "test", np.array([10]))
    for name, expected in {"tp": [None, 0, 5], "fp": [None, 3, 3], "fn": [None, 0, 2], "tn": [None, 397, 390]}.items():
        assert table.column(name).to_pylist() == expected
    assert table.column("y").to_pylist() == [1, 0, 1]


def test_a_map_that_is_not_finite_misses_what_is_there():
    planes = torch.zeros(2, 4, 4, dtype=torch.uint8)
    planes[:, :2] = 1
    logits = torch.full((2, 2, 4, 4), 5.0)
    logits[1, 0, 3, 3] = torch.nan
    masks = MaskSet(planes=planes.numpy(), values=(1, 0), pixel_sizes=np.ones((2, 2)))
    rows = EvaluationRows(masks, np.array([10, 10]), 1.0)(logits, planes, np.arange(2))
    found = evaluation_values(rows.numpy())
    assert found[:, 0, :4].tolist() == [[8, 8, 0, 0], [0, 0, 8, 8]]
    assert np.isnan(found[1, 0, 4])
    assert found[1, 0, 5] == 0
    assert np.isnan(found[:, 1]).all(), "the set says nothing of the second label"


def test_several_labels_an_ignored_border_and_every_loss(make_trial):
    """Each label has its own threshold; pixels outside the valid area are in no count."""
    for number, form in enumerate(("bce", "dice")):
        protocol = PROTOCOL.model_copy(
            update={"loss": form, "budget": PROTOCOL.budget.model_copy(update={"steps": 4}), "select": "best_val_loss",
                    "stop_patience": 5, "imbalance": "weights", "test_time_augmentation": "flip"}
        )  # fmt: skip
        trial = make_trial(f"{number}" * 16, ("red", "green"), protocol=protocol, valid_area="m1.png")
        train(trial, ONE, Teller())
        found = read_predictions(folder_of(trial) / "predictions" / "test.parquet")
        assert found.logits.shape[1:] == (2, 4)
        known = found.logits.sum(axis=2)
        assert (known == known[0, 0]).all()
        assert 0 < known[0, 0] < 20 * 20


@pytest.mark.parametrize(
    "changes", [{"elastic": 0.05}, {"grid_distortion": 0.6}, {"rotation_degrees": 40}, {"crop": "fixed"}, {}]
)
def test_masks_move_with_their_images(changes):
    """An image whose red channel is its mask: after any geometry the mask is where red is above one half."""
    augmentation = Augmentation.model_validate({"crop_scale": (0.4, 0.9), "vertical_flip": 0.5, **changes})
    masks = torch.zeros(12, 40, 40, dtype=torch.uint8)
    for k in range(12):
        masks[k, 4 + k : 20 + k, 6:24] = 1
    images = torch.zeros(12, 40, 40, 3, dtype=torch.uint8)
    images[..., 0] = masks * 255
    augment = Augment(augmentation, 32, NORMALISE.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3}),
                      torch.device("cpu"))  # fmt: skip
    moved, planes = augment.with_masks(images, masks, torch.Generator().manual_seed(0))
    red = moved[:, 0]
    sure = (red - 0.5).abs() > 0.25  # between two pixels the nearest one may be either
    assert sure.float().mean() > 0.9
    assert ((red > 0.5) == planes.bool())[sure].float().mean() > 0.995
    assert torch.equal(moved, augment(images, torch.Generator().manual_seed(0)))
    assert 0.02 < planes.float().mean() < 0.9


def test_the_whole_image_is_seen_at_evaluation():
    images = torch.zeros(1, 20, 20, 3, dtype=torch.uint8)
    images[0, 0, :, 0] = 255
    whole = EvaluationTransform(20, NORMALISE, torch.device("cpu"), crop="whole")
    assert (whole(images)[0, 0, 0] > whole(images)[0, 0, 1]).all()


def test_representations_of_a_u_net_take_the_images_of_a_ghost_batch_at_a_time(make_trial, monkeypatch):
    """That many are known to fit."""
    sizes = []

    def counted(module, layers, batches, **options):
        batches = list(batches)
        sizes.extend(len(batch) for batch in batches)
        return activations(module, layers, batches, **options)

    monkeypatch.setattr(representations, "activations", counted)
    trial = make_trial(protocol=PROTOCOL.model_copy(update={"budget": Budget(steps=2), "evaluations": 1}))
    kept = KeptRepresentations(probe=ProbeSpec(sets=("test",), images=20, seed=1))
    workspace = trial.workspace.model_copy(update={"representations": kept})
    train(trial.model_copy(update={"workspace": workspace}), ONE, Teller())
    assert sizes == [4, 4, 4, 2] * 2  # before training and after it
