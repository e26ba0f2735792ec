"""Subsets are nested, grouped by patient, stratified, and depend on the seed alone."""

from __future__ import annotations

import hashlib
import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.amounts import Amount
from search_spaces.exceptions import UserError
from search_spaces.results import SubsetFacts
from trainables.subsets import EmptyCell, Subset, SubsetPool, draw_subset

BINARY = (("tumour",), "binary")
FINDINGS = (("opacity", "nodule", "line"), "multilabel")
CLASSES = (("mel", "nv", "bcc"), "multiclass")


def amount(raw: object) -> Amount:
    return Amount.model_validate(raw)


def make_pool(labels: tuple[str, ...], kind: str, patients: int, seed: int, masked: float = 0.0) -> pd.DataFrame:
    """Patients with one to four images; every outcome exists, the last label is rare."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    pool = pd.DataFrame(
        {"image_id": [f"i{k:04d}" for k in range(len(owner))], "patient_id": [f"p{p:03d}" for p in owner]}
    )
    share = np.linspace(0.5, 0.1, len(labels))
    if kind == "multiclass":
        y = rng.choice(len(labels), len(owner), p=share / share.sum())
        y[rng.random(len(owner)) < masked] = -1
        y[: len(labels)] = np.arange(len(labels))
        return pool.assign(y=y.astype(np.int16))
    for label, p in zip(labels, share, strict=True):
        y = (rng.random(len(owner)) < p).astype(np.float32)
        unknown = rng.random(len(owner)) < masked
        y[unknown] = rng.choice([np.nan, -1.0], int(unknown.sum()))
        y[:2] = 1, 0
        pool["y_" + label] = y
    return pool


def image_ids(pool: pd.DataFrame, subset: Subset) -> set[str]:
    return set(pool["image_id"].iloc[subset.rows])


pools = st.builds(
    lambda task, patients, seed, masked: (make_pool(*task, patients, seed, masked), *task),
    st.sampled_from([BINARY, FINDINGS, CLASSES]),
    st.integers(4, 60),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.lists(st.floats(0.15, 1.0), min_size=2, max_size=8))
def test_fractions_are_nested(task, seed, fractions):
    order = SubsetPool(*task).order(seed)
    sets = [image_ids(task[0], order.draw(amount(f))) for f in sorted(fractions)]
    assert all(small <= large for small, large in itertools.pairwise(sets))


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.data())
def test_fractions_patient_counts_and_image_counts_are_nested_in_one_another(task, seed, data):
    pool, labels, kind = task
    patients = pool["patient_id"].nunique()
    asked = [
        amount(data.draw(st.floats(0.15, 1.0))),
        amount({"patients": data.draw(st.integers(1, patients))}),
        amount({"images": data.draw(st.integers(max(4, len(pool) // 6), len(pool)))}),
    ]
    drawn = sorted((draw_subset(pool, labels, kind, a, seed) for a in asked), key=lambda s: (s.patients, len(s.rows)))
    # A forced patient of a smaller amount is a prefix patient of a larger one, or forced there too.
    assert all(image_ids(pool, a) <= image_ids(pool, b) for a, b in itertools.pairwise(drawn))


@settings(max_examples=40, deadline=None)
@given(pools, st.integers(0, 5))
def test_per_class_is_nested_and_holds_k_patients_of_each_class(task, seed):
    pool, labels, kind = task
    order = SubsetPool(*task).order(seed)
    previous: set[str] = set()
    has = [
        pool["y"] == position if kind == "multiclass" else pool["y_" + label] == value
        for position, label in enumerate(labels)
        for value in ((1,) if kind == "multiclass" else (1, 0))
    ]
    most = min(pool["patient_id"][mask].nunique() for mask in has)
    for k in range(1, most + 1):
        taken = pool.iloc[order.draw(amount({"per_class": k})).rows]
        assert previous <= set(taken["image_id"])
        previous = set(taken["image_id"])
        assert all(taken["patient_id"][mask.iloc[taken.index]].nunique() >= k for mask in has)
    with pytest.raises(UserError, match=f"per_class: {most + 1} patients asked, but only {most} have"):
        order.draw(amount({"per_class": most + 1}))


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.floats(0.15, 1.0), st.randoms(use_true_random=False))
def test_row_order_index_and_repetition_have_no_influence(task, seed, fraction, random):
    pool, labels, kind = task
    first = draw_subset(pool, labels, kind, amount(fraction), seed)
    shuffled = pool.sample(frac=1, random_state=random.randrange(2**31))
    again = draw_subset(shuffled, labels, kind, amount(fraction), seed)
    assert image_ids(pool, first) == image_ids(shuffled, again)
    assert (first.subset_hash, first.order_hash, first.positives) == (
        again.subset_hash,
        again.order_hash,
        again.positives,
    )


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.floats(0.15, 1.0))
def test_patients_are_whole_and_every_class_is_there(task, seed, fraction):
    pool, labels, kind = task
    subset = draw_subset(pool, labels, kind, amount(fraction), seed)
    inside = pool.iloc[subset.rows]
    outside = pool.drop(index=inside.index)
    assert not set(inside["patient_id"]) & set(outside["patient_id"])
    assert np.all(np.diff(subset.rows) > 0)
    for position, label in enumerate(labels):
        if kind == "multiclass":
            assert subset.positives[label] == (inside["y"] == position).sum() > 0
            assert subset.negatives[label] == ((inside["y"] >= 0) & (inside["y"] != position)).sum()
        else:
            assert subset.positives[label] == (inside["y_" + label] == 1).sum() > 0
            assert subset.negatives[label] == (inside["y_" + label] == 0).sum() > 0


@settings(max_examples=40, deadline=None)
@given(pools, st.integers(0, 20))
def test_the_whole_is_everything_at_every_seed(task, seed):
    pool, labels, kind = task
    for everything in (1.0, {"images": len(pool)}, {"patients": pool["patient_id"].nunique()}):
        subset = draw_subset(pool, labels, kind, amount(everything), seed)
        assert len(subset.rows) == len(pool) == subset.pool_images
        assert subset.forced_patients == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 10_000))
def test_every_prefix_holds_each_stratum_to_within_the_stated_bound(sizes, seed):
    """The bound of the module's rule 3, at every prefix; strata are the classes of one-image patients."""
    y = np.repeat(np.arange(len(sizes)), sizes).astype(np.int16)
    ids = [f"p{k}" for k in range(len(y))]
    pool = pd.DataFrame({"image_id": ids, "patient_id": ids, "y": y})
    order = SubsetPool(pool, [f"c{k}" for k in range(len(sizes))], "multiclass").order(seed)
    class_of = dict(zip(ids, y, strict=True))
    held = np.cumsum(np.eye(len(sizes))[[class_of[p] for p in order.patients]], axis=0)
    share = np.asarray(sizes) / len(y)
    error = np.abs(held - np.outer(np.arange(1, len(y) + 1), share))
    assert (error.max(axis=0) < 1 + (len(sizes) - 2) * share + 1e-9).all()


