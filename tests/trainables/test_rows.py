from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from search_spaces.exceptions import UserError
from trainables.rows import age_band, group_column, group_names, where_mask


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": list("abcd"),
            "path": list("abcd"),
            "patient_id": list("ppqr"),
            "site": ["DU", "HT", "DU", None],
            "split": ["train", "train", "val", "test"],
            "y": np.array([0, 1, -1, 1], dtype=np.int16),
            "sex": ["F", "M", None, "F"],
            "age_years": np.array([39.9, 40, np.nan, 91], dtype=np.float32),
            "g_localization": ["face", "neck", "back", None],
            "g_grade": ["1", "2", "1", "2"],
        }
    )


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0-39"), (39.99, "0-39"), (40, "40-59"), (60, "60-79"), (79.9, "60-79"), (80, "80+"), (120, "80+"),
     (None, "unknown"), (float("nan"), "unknown"), (-1, "unknown")],
)  # fmt: skip
def test_age_bands(age, band):
    assert age_band(age) == band


def test_groups(table):
    assert group_names(table) == ("sex", "age_band", "site", "localization", "grade")
    assert group_column(table, "sex").tolist() == ["F", "M", "unknown", "F"]
    assert group_column(table, "age_band").tolist() == ["0-39", "40-59", "unknown", "80+"]
    assert group_column(table, "localization").tolist() == ["face", "neck", "back", "unknown"]
    assert group_column(table, "g_localization").name == "g_localization"
    assert group_column(table.drop(columns=["sex", "age_years"]), "sex").tolist() == ["unknown"] * 4
    assert group_column(table.drop(columns=["sex", "age_years"]), "age_band").tolist() == ["unknown"] * 4
    with pytest.raises(UserError, match="Did you mean 'localization'"):
        group_column(table, "localisation")
    with pytest.raises(UserError, match="unknown group 'patient_id'"):
        group_column(table, "patient_id")


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, "abcd"),
        ({"site": "DU"}, "ac"),
        ({"site": ["DU", "HT"]}, "abc"),
        ({"site": "unknown"}, "d"),
        ({"localization": ["face", "neck"]}, "ab"),
        ({"g_localization": "back"}, "c"),
        ({"grade": 1}, "ac"),
        ({"grade": [1.0, "2"]}, "abcd"),
        ({"age_band": "80+"}, "d"),
        ({"split": "train", "sex": "M"}, "b"),
        ({"patient_id": ["p", "r"]}, "abd"),
        ({"label": "sick"}, "bd"),
        ({"class": ["well", "sick"]}, "abd"),
        ({"y": "unknown"}, "c"),
    ],
)
def test_where(table, where, rows):
    assert "".join(table["image_id"][where_mask(table, where, ("well", "sick"))]) == rows


def test_where_on_labels_of_their_own_column():
    table = pd.DataFrame({"y_tumour": np.array([0, 1, np.nan, -1], dtype=np.float32)})
    assert where_mask(table, {"tumour": 1}).tolist() == [False, True, False, False]
    assert where_mask(table, {"y_tumour": [0, "unknown"]}).tolist() == [True, False, True, False]
    assert where_mask(table, {"tumour": -1}).tolist() == [False, False, False, True]


def test_where_true_and_false():
    table = pd.DataFrame({"g_flag": ["true", "false", "true"]})
    assert where_mask(table, {"flag": True}).tolist() == [True, False, True]


def test_a_bare_word_that_became_a_truth_value_is_to_be_quoted():
    table = pd.DataFrame({"g_smoker": ["yes", "no"]})
    with pytest.raises(UserError, match=r"unknown value 'true' in where\.smoker\. Known: no, yes\. YAML .* quotes\."):
        where_mask(table, yaml.safe_load("{smoker: yes}"))
    assert where_mask(table, yaml.safe_load("{smoker: 'yes'}")).tolist() == [True, False]
    with pytest.raises(UserError, match=r"Known: no, yes\.$"):
        where_mask(table, {"smoker": "never"})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"sitee": "DU"}, "unknown column 'sitee' in where. Did you mean 'site'"),
        ({"site": "DUU"}, "unknown value 'DUU' in where.site. Did you mean 'DU'"),
        ({"site": ["DU", "XX"]}, "unknown value 'XX'"),
        ({"label": "sik"}, "Did you mean 'sick'"),
        ({"site": []}, "where.site is an empty list"),
        ({"path": "a"}, "unknown column 'path'"),
    ],
)
def test_where_refuses(table, where, message):
    with pytest.raises(UserError, match=message):
        where_mask(table, where, ("well", "sick"))
