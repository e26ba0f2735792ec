"""The predictions table: columns, metadata, order, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.trainables.toy import TRIAL_ID, toy_trial
from trainables.predictions import predictions_table, set_hash, write_predictions

FRAME = pd.DataFrame(
    {"image_id": ["b", "a"], "patient_id": ["p", "q"], "y_l": np.array([1, np.nan], np.float32), "raw_l": [1, -1]}
)


def test_logits_follow_the_frame_as_float32(tmp_path):
    table = predictions_table(FRAME, np.array([[0.25], [1e-9]]), toy_trial(), "test")
    path = write_predictions(table, tmp_path / "predictions", "test")
    assert [p.name for p in path.parent.iterdir()] == ["test.parquet"]
    read = pq.read_table(path)
    assert read["z_l"].to_pylist() == [0.25, np.float32(1e-9)]
    assert str(read.schema.field("z_l").type) == "float"
    assert read["image_id"].to_pylist() == ["b", "a"]
    assert np.isnan(read["y_l"].to_numpy()[1])
    metadata = {key.decode(): value.decode() for key, value in read.schema.metadata.items()}
    assert metadata == {
        "trial_id": TRIAL_ID,
        "task": "t",
        "kind": "binary",
        "labels": json.dumps(["l"]),
        "set": "test",
        "set_hash": set_hash(FRAME),
        "aggregation": "none",
        "test_time_augmentation": "none",
    }


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (2,)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"2 images and 1 labels"):
        predictions_table(FRAME, np.zeros(shape), toy_trial(), "test")


def test_the_set_hash_knows_members_and_not_their_order():
    assert set_hash(FRAME) == set_hash(FRAME.iloc[::-1]) != set_hash(FRAME.iloc[:1])


def test_the_set_hash_does_not_depend_on_groups_or_the_order_of_columns():
    grouped = FRAME.assign(g_sex=["F", "M"])
    assert set_hash(grouped) == set_hash(FRAME[FRAME.columns[::-1]]) == set_hash(FRAME)


@pytest.mark.parametrize("column", ["image_id", "patient_id", "y_l"])
def test_the_set_hash_knows_patients_and_truth(column):
    changed = FRAME.assign(**{column: [0, 1]})
    assert set_hash(changed) != set_hash(FRAME)


def test_patients_shared_with_training_travel_with_the_predictions(tmp_path):
    from dashboards.prediction_sets import read_predictions

    for given, expected in ((None, (None, True)), ((0, True), (0, True)), ((3, False), (3, False))):
        table = predictions_table(FRAME, np.zeros((2, 1)), toy_trial(), "test", shared_patients=given)
        read = read_predictions(write_predictions(table, tmp_path, "test"))
        assert (read.shared_patients, read.same_ids) == expected