def test_inclusion_of_a_rare_class_is_proportional_over_seeds():
    """Systematic sampling from a random start: 4 of 100 patients give 12 patients 0.48 on average, so always 0 or 1."""
    y = np.array([1.0] * 4 + [0.0] * 96, dtype=np.float32)
    ids = [f"p{k}" for k in range(100)]
    pool = pd.DataFrame({"image_id": ids, "patient_id": ids, "y_mass": y})
    rare = {f"p{k}" for k in range(4)}
    made = SubsetPool(pool, ["mass"], "binary")
    counts = [len(rare & set(made.order(s).patients[:12])) for s in range(400)]
    assert set(counts) <= {0, 1}
    assert np.mean(counts) == pytest.approx(0.48, abs=0.1)


def test_amounts_in_images_take_the_nearest_whole_patients():
    pool = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(40)],
            "patient_id": np.repeat(["a", "b", "c", "d"], 10),
            "y_mass": np.tile([0.0, 1.0], 20).astype(np.float32),
        }
    )
    got = {f: len(draw_subset(pool, ["mass"], "binary", amount(f), 0).rows) for f in (0.13, 0.37, 0.38, 0.6, 0.63, 0.9)}
    assert got == {0.13: 10, 0.37: 10, 0.38: 20, 0.6: 20, 0.63: 30, 0.9: 40}


