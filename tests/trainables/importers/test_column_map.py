from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.exceptions import UserError
from trainables.importers.catalogue import shipped_map, shipped_names, user_map, variants

ABOUT = {"licence": "none", "obtained": "nowhere", "needs": "labels.csv"}
BASE: dict[str, Any] = {
    "schema": 1,
    "name": "mine",
    "title": "My set",
    "about": ABOUT,
    "kind": "binary",
    "tables": {"images": {"csv": "labels.csv"}},
    "image": {"path": "{image}"},
    "labels": {"column": "label", "positive": {"sick": ["1"]}, "negative": ["0"]},
}


def written(tmp_path, **changes: Any):
    file = tmp_path / "map.yaml"
    file.write_text(yaml.safe_dump({**BASE, **changes}, sort_keys=False))
    return file


def test_a_minimal_map(tmp_path):
    column_map = user_map(written(tmp_path))
    assert column_map.tables["images"].csv[0].file == ("labels.csv",)
    assert column_map.expected.flat() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"kinds": "binary"}, "Did you mean 'kind'"),
        ({"image": None}, "a map needs tables and image"),
        ({"tables": {"a": {"csv": "x.csv", "files": "*.png"}}}, "either csv or files"),
        ({"tables": {"a": {"files": "*.png", "pattern": "("}}}, "no regular expression"),
        ({"tables": {"a": {"csv": "x.csv", "pattern": "x"}}}, "belong to files"),
        ({"joins": [{"table": "other", "keys": ["id"]}]}, "there is no table 'other'"),
        ({"derive": [{"column": "a", "from": "b"}]}, "needs one of pattern, values, matches and template"),
        ({"derive": [{"column": "a", "pattern": "(b)"}]}, "needs 'from'"),
        ({"derive": [{"column": "a", "from": "b", "pattern": "b"}]}, "exactly one group"),
        ({"labels": {"column": "label"}}, "need flags, or column with positive and negative"),
        ({"labels": {"flags": ["a", "b"]}}, "a binary data set has one label"),
        ({"kind": "segmentation", "labels": {"names": ["lung"]}}, "the map a mask"),
        ({"kind": "multilabel"}, "column with item and items"),
        ({"mask": {"path": "a", "merge": ["b"]}}, "one of path, merge and run_lengths"),
        ({"combine": {"by": "image", "columns": {"x": "mean"}}}, "'any', 'majority' or 'join'"),
        ({"expected": {"images": -1}}, "greater than 0"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        user_map(written(tmp_path, **changes))
    assert "map.yaml" in str(error.value)


def test_every_mistake_is_said_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        user_map(written(tmp_path, name="Not A Name", title=None, kind="volume"))
    assert all(key in str(error.value) for key in ("name", "title", "kind"))


def test_files_that_are_no_maps(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        user_map(tmp_path / "none.yaml")
    mistakes = {"[1": "no YAML", "": "no mapping", "a: 1\na: 2": "given twice", "variants: 3": "variants"}
    mistakes["variants: {pa: , ap: {}, pb: 3}"] = "variants.pa, variants.pb is no mapping of keys"
    for text, message in mistakes.items():
        (tmp_path / "m.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            user_map(tmp_path / "m.yaml")


def test_words_that_yaml_takes_for_truth_values_stay_words(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text(
        yaml.safe_dump(BASE) + "variants:\n  words:\n    kind: multiclass\n    labels:\n"
        "      column: label\n      classes: {no: [no, off], yes: [yes, 1], true: [true]}\n"
    )
    classes = user_map(file, "words").labels.classes
    assert classes == {"no": ("no", "off"), "yes": ("yes", "1"), "true": ("true",)}


def test_variants_change_whole_keys(tmp_path):
    file = written(tmp_path, variants={"all": {"title": "All", "kind": "multilabel", "labels": {"flags": ["a", "b"]}}})
    assert user_map(file).kind == "binary"
    changed = user_map(file, "all")
    assert (changed.title, changed.labels.column) == ("All", None)
    with pytest.raises(UserError, match=r"unknown variant 'al'.*Did you mean 'all'"):
        user_map(file, "al")


def test_shipped_maps_are_valid_with_all_their_variants():
    for name in shipped_names():
        column_map = shipped_map(name)
        assert column_map.name == name
        for variant, title in variants(name).items():
            assert title
            assert shipped_map(name, variant).name == name
    with pytest.raises(UserError, match="Did you mean 'chexpert'"):
        shipped_map("chexprt")


def test_the_example_of_the_docs_is_a_map(tmp_path):
    text = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text()
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("schema"))
    (tmp_path / "map.yaml").write_text(example)
    column_map = user_map(tmp_path / "map.yaml")
    assert column_map.expected.flat()["label.effusion"] == 1500
    assert list(column_map.labels.flags) == ["effusion", "pneumothorax"]
    assert column_map.labels.values == {"yes": 1, "no": 0, "maybe": -1}
    assert user_map(tmp_path / "map.yaml", "effusion").kind == "binary"
