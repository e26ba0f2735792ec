from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.names import Kind, Split
from trainables.splits import assign_splits, patient_strata, patients_in_two_splits, split_patients

SHARES = {Split.TRAIN: 0.7, Split.VAL: 0.1, Split.TEST: 0.2}


def classes_table(patients: list[int], classes: list[int]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(patients))],
            "patient_id": [f"p{p:03d}" for p in patients],
            "y": np.asarray(classes, dtype=np.int16),
        }
    )


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(1)
    patients = generator.integers(0, 300, 900).tolist()
    return classes_table(patients, [p % 4 if p < 280 else 3 for p in patients])


def split(table: pd.DataFrame, seed: int = 0, shares=SHARES) -> pd.Series:
    return assign_splits(table, Kind.MULTICLASS, ("a", "b", "c", "d"), shares, seed)


def test_patients_stay_together_and_shares_hold(table):
    splits = split(table)
    by_patient = splits.groupby(table["patient_id"]).agg(["nunique", "first"])
    assert by_patient["nunique"].max() == 1
    shares = by_patient["first"].value_counts(normalize=True)
    for name, share in SHARES.items():
        assert shares[name] == pytest.approx(share, abs=1 / len(by_patient))


def test_classes_are_spread_evenly(table):
    first = table.assign(split=split(table)).groupby("patient_id").first()
    shares = first.groupby("y")["split"].value_counts(normalize=True).unstack()
    for name, share in SHARES.items():
        assert shares[name].tolist() == pytest.approx([share] * 4, abs=0.03)


def test_seed_decides_and_row_order_and_global_state_do_not(table):
    expected = split(table).set_axis(table["image_id"])
    np.random.seed(5)  # noqa: NPY002 - the global state is what must not matter
    shuffled = table.sample(frac=1, random_state=3).reset_index(drop=True)
    again = split(shuffled).set_axis(shuffled["image_id"])
    pd.testing.assert_series_equal(again.sort_index(), expected.sort_index(), check_names=False)
    assert (split(table, seed=1).to_numpy() != expected.to_numpy()).any()


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    train=st.floats(0.2, 0.9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_every_split_gets_every_stratum_that_has_enough_patients(sizes, train, seed):
    patients = {f"p{s}_{i}": s for s, n in enumerate(sizes) for i in range(n)}
    strata: pd.Series[int] = pd.Series(patients).astype(int)
    shares = {Split.TRAIN: train, Split.VAL: (1 - train) / 2, Split.TEST: (1 - train) / 2}
    dealt = split_patients(strata, shares, np.random.default_rng(seed))
    assert dealt.notna().all()
    assert list(dealt.index) == list(strata.index)
    for stratum, size in enumerate(sizes):
        found = set(dealt[strata == stratum])
        if size >= 3:
            assert found == {"train", "val", "test"}
        elif size == 2:
            assert found == {"train", "test"}
        elif size == 1:
            assert found == {"train"}


def test_a_patient_belongs_to_its_rarest_label():
    table = pd.DataFrame(
        {
            "patient_id": ["p1", "p1", "p2", "p3", "p4", "p5"],
            "y_common": [1, 1, 1, 1, 0, np.nan],
            "y_rare": [0, 1, 0, 0, 0, -1],
        }
    )
    strata = patient_strata(table, Kind.MULTILABEL, ("common", "rare"))
    assert strata.to_dict() == {"p1": 1, "p2": 0, "p3": 0, "p4": -1, "p5": -1}


def test_unknown_classes_and_masks_have_no_stratum():
    table = classes_table([0, 1, 1], [-1, 0, 1])
    assert patient_strata(table, Kind.MULTICLASS, ("a", "b")).to_dict() == {"p000": -1, "p001": 0}
    assert set(patient_strata(table, Kind.SEGMENTATION, ("foreground",))) == {-1}


def test_a_split_with_no_share_gets_nothing(table):
    assert set(split(table, shares={Split.TRAIN: 0.8, Split.VAL: 0.2})) == {"train", "val"}
    assert set(split(table, shares={Split.TRAIN: 0.8, Split.VAL: 0.0, Split.TEST: 0.2})) == {"train", "test"}


def test_patients_in_two_splits_ignore_unused():
    table = pd.DataFrame({"patient_id": list("aabbcc"), "split": ["train", "test", "val", "unused", "test", "test"]})
    assert patients_in_two_splits(table) == {"a": ("test", "train")}


@st.composite
def tables(draw) -> pd.DataFrame:
    """Images of a few patients with one of three classes, a class per image, in any order."""
    patients = draw(st.lists(st.integers(0, 25), min_size=1, max_size=80))
    classes = draw(st.lists(st.integers(-1, 2), min_size=len(patients), max_size=len(patients)))
    return classes_table(patients, classes)


@given(
    table=tables(),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_image_splits_are_disjoint_by_patient_and_leave_nobody_out(table, shares, seed):
    by_split = dict(zip((Split.TRAIN, Split.VAL, Split.TEST), shares, strict=True))
    splits = assign_splits(table, Kind.MULTICLASS, ("a", "b", "c"), by_split, seed)
    assert set(splits) <= {split.value for split, share in by_split.items() if share > 0}
    sides = {name: set(table["patient_id"][splits == name]) for name in ("train", "val", "test")}
    assert sum(len(side) for side in sides.values()) == table["patient_id"].nunique()
    assert patients_in_two_splits(table.assign(split=splits)) == {}


@given(rows=st.lists(st.tuples(st.integers(0, 8), st.sampled_from([s.value for s in Split])), max_size=40))
@settings(max_examples=80, deadline=None)
def test_every_patient_in_two_splits_is_found_and_no_other(rows):
    table = pd.DataFrame({"patient_id": [f"p{p}" for p, _ in rows], "split": [s for _, s in rows]}, dtype="str")
    expected: dict[str, set[str]] = {}
    for patient, split in rows:
        if split != "unused":
            expected.setdefault(f"p{patient}", set()).add(split)
    assert patients_in_two_splits(table) == {p: tuple(sorted(s)) for p, s in expected.items() if len(s) > 1}
