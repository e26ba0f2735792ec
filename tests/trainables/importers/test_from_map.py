from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.importers.test_column_map import BASE
from trainables.importers import ImportOptions, import_map, user_map
from trainables.pixels import Colour


@pytest.fixture
def imported(tmp_path):
    """Imports ``labels.csv`` with the given text by a map that differs from ``BASE``; images are made for its rows."""

    def run(text: str, told: list[str] | None = None, options: dict[str, Any] | None = None, **changes: Any):
        lines = [line.strip() for line in text.strip().splitlines()]
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for i, line in enumerate(lines[1:]):
            file = tmp_path / line.split(",")[0]
            if file.suffix == ".png" and not file.exists():
                Image.fromarray(np.full((6, 8), i, np.uint8)).save(file)
        (tmp_path / "map.yaml").write_text(yaml.safe_dump({**BASE, **changes}, sort_keys=False))
        settings = ImportOptions(
            **{"name": "t", "split": (0.5, 0.25, 0.25), "derived": tmp_path / "d", **(options or {})}
        )
        return import_map(
            user_map(tmp_path / "map.yaml"), tmp_path, settings, (told if told is not None else []).append
        )

    return run


def test_cells_are_mapped(imported):
    manifest = imported(
        """image,label,centre,sex,age,w,part
        a.png,1,K1,2,12M,x,A
        b.png,0,K2,1,63,x,B
        c.png,1,,1,063Y,y,C""",
        site={"column": "centre", "values": {"K1": "North"}},
        sex={"column": ["gender", "sex"], "values": {1: "F", 2: "M"}},
        age="age", groups={"ward": "w", "extra": {"column": "nothing", "optional": True}},
        split={"column": "part", "values": {"A": "train", "B": "val", "C": "test"}},
    )  # fmt: skip
    table = manifest.table
    assert table["site"].fillna("?").tolist() == ["North", "K2", "?"]
    assert table["sex"].tolist() == ["M", "F", "F"]
    assert table["age_years"].tolist() == [1, 63, 63]
    assert table["split"].tolist() == ["train", "val", "test"]
    assert "g_extra" not in table
    assert manifest.importer == "map mine"


def test_absent_columns_are_said_at_once(imported):
    with pytest.raises(UserError) as error:
        imported("image,lable\na.png,1", patient="patient", site="centre", where={"view": ["PA"]})
    for name in ("'label' in labels", "'patient' in patient_id", "'centre' in site", "'view' in where"):
        assert name in str(error.value)
    assert "Did you mean 'lable'" in str(error.value)


def test_cells_that_the_map_does_not_know_are_problems_of_their_rows(imported, tmp_path):
    text = "image,label,part\n" + "\n".join(f"{i}.png,{i % 2},A" for i in range(8)) + "\n8.png,maybe,A\n9.png,1,Z\n"
    split = {"column": "part", "values": {"A": "train"}}
    with pytest.raises(UserError) as error:
        imported(text, split=split)
    assert "labels.csv line 10: column 'label' has 'maybe'; allowed: 1, 0" in str(error.value)
    assert "labels.csv line 11: column 'part' has 'Z'; allowed: A" in str(error.value)
    manifest = imported(text, split=split, options={"quarantine": tmp_path / "aside.csv"})
    assert len(manifest) == 8
    assert "labels.csv line 10" in (tmp_path / "aside.csv").read_text()


def test_joins(imported, tmp_path):
    (tmp_path / "people.csv").write_text("code,sex\np1,F\np2,M\np3,F\n")
    tables = {"images": {"csv": "labels.csv"}, "people": {"csv": "people.csv"}}
    text = "image,label,person\na.png,1,p1\nb.png,0,p2\nc.png,1,\nd.png,0,p9"
    join: dict[str, Any] = {"table": "people", "keys": {"person": "code"}}
    manifest = imported(text, tables=tables, joins=[join], sex="sex", patient="person")
    assert manifest.table["sex"].fillna("?").tolist() == ["F", "M", "?", "?"]
    told: list[str] = []
    dropped = imported(text, told, tables=tables, joins=[{**join, "unmatched": "drop"}], patient="person")
    assert len(dropped) == 2
    assert "2 of 4 rows are left out: they are not in table 'people'" in told
    assert "2 of 4 rows are left out: they are not in table 'people'" in dropped.notes
    with pytest.raises(UserError, match=r"2 rows find nothing, the first: None \(labels.csv line 4\)"):
        imported(text, tables=tables, joins=[{**join, "unmatched": "refuse"}])


