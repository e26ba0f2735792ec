"""Several images of a patient or examination as one row, checked against pandas and scipy image by image."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax

from dashboards.prediction_sets import PredictionReader, read_predictions, scored_as
from dashboards.units import Units
from orchestrator.metrics import score_file
from search_spaces.exceptions import DataError


@st.composite
def images(draw):
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    patient = np.array([f"p{k}" for k in rng.integers(0, draw(st.integers(1, n)), n)])
    study = np.array([f"s{k}" for k in rng.integers(0, 3, n)])
    return patient, study, rng.normal(0, 3, (n, 3)), rng.choice([0.0, 1.0, np.nan], (n, 3))


def grouped(patient, study, values, how):
    frame = pd.DataFrame(values).groupby([patient, study] if study is not None else [patient], sort=False)
    return getattr(frame, how)().to_numpy()


@settings(max_examples=40, deadline=None)
@given(images(), st.booleans())
def test_independent_labels(drawn, by_study):
    patient, study, z, y = drawn
    keys = (patient, study) if by_study else (patient,)
    units, study = Units(*keys), study if by_study else None
    for how in ("mean", "max"):
        np.testing.assert_allclose(
            units.logits(z, how, independent=True), logit(grouped(patient, study, expit(z), how)), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(units.truth(y), grouped(patient, study, y, "max"))
    firsts = list(zip(*(key[units.first].tolist() for key in keys), strict=True))
    assert firsts == list(dict.fromkeys(zip(*(key.tolist() for key in keys), strict=True)))
    assert len(units.of_image) == len(patient)


@settings(max_examples=40, deadline=None)
@given(images())
def test_classes_share_one_probability(drawn):
    patient, _, z, y = drawn
    units, grade = Units(patient), np.nan_to_num(y[:, 0], nan=-1).astype(np.int64)
    mean = grouped(patient, None, softmax(z, axis=1), "mean")
    np.testing.assert_allclose(softmax(units.logits(z, "mean", independent=False), axis=1), mean, atol=1e-5)
    largest = grouped(patient, None, softmax(z, axis=1), "max")
    largest = largest / largest.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(units.logits(z, "max", independent=False), axis=1), largest, atol=1e-5)
    np.testing.assert_array_equal(units.truth(grade), grouped(patient, None, grade, "max")[:, 0])


def test_saturated_probabilities_keep_their_order():
    units = Units(np.array(["a", "a", "b", "b"]))
    z = np.array([[40.0], [41.0], [42.0], [43.0]])
    assert units.logits(z, "mean", independent=True)[:, 0].tolist() == pytest.approx([40.38, 42.38], abs=0.01)


def test_groups_in_which_images_disagree_are_blank():
    units = Units(np.array(["a", "b", "a", "b"]))
    assert units.values(np.array(["F", "M", "F", "F"], dtype=object)).tolist() == ["F", None]
    assert units.values(np.array([None, "M", "F", "M"], dtype=object)).tolist() == [None, "M"]


def _write(path, aggregation, with_study=True):
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(6)],
            "patient_id": ["a", "a", "b", "b", "c", "d"],
            "sex": ["F", "F", "M", "M", "M", "F"],
            "y_x": np.array([1, 0, 0, np.nan, 1, 0], np.float32),
            "z_x": np.array([2.0, -2, -1, -3, 1, 0.5], np.float32),
        }
    )
    if with_study:
        frame.insert(2, "study_id", ["1", "2", "3", "3", "4", "5"])
    metadata = {"kind": "binary", "labels": json.dumps(["x"]), "set_hash": "h", "aggregation": aggregation}
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
    pq.write_table(table, path)
    return path


def test_whoever_reads_predictions_gets_what_is_to_be_scored(tmp_path):
    by_image = read_predictions(_write(tmp_path / "test.parquet", "none"))
    assert (len(by_image.logits), by_image.images, by_image.aggregation) == (6, 6, "none")
    by_patient = read_predictions(_write(tmp_path / "test.parquet", "patient:mean"))
    assert by_patient.patient.tolist() == ["a", "b", "c", "d"]
    assert by_patient.y[:, 0].tolist() == [1, 0, 1, 0]
    assert by_patient.groups["sex"].tolist() == ["F", "M", "M", "F"]
    np.testing.assert_allclose(by_patient.logits[:, 0], [0, logit((expit(-1) + expit(-3)) / 2), 1, 0.5], atol=1e-6)
    scored = score_file(tmp_path / "test.parquet").values
    assert (scored["test/n_images"], scored["test/n_patients"], scored["test/auc"]) == (6, 4, 0.75)
    largest = score_file(_write(tmp_path / "test.parquet", "patient:max")).values
    assert largest["test/auc"] == 1.0
    by_study = read_predictions(_write(tmp_path / "test.parquet", "study:max"))
    assert by_study.y[:, 0].tolist() == [1, 0, 0, 1, 0]
    assert by_study.images == 6


def test_trials_of_one_set_share_all_but_their_logits(tmp_path):
    reader = PredictionReader()
    a, b = (reader.read(_write(tmp_path / f"{name}.parquet", "patient:mean")) for name in ("one", "two"))
    assert a.y is b.y
    assert a.patient is b.patient
    assert a.logits is not b.logits


def test_examinations_have_to_be_there(tmp_path):
    with pytest.raises(DataError, match="by examination, but lack study_id"):
        read_predictions(_write(tmp_path / "test.parquet", "study:mean", with_study=False))


@pytest.mark.parametrize("how", ["patient:mean", "patient:max", "study:mean"])
def test_validation_is_scored_as_the_set_that_its_thresholds_are_for(tmp_path, how):
    images = read_predictions(_write(tmp_path / "val.parquet", "none"))
    expected = read_predictions(_write(tmp_path / "test.parquet", how))
    found = scored_as(images, how)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.y, expected.y)
    assert found.study is not None
    assert found.study.tolist() == expected.study.tolist()
    assert scored_as(found, how) is found
    assert scored_as(images, "none") is images


def test_what_cannot_be_scored_as_another_set_says_so(tmp_path):
    lone = read_predictions(_write(tmp_path / "val.parquet", "none", with_study=False))
    with pytest.raises(DataError, match="lack study_id"):
        scored_as(lone, "study:mean")
    with pytest.raises(DataError, match="scored as patient:mean, not as study:mean"):
        scored_as(scored_as(lone, "patient:mean"), "study:mean")