def test_forced_patients_are_the_first_of_their_class_and_counted():
    ids = [f"p{k:02d}" for k in range(60)]
    pool = pd.DataFrame({"image_id": ids, "patient_id": ids, "y": np.array([0] * 57 + [1] * 2 + [2], dtype=np.int16)})
    forced = []
    for seed in range(20):
        order = SubsetPool(pool, ["nv", "mel", "df"], "multiclass").order(seed)
        subset = order.draw(amount({"patients": 3}))
        first = {c: next(p for p in order.patients if p in ids[s]) for c, s in [(1, slice(57, 59)), (2, slice(59, 60))]}
        assert image_ids(pool, subset) == {*order.patients[:3], *first.values()}
        assert subset.patients == 3 + subset.forced_patients
        forced.append(subset.forced_patients)
    assert max(forced) == 2


def test_seeds_draw_different_subsets_and_the_draw_is_pinned():
    pool = make_pool(*FINDINGS, patients=50, seed=0)
    subsets = [draw_subset(pool, *FINDINGS, amount(0.3), seed) for seed in range(8)]
    assert len({s.subset_hash for s in subsets}) == 8
    assert len({s.order_hash for s in subsets}) == 8
    # The rule is part of trial identity: if these move, SUBSET_RULE has to change with them.
    assert (subsets[0].subset_hash, subsets[0].order_hash) == ("d7c30ee82823b659", "20cb5d0c848d62e7")


