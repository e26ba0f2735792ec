from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orchestrator import known_models, source_texts
from orchestrator.sources import app
from search_spaces.home import scalecurves_home
from tests.orchestrator.light import run_light
from trainables.ladder_nets import resnet8, resnet20
from trainables.shipped_cards import shipped_cards

STUDY = """
schema: 1
name: small
axes:
  model_scale: [tiny, wide]
  pretraining_source: [random, natural, drawn, before]
  data_fraction: 1.0
  task: shapes
scales:
  tiny: {factory: "trainables.ladder_nets:resnet8", arguments: {width: 4}, input_size: 16}
  wide: {factory: "nets_of_this_study:net", input_size: 16}
sources:
  natural:
    by_scale:
      tiny: {file: "weights/${KIND}.pth", strip_prefix: "module.", drop: [linear], contents: [cifar10]}
  drawn: {transform: mean_var, of: natural}
  before: {trial: {task: shapes, seed: same}}
tasks:
  shapes: {manifest: shapes, primary: auc}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIND", "tiny")
    (tmp_path / "weights").mkdir()
    state = {f"module.{n}": t for n, t in resnet8(num_classes=10, width=4).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights" / "tiny.pth")
    nets = "from trainables.ladder_nets import resnet8\n\ndef net(num_classes):\n    return resnet8(num_classes, 6)\n"
    (tmp_path / "nets_of_this_study.py").write_text(nets)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def _run(*arguments: str, study: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments, "--study", str(study)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def test_list_names_forms_files_and_hashes(study: Path) -> None:
    code, output = _run("list", study=study)
    assert code == 0
    for expected in ("random", "tiny.pth", "present", "mean_var (reset norms) of natural", "made by a trial"):
        assert expected in output


def test_list_marks_a_missing_file(study: Path) -> None:
    (study.parent / "weights" / "tiny.pth").unlink()
    code, output = _run("list", study=study)
    assert code == 0
    assert "missing" in output


def test_show_tells_how_a_file_is_read(study: Path) -> None:
    code, output = _run("show", "natural", study=study)
    assert code == 0
    assert "strip_prefix: module." in output
    assert "contents: cifar10" in output
    assert "module.conv1.weight (4, 3, 3, 3)" in output
    assert "mean [0.485, 0.456, 0.406]" in output


@pytest.mark.parametrize("command", ["show", "check"])
def test_unknown_source_is_refused(study: Path, command: str) -> None:
    code, output = _run(command, "naturl", study=study)
    assert code == 1
    assert "unknown source 'naturl'" in output
    assert "Did you mean 'natural'?" in output


def test_check_prints_receipts_of_all_sources(study: Path) -> None:
    code, output = _run("check", study=study)
    assert code == 0
    assert "random for wide: fits" in output
    assert "natural for tiny: fits" in output
    assert "matched_tensors: 42" in output
    assert "drawn for tiny: fits" in output
    assert "transform: mean_var" in output
    assert "can be checked when it is done" in output


def test_check_of_a_file_that_does_not_fit(study: Path) -> None:
    study.write_text(STUDY.replace('strip_prefix: "module.", ', ""))
    code, output = _run("check", "natural", study=study)
    assert code == 1
    assert "natural for tiny: does not fit" in output
    assert "add it to strip_prefix" in output


def test_a_file_that_fits_and_is_not_the_published_one_is_pointed_out(study: Path) -> None:
    state = {f"module.{n}": t for n, t in resnet20(num_classes=10).state_dict().items()}
    torch.save({"state_dict": state}, study.parent / "weights" / "tiny.pth")
    scales = STUDY.replace("ladder_nets:resnet8", "ladder_nets:resnet20").replace("arguments: {width: 4}, ", "")
    files = scales.replace(
        '{file: "weights/${KIND}.pth", strip_prefix: "module.", drop: [linear], contents: [cifar10]}',
        '{catalogue: cifar10_resnet20, file: "weights/${KIND}.pth"}',
    )
    study.write_text(files)
    code, output = _run("check", "natural", study=study)
    assert code == 0
    assert "natural for tiny: fits" in output
    assert "note: the published resnet20-12fca82f.th has sha256 12fca82f0beb..., this file" in output


def test_check_goes_on_after_a_missing_file(study: Path) -> None:
    (study.parent / "weights" / "tiny.pth").unlink()
    code, output = _run("check", study=study)
    assert code == 1
    assert "tiny.pth does not exist" in output
    assert "before for tiny: fits" in output
    assert "2 of the sources do not fit" in output


def test_bad_study_is_one_message(study: Path) -> None:
    study.write_text(STUDY.replace("tasks:", "taskz:"))
    code, output = _run("list", study=study)
    assert code == 1
    assert "Did you mean 'tasks'?" in output


def test_catalogue_is_listed_and_shown(study: Path) -> None:
    code, output = _run("list", "--catalogue", study=study)
    assert code == 0
    for expected in ("moco_v2", "never released", "timm (goog_in21k) or a file", "CC BY-NC 4.0"):
        assert expected in output
    code, output = _run("show", "simclr_v2", study=study)
    assert code == 0
    assert "normalise: unit" in output
    assert "catalogue: simclr_v2, file: PATH" in output
    assert r"rename: ^net\.0\.0\. -> conv1." in output
    assert "sha256: not known" in output


def test_shipped_cards_are_listed_without_torch() -> None:
    if shipped_cards() is None:
        pytest.skip("other versions are installed than cards were counted with")
    code = "from orchestrator.sources import app\napp(['list', '--scales', '--family', 'bit'], standalone_mode=False)"
    assert {"resnetv2_50x1_bit", "25,549,352"} <= set(run_light(code))


def test_scales_are_listed_counted_once_and_shown(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (known_models, source_texts):
        monkeypatch.setattr(module, "shipped_cards", lambda: None)
    code, output = _run("list", "--scales", "--family", "cifar_resnet", study=study)
    assert code == 0
    assert "ladder_nets:resnet110" in output
    assert "1,727,312" in output
    known = scalecurves_home() / "cache" / "models.json"
    before = known.read_text()
    assert _run("list", "--scales", "--family", "cifar_resnet", study=study)[0] == 0
    assert known.read_text() == before
    code, output = _run("show", "tiny", study=study)
    assert code == 0
    assert "cut points: conv1, bn1, layer1, layer2, layer3" in output
    assert "at 16 pixels" in output
    assert _run("show", "wide", study=study)[0] == 0
    code, output = _run("show", "resnet18", study=study)
    assert "ladder: resnet" in output
    assert "11,689,512 with 1,000 outputs, 11,176,512 without" in output


def test_unknown_families_and_names_list_what_is_near(study: Path) -> None:
    code, output = _run("list", "--scales", "--family", "convnxt", study=study)
    assert (code, "Did you mean 'convnext'?" in output) == (1, True)
    code, output = _run("show", "moco_v3", study=study)
    assert code == 1
    assert "In the catalogue: moco_v" in output
    code, output = _run("show", "resnet5", study=study)
    assert "Scales: resnet50" in output


def test_partial_source_per_scale(study: Path) -> None:
    text = STUDY.replace(
        "{transform: mean_var, of: natural}", "{transform: partial, of: natural, up_to: {tiny: layer1}}"
    )
    study.write_text(text)
    code, output = _run("check", "drawn", study=study)
    assert code == 0
    assert "up_to: layer1" in output
    study.write_text(text.replace("layer1", "layer7"))
    code, output = _run("check", "drawn", study=study)
    assert code == 1
    assert "From bottom to top: conv1, bn1, layer1, layer2, layer3" in output
