"""How people write amounts, seeds, states and numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ingest_values import (
    metric_name,
    parse_amount,
    parse_count,
    parse_seed,
    parse_status,
    parse_value,
)
from search_spaces.names import FailureClass, State


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("10%", "0.1"),
        ("0.1", "0.1"),
        (0.1, "0.1"),
        ("full", "1"),
        (" Full ", "1"),
        (1, "1"),
        ("100 %", "1"),
        ("0.5%", "0.005"),
        ("images=5000", "images=5000"),
        ("per_class = 10", "per_class=10"),
    ],
)
def test_amounts(written, label):
    assert parse_amount(written).label == label


@pytest.mark.parametrize("written", ["100", "0", "-0.1", "", "150%", "half", "nan", "images=0", "images=x"])
def test_what_is_no_amount_is_refused(written):
    with pytest.raises(ValueError, match=r"data_fraction|images"):
        parse_amount(written)


def test_all_forms_of_an_amount_are_named():
    with pytest.raises(ValueError, match=r"not one of 0\.1, 10%, full, images=N, patients=N, per_class=N"):
        parse_amount("per-class=10")


@settings(max_examples=30)
@given(st.floats(min_value=0.001, max_value=1, exclude_min=True))
def test_a_percentage_is_the_same_amount_as_its_share(share):
    assert parse_amount(f"{100 * share:.6g}%").value == pytest.approx(share, rel=1e-5)


def test_seeds():
    assert parse_seed("3").label == parse_seed(3.0).label == "3"
    assert parse_seed("s3i0").label == "s3i0"
    for wrong in ("", "-1", "1.5", "run1", "inf", "nan"):
        with pytest.raises(ValueError, match="seed"):
            parse_seed(wrong)


def test_states():
    assert parse_status(None) == parse_status("Finished") == (State.COMPLETE, None)
    assert parse_status("diverged") == (State.FAILED, FailureClass.DIVERGENCE)
    assert parse_status("failed") == (State.FAILED, None)
    assert parse_status("RUNNING")[0] is State.RUNNING
    with pytest.raises(ValueError, match="write one of finished"):
        parse_status("perhaps")


@pytest.mark.parametrize("written", ["", "nan", "NaN", None, float("nan"), "n/a"])
def test_a_missing_value_is_undefined_and_never_zero(written):
    assert math.isnan(parse_value(written))


@pytest.mark.parametrize("written", ["inf", "-inf", "1e300", "-1e301", 1.797e308, "1.7976931348623157e308"])
def test_what_stands_for_infinity_is_no_value(written):
    with pytest.raises(ValueError, match="infinite"):
        parse_value(written)


def test_numbers_that_are_none():
    with pytest.raises(ValueError, match="decimals need a point"):
        parse_value("0,85")
    with pytest.raises(ValueError, match=r"n_images '1\.5' is no whole number"):
        parse_count("n_images", "1.5")
    assert parse_count("n_images", "") is None
    assert parse_count("gpu_seconds", "1.5", whole=False) == 1.5


def test_metrics_under_their_many_names():
    assert metric_name("AUROC") == metric_name("roc-auc") == "auc"
    assert metric_name("mean AUC") == "auc_macro"
    assert metric_name("AUC.Mel") == "auc.Mel"
    assert metric_name("F1 score") == "F1 score"