def test_rows_of_a_joined_table_that_repeat(imported, tmp_path):
    (tmp_path / "people.csv").write_text("code,sex\np1,F\np1,M\np2,F\np2,F\np7,M\np7,F\np1,M\n")
    settings: dict[str, Any] = {
        "tables": {"images": {"csv": "labels.csv"}, "people": {"csv": "people.csv"}},
        "joins": [{"table": "people", "keys": {"person": "code"}}], "sex": "sex", "patient": "person",
    }  # fmt: skip
    text = "image,label,person\na.png,1,p1\nb.png,0,p2\nc.png,1,\nd.png,0,p9"
    line = r"labels.csv line 2: table 'people' has several rows for p1: people.csv line 2, people.csv line 3"
    with pytest.raises(UserError, match=rf"1 of 4 rows(.|\n)*{line}"):
        imported(text, **settings)
    kept = imported(text, options={"quarantine": tmp_path / "aside.csv"}, **settings)
    assert kept.table["image_id"].tolist() == ["b.png", "c.png", "d.png"]
    assert kept.table["sex"].fillna("?").tolist() == ["F", "?", "?"]
    assert kept.set_aside == {"several rows in a joined table": 1}
    assert "2 rows of table 'people' are left out: they repeat others" in kept.notes
    with pytest.raises(UserError, match=r"2 of 3 rows find several there, such as p1 \(people.csv line 2,"):
        imported("image,label,person\na.png,1,p1\nb.png,0,p1\nc.png,1,p2", **settings)


def test_rows_of_readers_and_lesions_are_combined(imported):
    text = """image,label,reader,note
        a.png,1,r1,x
        a.png,0,r2,y
        a.png,1,r3,
        b.png,0,r1,z
        b.png,1,r2,
        c.png,,r1,"""
    settings: dict[str, Any] = {"labels": {"flags": {"sick": "label"}}}
    majority = imported(text, combine={"by": "image", "columns": {"label": "majority"}}, **settings)
    assert majority.table["y_sick"].fillna(-9).tolist() == [1, 0, -9]  # a tie is no majority
    either = imported(text, combine={"by": "image", "columns": {"label": "any", "note": "join"}},
                      groups={"note": "note"}, **settings)  # fmt: skip
    assert either.table["y_sick"].fillna(-9).tolist() == [1, 1, -9]
    assert either.table["g_note"].fillna("?").tolist() == ["x|y", "z", "?"]
    with pytest.raises(UserError, match=r"column 'note' has 'x', 'y', 'z' \(labels.csv line 2, .*\), no number"):
        imported(text, combine={"by": "image", "columns": {"note": "any"}}, **settings)


def test_a_cell_that_cannot_be_counted_is_a_problem_of_its_image(imported, tmp_path):
    rows = [*(f"{i}.png,{i % 2},r1" for i in range(8)), "3.png,perhaps,r2", "5.png,often,r2"]
    text = "\n".join(["image,label,reader", *rows])
    settings: dict[str, Any] = {
        "combine": {"by": "image", "columns": {"label": "majority"}}, "labels": {"flags": {"sick": "label"}},
    }  # fmt: skip
    with pytest.raises(UserError, match="2 of 8 rows") as error:
        imported(text, **settings)
    for line, cell in ((10, "perhaps"), (11, "often")):
        assert f"column 'label' has '{cell}'; allowed: a number or blank (labels.csv line {line})" in str(error.value)
    kept = imported(text, options={"quarantine": tmp_path / "aside.csv"}, **settings)
    assert kept.table["image_id"].tolist() == [f"{i}.png" for i in (0, 1, 2, 4, 6, 7)]