def test_facts_for_the_record():
    pool = make_pool(*CLASSES, patients=30, seed=1)
    subset = draw_subset(pool, *CLASSES, amount(0.5), 0)
    facts = subset.facts(val_images=9, val_patients=7, patients_known=False)
    assert isinstance(facts, SubsetFacts)
    assert (facts.images, facts.pool_images, facts.pool_patients) == (len(subset.rows), len(pool), 30)
    assert (facts.val_images, facts.val_patients, facts.patients_known) == (9, 7, False)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"images": 4001}, r"4001 images asked, but the training set holds \d+"),
        ({"patients": 31}, "31 patients asked, but the training set holds 30"),
        ({"per_class": 31}, r"per_class: 31 patients asked, but only \d+ have an image that is"),
    ],
)
def test_more_than_there_is_is_refused(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        draw_subset(make_pool(*CLASSES, patients=30, seed=1), *CLASSES, amount(raw), 0)
    assert not isinstance(caught.value, EmptyCell)


def test_less_than_one_patient_is_an_empty_cell():
    with pytest.raises(EmptyCell, match=r"0.01 of \d+ images of 30 patients is fewer than one patient"):
        draw_subset(make_pool(*CLASSES, patients=30, seed=1), *CLASSES, amount(0.01), 0)


def test_a_class_that_the_pool_lacks_is_an_empty_cell():
    pool = make_pool(*FINDINGS, patients=20, seed=0)
    pool["y_nodule"] = np.float32(1)
    pool["y_line"] = np.float32(np.nan)
    with pytest.raises(EmptyCell, match="no training image is not nodule, line, not line"):
        draw_subset(pool, *FINDINGS, amount(1.0), 0)
    with pytest.raises(EmptyCell, match="no training images"):
        draw_subset(pool.iloc[:0], *FINDINGS, amount(1.0), 0)


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_scaled_validation_is_nested_never_empty_and_holds_every_class_that_there_is(task, seed, shares):
    pool, labels, kind = task
    if kind == "multiclass":
        pool = pool.assign(y=np.where(pool["y"] == 2, -1, pool["y"]).astype(np.int16))  # a class that it lacks
    order = SubsetPool(pool, labels, kind).order(seed)
    drawn = [order.draw_share(share) for share in sorted(shares)]
    sets = [image_ids(pool, subset) for subset in drawn]
    assert all(small <= large for small, large in itertools.pairwise(sets))
    for subset, share in zip(drawn, sorted(shares), strict=True):
        inside = pool.iloc[subset.rows]
        assert subset.patients >= 1
        assert len(image_ids(pool, order.draw_share(1.0))) == len(pool)
        for column in (c for c in pool if str(c).startswith("y")):
            known = pool[column][pool[column] >= 0].dropna().unique()
            assert set(known) <= set(inside[column])
        # The prefix nearest to the share: off by at most half of the largest patient, but for forced ones.
        if not subset.forced_patients and subset.patients > 1:
            assert abs(len(inside) - share * len(pool)) <= pool["patient_id"].value_counts().max() / 2 + 1e-9


def _drawn_or_why_not(*arguments) -> tuple[Subset | None, str]:
    try:
        return draw_subset(*arguments), ""
    except UserError as error:
        return None, str(error)


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 5), st.sampled_from(["fraction", "images", "patients", "per_class"]), st.data())
def test_a_draw_has_every_class_or_says_why_there_is_none(task, seed, kind_of_amount, data):
    pool, labels, kind = task
    columns = [c for c in pool if str(c).startswith("y")]
    dropped = data.draw(st.sampled_from(columns))
    value = data.draw(st.sampled_from([0, 1]))
    pool = pool[pool[dropped] != value] if data.draw(st.booleans()) else pool
    most = {"fraction": 1.0, "images": len(pool), "patients": pool["patient_id"].nunique(), "per_class": 3}
    counts = st.integers(1, max(1, int(most[kind_of_amount])))
    raw = data.draw(st.floats(0.01, 1.0) if kind_of_amount == "fraction" else counts)
    asked = amount(raw if kind_of_amount == "fraction" else {kind_of_amount: raw})
    subset, reason = _drawn_or_why_not(pool, labels, kind, asked, seed)
    if subset is None:
        assert re.search("no training image|fewer than one patient|asked, but", reason)
        return
    inside = pool.iloc[subset.rows]
    for position, label in enumerate(labels):
        wanted = {position} if kind == "multiclass" else {0, 1}
        assert wanted <= set(inside["y" if kind == "multiclass" else f"y_{label}"])


@settings(max_examples=40, deadline=None)
@given(pools, st.integers(0, 5), st.floats(0.15, 1.0))
def test_images_are_within_half_a_patient_of_the_amount(task, seed, fraction):
    pool, labels, kind = task
    subset = draw_subset(pool, labels, kind, amount(fraction), seed)
    if subset.forced_patients:
        return
    missed = abs(len(subset.rows) - fraction * len(pool))
    # One patient at least is taken, however many images that patient has.
    assert missed <= pool["patient_id"].value_counts().max() / 2 + 1e-9 or subset.patients == 1


def test_places_rebuild_the_subset():
    pool = make_pool(*FINDINGS, patients=40, seed=3)
    order = SubsetPool(pool, *FINDINGS).order(1)
    for asked in (0.1, 0.4, {"per_class": 2}):
        subset = order.draw(amount(asked))
        assert {order.patients[place] for place in subset.places} == set(pool["patient_id"].iloc[subset.rows])


def test_hashes_do_not_depend_on_the_library_that_sorts():
    pool = make_pool(*BINARY, patients=20, seed=5)
    pool["image_id"] = [f"é{i}ß/ 図{i[::-1]}" for i in pool["image_id"]]
    subset = draw_subset(pool, *BINARY, amount(0.5), 0)
    ids = sorted(pool["image_id"].iloc[subset.rows])
    assert subset.subset_hash == hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
