"""What is selected and scored on is never subsampled: the same rows whatever is trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from search_spaces.amounts import Amount, Seed
from search_spaces.names import Kind
from search_spaces.protocol import Protocol
from search_spaces.trial import ResolvedScale
from tests.trainables.made_tasks import filled_library, make_task, multilabel_table, save_manifest
from tests.trainables.toy import toy_trial
from trainables.predictions import set_hash
from trainables.subsets import EmptyCell
from trainables.task_data import LabelledSet, forget_tasks, load_task_data, prediction_frame, set_hashes

EVALUATE = {
    "test": {},
    "site_b": {"where": {"site": ["B"]}, "held_out": True},
    "abroad": {"manifest": "abroad"},
}
AMOUNTS = st.one_of(
    st.floats(0.05, 1.0),
    st.integers(1, 16).map(lambda n: {"images": n}),
    st.integers(1, 8).map(lambda n: {"patients": n}),
    st.integers(1, 2).map(lambda n: {"per_class": n}),
)
POLICIES = st.sampled_from(["ignore", "ones", "zeros", "lsr_ones", "lsr_zeros"])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Tasks ``findings`` and ``abroad``, patients of another hospital; some labels are uncertain or blank."""
    forget_tasks()
    library = filled_library(tmp_path_factory.mktemp("sets"))
    table = multilabel_table()
    for row, column, value in (
        (1, "y_opacity", -1),
        (18, "y_opacity", -1),
        (18, "y_nodule", np.nan),
        (24, "y_nodule", -1),
    ):
        table.loc[row, column] = value
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    other = multilabel_table().assign(image_id=[f"z{k:02d}" for k in range(48)])
    other["patient_id"] = "abroad_" + other["patient_id"]
    save_manifest(library, "abroad", Kind.MULTILABEL, ("opacity", "nodule"), other)
    return library


@pytest.fixture(scope="module")
def task(library):
    return make_task(library, "findings", EVALUATE)


@pytest.fixture(scope="module")
def expected(library, task):
    """Set -> its contents, where all that there is is trained on."""
    whole = load(library, task, 1.0, 0)
    return {name: contents(labelled) for name, labelled in (whole.sets | {"(val)": whole.val}).items()}


@pytest.fixture(scope="module")
def hashes(library, task):
    return set_hashes(task, library)


def load(library, task, amount, seed):
    trial = toy_trial(
        task=task,
        amount=Amount.model_validate(amount),
        seed=Seed(subset=seed, init=seed),
        scale=ResolvedScale(name="n", factory="f", input_size=8),
        protocol=Protocol(storage_size=16),
    )
    return load_task_data(trial, library)


def contents(labelled: LabelledSet) -> tuple[list[str], bytes, bytes, bytes]:
    """Ids in their order, where the images lie, their pixels, and the labels they are scored on."""
    pixels = labelled.gather(np.arange(len(labelled)))
    return (
        labelled.frame["image_id"].tolist(),
        labelled.positions.tobytes(),
        pixels.tobytes(),
        labelled.targets.tobytes(),
    )


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(amount=AMOUNTS, seed=st.integers(0, 2**31 - 1), policy=POLICIES, blank=st.sampled_from(["mask", "zero"]))
def test_no_amount_seed_or_label_policy_changes_what_is_scored(
    library, task, expected, hashes, amount, seed, policy, blank
):
    changed = task.model_copy(update={"label_policy": policy, "blank": blank})
    try:
        data = load(library, changed, amount, seed)
    except EmptyCell:
        event("fewer than one patient")
        return
    assert {name: contents(labelled) for name, labelled in (data.sets | {"(val)": data.val}).items()} == expected
    assert contents(data.all_val) == expected["(val)"]
    assert {name: set_hash(prediction_frame(labelled, changed)) for name, labelled in data.sets.items()} == hashes
    event(f"{len(data.train)} of {data.subset.pool_images} training images")


def test_the_sets_hold_all_rows_of_their_splits(library, task):
    """Of which those without any known label leave: one of validation and one of test."""
    data = load(library, task, {"patients": 3}, 7)
    table = library.load("findings").table.set_index("image_id")
    assert len(data.train) < data.subset.pool_images
    known = table[["y_opacity", "y_nodule"]].isin([0, 1]).any(axis=1)
    for name, rows in (("test", table["split"] == "test"), ("site_b", table["site"] == "B")):
        assert data.sets[name].frame["image_id"].tolist() == table.index[rows & known].tolist()
    assert data.val.frame["image_id"].tolist() == table.index[(table["split"] == "val") & known].tolist()
    assert len(data.sets["abroad"]) == 48
