from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.tasks import app
from search_spaces.home import scalecurves_home
from trainables.library import TaskLibrary

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


def test_cache_lists_and_prunes(run):
    assert "No image stores" in run("cache").output
    stores = scalecurves_home() / "stores"
    for name, days in (("old", 40), ("new", 1)):
        (stores / name).mkdir(parents=True)
        (stores / name / "images.arrow").write_bytes(bytes(2**20))
        for path in (stores / name / "images.arrow", stores / name):
            moment = path.stat().st_mtime - days * 86400
            os.utime(path, (moment, moment))
    listed = run("cache")
    assert "old" in listed.output
    assert "2.0 MiB in 2 stores" in listed.output
    pruned = run("cache", "--prune", "30")
    assert pruned.exit_code == 0
    assert "deleted" in pruned.output
    assert [p.name for p in stores.iterdir()] == ["new"]


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
