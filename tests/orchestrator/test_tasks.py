from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.tasks import app
from search_spaces.home import scalecurves_home
from tests.trainables.importers.releases import RELEASES
from trainables.library import TaskLibrary
from trainables.store import open_store

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "timm", "ray", "mlflow", "sklearn", "matplotlib", "plotly")


@pytest.fixture
def run():
    def call(*arguments: object):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


@pytest.fixture
def table(tmp_path) -> Path:
    """120 images of 60 patients, two sites, half of the images sick."""
    generator = np.random.default_rng(0)
    lines = ["image,label,patient_id,sex,place"]
    for i in range(120):
        Image.fromarray(generator.integers(0, 256, (6, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{('well', 'sick')[i % 2]},p{i // 2},{'FM'[i // 2 % 2]},{'AB'[i // 60]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    file: Path = tmp_path / "labels.csv"
    return file


def load(name: str):
    return TaskLibrary(scalecurves_home()).load(name)


def test_import_show_list_check(run, table):
    done = run("import", "csv", table, "--name", "lungs", "--site-column", "place", "--positive", "sick")
    assert done.exit_code == 0, done.output
    assert "image: column 'image' (detected" in done.output
    assert "python -m orchestrator.tasks check lungs" in done.output
    shown = run("show", "lungs")
    assert shown.exit_code == 0
    assert "binary, 120 images" in shown.output
    assert "60 patients" in shown.output
    assert "site: A 60, B 60" in shown.output
    assert "42 (50.0%)" in shown.output  # 42 patients train, each with one sick and one well image
    assert "lungs" in run("list").output
    checked = run("check", "lungs")
    assert checked.exit_code == 0, checked.output
    assert "0 errors" in checked.output


def test_import_warns_of_what_a_study_would_fail_at(run, table):
    split = table.read_text().replace("place\n", "place,split\n", 1)
    lines = [f"{line},{'train' if i < 80 else 'test'}" for i, line in enumerate(split.splitlines()[1:])]
    lines = [line.replace("sick", "well") if i >= 80 and i != 81 else line for i, line in enumerate(lines)]
    table.write_text("\n".join([split.splitlines()[0], *lines]))
    done = run("import", "csv", table, "--name", "lungs", "--positive", "sick", "--split", "1,0,0")
    assert done.exit_code == 0, done.output
    warnings = ("no images in split val", "label 'sick' has only 1 positive patient in test")
    checked = run("check", "lungs")
    for warning in warnings:
        assert f"warning: {warning}" in done.output
        assert warning in checked.output


def test_all_options_reach_the_manifest(run, table):
    text = table.read_text().splitlines()
    lines = [text[0] + ",age_y,exam,part,m,edema,mass", *(f"{line},63,e1,train,0.png,1,0" for line in text[1:])]
    (table.parent / "more.csv").write_text("\n".join(lines))
    done = run(
        "import", "csv", table.parent / "more.csv", "--name", "all", "--image-column", "image", "--label-columns",
        "edema, mass", "--patient-column", "patient_id", "--grouping", "smear", "--study-column", "exam",
        "--site-column", "place", "--split-column", "none", "--sex-column", "sex", "--age-column", "age_y",
        "--group-columns", "part,label", "--mask-column", "m", "--image-root", table.parent, "--split", "0.5,0.2,0.3",
        "--split-seed", "4", "--blank-labels", "negative", "--kind", "multilabel",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "'label' is a name with its own meaning" in done.output
    done = run(
        "import", "csv", table.parent / "more.csv", "--name", "all", "--label-columns", "edema,mass", "--grouping",
        "smear", "--study-column", "exam", "--site-column", "place", "--age-column", "age_y", "--group-columns", "part",
        "--mask-column", "m", "--split", "0.5,0.2,0.3", "--split-seed", "4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    manifest = load("all")
    assert manifest.labels == ("edema", "mass")
    assert manifest.grouping == "smear"
    assert manifest.table["g_part"].unique().tolist() == ["train"]
    assert manifest.table["age_years"].unique().tolist() == [63]
    assert manifest.table["study_id"].unique().tolist() == ["e1"]
    patients = manifest.table.groupby("split")["patient_id"].nunique()
    assert patients.to_dict() == {"train": 30, "val": 12, "test": 18}


def test_folder_and_npz(run, tmp_path):
    for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / "set" / name)
    assert run("import", "folder", tmp_path / "set", "--name", "f", "--positive", "a").exit_code == 0
    assert load("f").labels == ("a",)
    np.savez(tmp_path / "s.npz", train_images=np.zeros((9, 4, 4), np.uint8), train_labels=np.arange(9) % 3)
    assert run("import", "npz", tmp_path / "s.npz", "--name", "n", "--classes", "x,y,z").exit_code == 0
    assert load("n").labels == ("x", "y", "z")


@pytest.mark.parametrize(
    ("layout", "flags"),
    [
        ("folder", ("--patient-column", "pid")),
        ("folder", ("--image-root", "elsewhere", "--split-column", "fold")),
        ("folder", ("--blank-labels", "negative")),
        ("npz", ("--mask-column", "m")),
        ("npz", ("--patient-pattern", "(a)", "--window", "40,400")),
        ("medmnist", ("--study-column", "exam")),
        ("cifar10", ("--bit-depth", "12")),
    ],
)
def test_options_that_would_change_nothing_are_refused(run, tmp_path, layout, flags):
    done = run("import", layout, tmp_path, "--name", "x", *flags)
    assert done.exit_code == 1
    assert f"{', '.join(flags[::2])} do not apply to {layout}" in " ".join(done.output.split())


def test_what_blanks_mean_is_said_elsewhere_for_data_sets_with_a_column_map(run, tmp_path):
    ways = {"chexpert": "--variant blank_negative", "vindr_cxr": "labels.blank: negative in a column map of your own"}
    for name, way in ways.items():
        done = run("import", name, tmp_path, "--name", "x", "--blank-labels", "negative")
        assert done.exit_code == 1
        said = " ".join(done.output.split())
        assert f"--blank-labels do not apply to {name}" in said
        assert f"{way}, or in training alone blank: zero" in said


def test_options_that_count_for_a_folder_are_taken(run, tmp_path):
    for i in range(12):
        file = tmp_path / "set" / "ab"[i % 2] / f"p{i // 2}_{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(file)
    done = run(
        "import", "folder", tmp_path / "set", "--name", "f", "--kind", "binary", "--classes", "b,a", "--positive", "a",
        "--label-name", "sick", "--patient-pattern", r"(p\d)_", "--grouping", "smear", "--split", "0.5,0.25,0.25",
        "--split-seed", "3", "--split-column", "none", "--colour", "grey", "--window", "40,400", "--bit-depth", "12",
        "--all",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    manifest = load("f")
    assert (manifest.labels, manifest.grouping, manifest.window) == (("sick",), "smear", (40, 400))
    assert manifest.table["patient_id"].nunique() == 6


def test_a_second_import_needs_overwrite(run, table):
    first = ("import", "csv", table, "--name", "lungs")
    assert run(*first).exit_code == 0
    assert run(*first).exit_code == 0  # the same content again is no change
    refused = run(*first, "--split-seed", "3")
    assert refused.exit_code == 1
    assert "--overwrite replaces it" in refused.output
    key = load("lungs").hash_key
    assert run(*first, "--split-seed", "3", "--overwrite").exit_code == 0
    assert load("lungs").hash_key == key


def test_drop_duplicates(run, table):
    (table.parent / "1.png").write_bytes((table.parent / "0.png").read_bytes())
    assert run("import", "csv", table, "--name", "lungs", "--drop-duplicates").exit_code == 0
    assert (load("lungs").table["split"] == "unused").sum() == 1


def test_check_fails_with_every_problem(run, table):
    assert run("import", "csv", table, "--name", "lungs").exit_code == 0
    (table.parent / "5.png").write_text("no image")
    (table.parent / "9.png").unlink()
    checked = run("check", "lungs")
    assert checked.exit_code == 1
    assert "5.png cannot be read" in checked.output
    assert "9.png is missing" in checked.output
    assert "2 errors" in checked.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("import", "csv", "{table}", "--name", "x", "--label-column", "lable"), 1, "Did you mean 'label'"),
        (("import", "csv", "nowhere.csv", "--name", "x"), 1, "nowhere.csv does not exist"),
        (("import", "csv", "{table}", "--name", "a b"), 1, "task name 'a b'"),
        (("import", "csv", "{table}", "--name", "x", "--split", "1,2"), 1, "three shares expected"),
        (("import", "csv", "{table}", "--name", "x", "--kind", "regression"), 2, "regression"),
        (("import", "dicom", "{table}", "--name", "x"), 2, "dicom"),
        (("import", "chexprt", "{table}", "--name", "x"), 2, "chexpert"),
        (("import", "csv", "{table}", "{table}", "--name", "x"), 1, "needs one path, got 2"),
        (("import", "map", "{table}", "--name", "x"), 1, "needs the column map and the data set's folder"),
        (("import", "map", "nowhere.yaml", ".", "--name", "x"), 1, "column map nowhere.yaml does not exist"),
        (("import", "csv", "{table}", "--name", "x", "--variant", "five"), 1, "--variant is of known data sets"),
        (("import", "chexpert", ".", "--name", "x", "--variant", "six"), 1, "unknown variant 'six'"),
        (("import", "chexpert", ".", "--name", "x", "--label-column", "l"), 1, "--label-column do not apply"),
        (("import", "csv", "{table}", "--name", "x", "--window", "wide"), 1, "centre,width expected"),
        (("import", "csv", "{table}", "--name", "x", "--window", "40,0"), 1, "width of at least 1"),
        (("import", "csv", "{table}", "--name", "x", "--image-root", "nonsense://b"), 1, "nonsense://b"),
        (("import", "csv", "{table}"), 2, "--name"),
        (("show", "nothing"), 1, "unknown task 'nothing'"),
        (("check", "nothing"), 1, "python -m orchestrator.tasks import"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_mistakes_give_one_message_and_their_exit_code(run, table, arguments, code, message):
    done = run(*(a.format(table=table) for a in arguments))
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output


def test_unwritable_home(run, table, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCALECURVES_HOME", str(tmp_path / "file"))
    done = run("import", "csv", table, "--name", "x")
    assert done.exit_code == 1
    assert "set SCALECURVES_HOME to a writable folder" in done.output


def test_a_known_data_set_is_imported_by_name(run, tmp_path):
    (tmp_path / "train_images").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train_images" / f"{i}.png")
    rows = "\n".join(f"{i},{i % 5}" for i in range(20))
    (tmp_path / "train.csv").write_text(f"id_code,diagnosis\n{rows}\n")
    done = run("import", "aptos2019", tmp_path, "--name", "eyes", "--variant", "grades")
    assert done.exit_code == 0, done.output
    assert "note: the labels of the official test set are not published" in done.output
    assert load("eyes").labels == ("no", "mild", "moderate", "severe", "proliferative")
    (tmp_path / "mine.yaml").write_text(
        "schema: 1\nname: mine\ntitle: My eyes\nabout: {licence: none, obtained: here, needs: train.csv}\n"
        "kind: binary\n"
        "tables: {grades: {csv: train.csv}}\nimage: {path: 'train_images/{id_code}.png'}\n"
        "labels: {column: diagnosis, positive: {bad: [3, 4]}, negative: [0, 1, 2]}\n"
        "expected: {images: 200, splits: {test: 4}}\n"
    )
    done = run("import", "map", tmp_path / "mine.yaml", tmp_path, "--name", "mine")
    assert done.exit_code == 0, done.output
    assert load("mine").labels == ("bad",)
    assert "a partial copy: images 20 of 200" in run("check", "mine").output


def test_available_data_sets_are_listed_with_all_that_is_needed(run):
    shown = run("list", "--available")
    assert shown.exit_code == 0
    flat = " ".join(shown.output.split())
    for text in (
        "chexpert CheXpert", "train_val_list.txt", "https://drive.grand-challenge.org/", "licence CC BY 4.0",
        "112120 images, 30805 patients, 86524 train, 25596 test", "five_frontal:", "import DATA_SET PATH --name NAME",
        "RetinaMNIST, grades of diabetic retinopathy (ordinal, 1600 images, 1080 train, 120 val, 400 test)",
        "frontal: CheXpert, frontal views only (191229 images, 202 test)",
    ):  # fmt: skip
        assert text in flat, text


def test_a_list_says_how_to_see_what_can_be_imported_by_name(run, table):
    hint = "data sets can be imported by name: python -m orchestrator.tasks list --available"
    empty = run("list").output
    assert hint in empty
    assert any(line.split()[1:3] == ["chexpert", "│"] and "223648" in line for line in empty.splitlines()), empty
    run("import", "csv", table, "--name", "lungs")
    listed = run("list").output
    assert hint in listed
    assert "CheXpert" not in listed  # the tasks are what was asked for


def test_medmnist_is_imported_by_the_name_of_its_file(run, tmp_path):
    arrays: dict[str, Any] = {
        f"{split}_images": np.zeros((10, 4, 4, 3), np.uint8) for split in ("train", "val", "test")
    }
    arrays |= {f"{split}_labels": np.arange(10)[:, None] % 5 for split in ("train", "val", "test")}
    np.savez(tmp_path / "retinamnist_64.npz", **arrays)
    done = run("import", "medmnist", tmp_path / "retinamnist_64.npz", "--name", "eyes")
    assert done.exit_code == 0, done.output
    assert load("eyes").kind == "ordinal"
    assert "train 10 of 1080, val 10 of 120, test 10 of 400" in " ".join(run("check", "eyes").output.split())


def test_all_problems_are_named_when_asked(run, table):
    for i in range(110):
        (table.parent / f"{i}.png").unlink()
    first = run("import", "csv", table, "--name", "lungs")
    assert first.exit_code == 1
    assert first.output.count(" is missing") == 20
    assert "... and 90 more (--all shows them)" in first.output
    everything = run("import", "csv", table, "--name", "lungs", "--all")
    assert everything.exit_code == 1
    assert everything.output.count(" is missing") == 110
    assert "--all" not in everything.output
    assert run("import", "csv", table, "--name", "lungs", "--unopened").exit_code == 0
    assert "more problems (--all shows them)" in run("check", "lungs").output
    checked = run("check", "lungs", "--all").output
    assert checked.count(" is missing") == 110
    assert "more problems" not in checked


def test_rows_are_set_aside_on_import_and_by_a_check(run, table, tmp_path):
    (table.parent / "5.png").write_text("no image")
    refused = run("import", "csv", table, "--name", "lungs")
    assert refused.exit_code == 1
    assert "line 7: image" in refused.output
    done = run("import", "csv", table, "--name", "lungs", "--quarantine", tmp_path / "q" / "aside.csv")
    assert done.exit_code == 0, done.output
    assert "1 of 120 rows are set aside (1 image unreadable)" in " ".join(done.output.split())
    (table.parent / "9.png").unlink()
    checked = run("check", "lungs", "--quarantine", tmp_path / "more.csv")
    assert checked.exit_code == 0, checked.output
    assert "118 rows stay" in checked.output
    assert "1 image unreadable, 1 image missing" in checked.output
    assert "9.png is missing" in (tmp_path / "more.csv").read_text()
    assert load("lungs").set_aside == {"image unreadable": 1, "image missing": 1}
    assert len(load("lungs")) == 118


def test_everything_that_is_wrong_with_rows_is_said_at_once_and_set_aside_when_told(run, table, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "10000")
    folder = table.parent
    Image.new("L", (101, 100)).save(folder / "bomb.png")
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no image")
    Image.effect_noise((90, 90), 50).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])
    deep = "/".join(["d" * 200] * 4) + "/f.png"
    (folder / deep).parent.mkdir(parents=True)
    for name in ("\u60a3\u8005 \u2116 1.png", deep):
        Image.effect_noise((8, 6), 50).save(folder / name)
    wrong = ("bomb.png", "empty.png", "text.jpg", "gone.png", "x" * 300 + ".png")
    with table.open("a", encoding="utf-8") as file:
        for name in ("\u60a3\u8005 \u2116 1.png", deep, "cut.jpg", *wrong, "5.png", "6.png"):
            file.write(f"{name},sick,p99,F,A\n")
    refused = run("import", "csv", table, "--name", "lungs")
    assert refused.exit_code == 1
    assert "10 of 130 rows cannot be used (5 image unreadable, 4 image id repeated, 1 image missing)" in refused.output
    for line in (7, 8, *range(124, 132)):
        assert f"line {line}: " in refused.output
    assert not (scalecurves_home() / "tasks" / "lungs" / "manifest.parquet").exists()
    done = run("import", "csv", table, "--name", "lungs", "--quarantine", tmp_path / "q.csv")
    assert done.exit_code == 0, done.output
    listed = (tmp_path / "q.csv").read_text(encoding="utf-8").splitlines()
    assert len(listed) == 11
    assert sum(line.startswith("line 124,cut.jpg,cut.jpg,image unreadable") for line in listed) == 1
    assert len(load("lungs")) == 120
    assert {deep, "\u60a3\u8005 \u2116 1.png"} <= set(load("lungs").table["path"])
    assert run("check", "lungs").output.count("unreadable") == 1  # among the facts: rows set aside


def test_a_patient_on_both_sides_of_a_released_split_has_a_way_out(run, tmp_path):
    pytest.importorskip("pydicom")
    root = tmp_path / "cbis"
    RELEASES["cbis_ddsm"](root)
    calc = root / "calc_case_description_test_set.csv"
    calc.write_text(calc.read_text().replace("P_00111,3", "P_00001,3"))
    done = run("import", "cbis_ddsm", root, "--name", "cbis")
    assert done.exit_code == 0, done.output
    assert "--split-column none splits by patient" in " ".join(done.output.split())
    checked = run("check", "cbis")
    assert "1 patients have images in two splits: P_00001" in " ".join(checked.output.split())
    done = run("import", "cbis_ddsm", root, "--name", "cbis", "--split-column", "none", "--overwrite")
    assert done.exit_code == 0, done.output
    assert load("cbis").table.groupby("patient_id")["split"].nunique().max() == 1
    assert "split.test" not in load("cbis").expected
    assert "have images in two splits" not in " ".join(run("check", "cbis").output.split())
    refused = run("import", "cbis_ddsm", root, "--name", "cbis", "--split-column", "part")
    assert "--split-column do not apply to cbis_ddsm" in refused.output


def test_a_check_names_where_ages_were_left_blank(run, table):
    text = table.read_text().splitlines()
    ages = ["age", *("-4" if i in (3, 7) else "50" for i in range(120))]
    table.write_text("\n".join(f"{line},{age}" for line, age in zip(text, ages, strict=True)))
    assert "left blank (lines 5, 9)" in run("import", "csv", table, "--name", "lungs").output.replace("\n", " ")
    checked = run("check", "lungs").output.replace("\u2502", "").replace("\u2503", "")
    assert "left blank (lines 5, 9)" in " ".join(checked.split())


def test_quarantine_overwrites_nothing_but_an_earlier_list(run, table, tmp_path):
    (table.parent / "5.png").write_text("no image")
    before = table.read_text()
    other = tmp_path / "notes.csv"
    other.write_text("where,who\nhere,me\n")
    for file, said in (
        (table, "is the table that is read"),
        (other, "no list of rows set aside"),
        (tmp_path, "no list"),
    ):
        refused = run("import", "csv", table, "--name", "lungs", "--quarantine", file)
        assert refused.exit_code == 1
        assert said in " ".join(refused.output.split())
        assert "detected" not in refused.output
    aside = tmp_path / "aside.csv"
    aside.touch()
    for _ in range(2):
        assert run("import", "csv", table, "--name", "lungs", "--quarantine", aside).exit_code == 0
    refused = run("check", "lungs", "--quarantine", other)
    assert refused.exit_code == 1
    assert "no list of rows set aside" in " ".join(refused.output.split())
    assert table.read_text() == before
    assert other.read_text() == "where,who\nhere,me\n"
    assert run("import", "csv", aside, "--name", "x", "--quarantine", aside).exit_code == 1
    assert len(aside.read_text().splitlines()) == 2


def test_a_check_keeps_what_the_import_listed(run, table, tmp_path):
    (table.parent / "5.png").write_text("no image")
    aside = tmp_path / "aside.csv"
    assert run("import", "csv", table, "--name", "lungs", "--quarantine", aside).exit_code == 0
    imported = aside.read_text()
    assert run("check", "lungs", "--quarantine", aside).exit_code == 0
    assert aside.read_text() == imported
    (table.parent / "9.png").unlink()
    assert run("check", "lungs", "--quarantine", aside).exit_code == 0
    assert aside.read_text().startswith(imported)
    assert "row 8,9.png,9.png,image missing" in aside.read_text()


@pytest.fixture
def stores(run, table):
    """Two stores of one task, the smaller used 40 days ago, and what is left of an unfinished one."""
    assert run("import", "csv", table, "--name", "x").exit_code == 0
    library = TaskLibrary(scalecurves_home())
    small, large = (open_store(library, library.load("x"), side).path for side in (8, 16))
    moment = time.time() - 40 * 86400
    os.utime(small / "store.json", (moment, moment))
    unfinished = small.with_name(f"{small.name.replace('-8-', '-9-')}.building")
    unfinished.mkdir()
    return small, large, unfinished


def test_cache_lists_and_prunes(run, stores):
    _, large, unfinished = stores
    listed = run("cache", "--verify")
    assert listed.exit_code == 0
    assert listed.output.count("whole") == 2
    assert "unfinished" in listed.output
    assert "in 3 stores" in listed.output
    pruned = run("cache", "--prune", "30")
    assert pruned.exit_code == 0
    assert pruned.output.count("deleted") == 1
    assert {p for p in large.parent.iterdir() if p.is_dir()} == {large, unfinished}


def test_cache_keeps_a_limit_by_deleting_what_was_used_longest_ago(run, stores):
    small, large, _ = stores
    size = sum(file.stat().st_size for file in large.iterdir())
    assert "GB" in run("cache", "--limit", "lots").output
    limited = run("cache", "--limit", f"{size}B")
    assert limited.exit_code == 0, limited.output
    assert large.exists()
    assert not small.exists()


@pytest.mark.filterwarnings("ignore:flock not supported")  # filelock, which then locks by a file's existence
def test_cache_says_where_nobody_can_tell_what_is_in_use_and_deletes_when_told(run, stores, monkeypatch):
    def no_locks(descriptor, kind):
        raise OSError(errno.ENOSYS, "function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for asked in (["--prune", "0"], ["--limit", "0"]):
        kept = run("cache", *asked)
        assert kept.exit_code == 0
        assert kept.output.count("not known whether in use: no file locks (--without-locks)") == 2
    deleted = run("cache", "--prune", "0", "--without-locks")
    assert deleted.output.count("deleted") == 2
    assert "No image stores" in run("cache").output


def test_a_damaged_store_is_found_by_cache_and_check(run, stores):
    _, large, _ = stores
    shard = next(large.glob("*.arrow"))
    status = shard.stat()
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    verified = run("cache", "--verify")
    assert verified.exit_code == 1
    assert "damaged" in verified.output
    checked = run("check", "x")
    assert checked.exit_code == 1
    assert "is damaged" in " ".join(checked.output.split())


def test_nothing_is_cached_at_first(run):
    assert "No image stores" in run("cache").output


def test_the_command_line_loads_nothing_heavy():
    code = f"import sys, orchestrator.tasks; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_can_be_imported_without_its_images(run, table, tmp_path):
    for image in tmp_path.glob("*.png"):
        image.unlink()
    assert run("import", "csv", table, "--name", "later").exit_code == 1
    done = run("import", "csv", table, "--name", "later", "--unopened")
    assert done.exit_code == 0, done.output
    assert "imported without a look at the images" in done.output
    assert "width" not in load("later").table
    checked = run("check", "later")
    assert checked.exit_code == 1
    assert "0.png is missing" in checked.output


def test_a_contact_sheet_is_made_on_request(run, table, tmp_path):
    run("import", "csv", table, "--name", "lungs")
    sheet = tmp_path / "sheet.png"
    shown = run("show", "lungs", "--contact-sheet", sheet)
    assert shown.exit_code == 0, shown.output
    counts = load("lungs").table.groupby(["split", *load("lungs").label_columns]).size()
    assert f"{counts.clip(upper=8).sum()} images in" in shown.output
    with Image.open(sheet) as image:
        assert image.size[0] > 8 * 96
    refused = run("show", "lungs", "--contact-sheet", tmp_path / "sheet.txt")
    assert refused.exit_code == 1
    assert "has to end in .png" in refused.output