def test_derived_columns(imported):
    manifest = imported(
        "image,code\na.png,x-17-L\nb.png,y-18-R\nc.png,z",
        derive=[
            {"column": "person", "from": "code", "pattern": r"-(\d+)-"},
            {"column": "side", "from": "code", "matches": {"-L$": "left", "-R$": "right", ".": "none"}},
            {"column": "label", "from": "side", "values": {"left": 1}, "other": "blank"},
            {"column": "name", "template": "{side[:1]}{person[-1:]}"},
        ],
        patient="person", groups={"side": "side", "name": "name"},
    )  # fmt: skip
    table = manifest.table
    assert table["patient_id"].tolist() == ["17", "18", "c.png"]  # a blank patient counts as its own
    assert table["g_side"].tolist() == ["left", "right", "none"]
    assert table["y_sick"].fillna(-9).tolist() == [1, -9, -9]
    assert table["g_name"].fillna("?").tolist() == ["l7", "r8", "?"]


def test_flags_classes_and_items(imported):
    text = "image,label,a,b\na.png,x;y,1.0,-1.0\nb.png,y,yes,\nc.png,none,0.0,0\nd.png,,0,1"
    flags = imported(
        text, kind="multilabel", labels={"flags": {"A": "a", "B": "b"}, "values": {"yes": 1}, "blank": "negative"}
    )
    assert flags.table[["y_A", "y_B"]].to_numpy().tolist() == [[1, -1], [1, 0], [0, 0], [0, 1]]
    items = imported(
        text, kind="multilabel",
        labels={"column": "label", "item": "[^;]+", "items": {"X": "x", "either": ["x", "y"]}, "none": ["none"]},
    )  # fmt: skip
    assert items.table[["y_X", "y_either"]].fillna(-9).to_numpy().tolist() == [[1, 1], [0, 1], [0, 0], [-9, -9]]
    with pytest.raises(UserError, match=r"items that no label names: y"):
        imported(
            text, kind="multilabel", labels={"column": "label", "item": "[^;]+", "items": {"X": "x"}, "none": "none"}
        )
    classes = imported(
        "image,label\na.png,2\nb.png,1\nc.png,\nd.png,0",
        kind="ordinal", labels={"column": "label", "classes": {"low": [0, 1], "high": 2}},
    )  # fmt: skip
    assert classes.kind is Kind.ORDINAL
    assert classes.table["y"].tolist() == [1, 0, -1, 0]


def test_images_that_a_table_does_not_find(imported, tmp_path):
    tables = {"images": {"csv": "labels.csv"}, "files": {"files": "*.png", "pattern": r"(?P<stem>\w+)\.png"}}
    changes: dict[str, Any] = {
        "tables": tables, "joins": [{"table": "files", "keys": {"name": "stem"}}],
        "image": {"path": "{file}", "id": "{name}"},
    }  # fmt: skip
    for name in ("a", "b", "c"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    text = "name,label\na,1\nb,0\nc,1\nz,1"
    with pytest.raises(DataError, match=r"1 of 4 rows(.|\n)*labels.csv line 5: no image is found for name z, label 1"):
        imported(text, **changes)
    kept = imported(text, options={"quarantine": tmp_path / "aside.csv"}, **changes)
    assert kept.table["image_id"].tolist() == ["a", "b", "c"]
    assert kept.set_aside == {"image missing": 1}


def test_merged_masks_with_a_part_missing(imported, tmp_path):
    for name, rows in (("l_a", 2), ("r_a", 3), ("l_b", 1)):
        values = np.zeros((6, 8), np.uint8)
        values[:rows] = 9
        Image.fromarray(values).save(tmp_path / f"{name}.gif")
    changes: dict[str, Any] = {
        "kind": "segmentation", "labels": {"names": ["lung"]},
        "derive": [{"column": "n", "from": "image", "pattern": "^(.)"}],
        "mask": {"merge": ["l_{n}.gif", "r_{n}.gif"]},
    }  # fmt: skip
    with pytest.raises(DataError, match=r"labels.csv line 3: mask of b.png: image \S+r_b.gif is missing"):
        imported("image,label\na.png,1\nb.png,0", **changes)
    manifest = imported("image,label\na.png,1", **changes)
    mask = manifest.mask(0)
    assert mask is not None
    assert mask[:, 0].tolist() == [255, 255, 255, 0, 0, 0]


def test_a_bad_cell_in_a_later_row_of_an_image_is_not_lost(imported):
    rows = [f"{i}.png,{i % 2},{'yes' if i % 2 else 'no'}" for i in range(8)]
    with pytest.raises(
        UserError,
        match=r"1 of 8 rows(.|\n)*line 4: column 'seen' has 'perhaps'; allowed: yes, no \(labels.csv line 10\)",
    ):
        imported(
            "image,label,seen\n" + "\n".join([*rows, "2.png,1,perhaps"]),
            derive=[{"column": "flag", "from": "seen", "values": {"yes": 1, "no": 0}}],
            combine={"by": "image", "columns": {"label": "any"}}, labels={"flags": {"sick": "label"}},
        )  # fmt: skip


def test_the_colour_of_the_command_line_goes_before_the_map(imported):
    text = "image,label\na.png,1\nb.png,0\nc.png,1"
    assert imported(text, colour="grey").colour is Colour.GREY
    assert imported(text, colour="grey", options={"colour": Colour.RGB}).colour == Colour.RGB


def test_image_files_that_no_row_names_are_counted_once(imported, tmp_path):
    for extra in ("deep/y.png", "z.png", ".hidden.png"):
        (tmp_path / extra).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / extra)
    text = """image,label,part
        a.png,1,A
        b.png,0,A
        c.png,1,B"""
    told: list[str] = []
    manifest = imported(text, told, where={"part": ["A"]})
    line = "2 image files of the folder are named by no row and are not part of the task"
    assert told.count(line) == 1, "c.png is named, in a row that is left out"
    assert manifest.notes.count(line) == 1
    for extra in ("deep/y.png", "z.png"):
        (tmp_path / extra).unlink()
    assert not any("named by no row" in note for note in imported(text, where={"part": ["A"]}).notes)
    unopened = imported(text, options={"unopened": True})
    assert not any("named by no row" in note for note in unopened.notes)


def test_ages_that_a_map_leaves_blank_are_listed(imported, tmp_path):
    listed = tmp_path / "list.csv"
    manifest = imported(
        """image,label,years
        a.png,1,411
        b.png,0,63
        c.png,1,x""",
        options={"quarantine": listed},
        age={"column": "years", "values": {"x": "-1"}},
    )
    assert manifest.left_blank == {"impossible age left blank": 2}
    assert [line.split(",")[:4] for line in listed.read_text().splitlines()[1:]] == [
        ["labels.csv line 2", "a.png", "a.png", "impossible age left blank"],
        ["labels.csv line 4", "c.png", "c.png", "impossible age left blank"],
    ]


def test_rows_of_other_lengths_are_problems_with_file_and_line(imported, tmp_path):
    text = "image,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(6)) + "\n\n6.png,1,0\n7.png"
    with pytest.raises(
        UserError, match=r"2 of 8 rows(.|\n)*labels.csv line 9: 3 cells(.|\n)*labels.csv line 10: 1 cells"
    ):
        imported(text)
    manifest = imported(text, options={"quarantine": tmp_path / "aside.csv"})
    assert len(manifest) == 6
    assert manifest.set_aside == {"other number of cells": 2}


def test_frames_that_are_no_numbers_are_problems_of_their_rows(imported, tmp_path):
    odd = ("x", "1.5", "-1", "")
    rows = [*(f"stack.tif,{i % 2},{i}" for i in range(8)), *(f"stack.tif,1,{cell}" for cell in odd)]
    text = "\n".join(["image,label,page,name", *(f"{row},n{i}" for i, row in enumerate(rows))])
    image = {"path": "{image}", "id": "{image}#{name}", "frame": "page"}
    with pytest.raises(UserError, match="4 of 12 rows") as error:
        imported(text, options={"unopened": True}, image=image)
    for line, cell in enumerate(odd, 10):
        shown = repr(cell) if cell else "a blank"
        assert f"labels.csv line {line}: column 'page' has {shown}; allowed: whole numbers from 0" in str(error.value)
    kept = imported(text, options={"unopened": True, "quarantine": tmp_path / "aside.csv"}, image=image)
    assert kept.table["frame"].tolist() == list(range(8))
