"""The command that writes manifests: what it refuses, what of a study travels, what it writes where."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from cluster import render
from cluster.fill import STUDY_FOLDER, object_name
from search_spaces.files import load_study
from tests.cluster.kube import dangling, pods, validate
from tests.conftest import ROOT
from tests.orchestrator.small_study import raw_study

WORKERS = ("--workers", "1:1")


def invoke(study: str, *options: str) -> Result:
    app = typer.Typer()
    app.command()(render.main)
    return CliRunner().invoke(app, ["--study", study, *options])


def refused(study: str, *options: str) -> str:
    ran = invoke(study, *options)
    assert ran.exit_code == 1, ran.output
    assert ran.stdout == ""
    return " ".join(ran.stderr.split())


def objects(study: str, *options: str) -> list[Any]:
    ran = invoke(study, *WORKERS, *options)
    assert ran.exit_code == 0, ran.output
    return list(yaml.safe_load_all(ran.stdout))


def write(folder: Path, **changes: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(raw_study(**changes)))
    return str(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "4"], "--workers takes MIN:MAX"),
        ([*WORKERS, "--namespace", "My_Space"], "--namespace 'My_Space' is not small letters"),
        ([*WORKERS, "--image", "https://x y"], "--image"),
        (["--workers", "1:4", "--queue", "q"], "give --workers 4:4"),
        ([*WORKERS, "--storage", "/tmp/here"], "must lie below /data"),
        ([*WORKERS, "--storage", "s3://b/f?endpoint_override=http://m:9000&scheme=http"], "AWS_ENDPOINT_URL"),
        ([*WORKERS, "--tracking-uri", "http://ann:secret@mlflow:5000"], "holds credentials"),
        ([*WORKERS, "--tracking-uri", "sqlite:////data/mlflow.db"], "needs an MLflow server"),
        ([*WORKERS, "--tracking-uri", "http://m:1", "--artifacts", "s3://b"], "--tracking-uri leaves it away"),
        ([*WORKERS, "--artifacts", "/data/artifacts"], "takes a URI"),
        ([*WORKERS, "--gpus-per-worker", "1", "--accelerator", "A 100"], "--accelerator 'A 100'"),
    ],
)
def test_what_kubernetes_or_a_shell_would_stumble_over_is_refused(options: list[str], says: str) -> None:
    said = refused("demo", *options)
    assert says in said
    assert "secret@" not in said


def test_a_study_file_travels_as_it_was_written(tmp_path: Path) -> None:
    made = objects(write(tmp_path), "--namespace", "lab", "--image", "registry.example/sc:2")
    for one in made:
        validate(one)
        assert one["metadata"]["namespace"] == "lab"
    assert dangling(made) == []
    [files] = [o for o in made if o["metadata"]["name"] == "study-small-files"]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "study.yaml").write_text(files["data"]["study.yaml"])
    assert load_study(str(tmp_path / "there" / "study.yaml")).study == load_study(str(tmp_path / "mine.yaml")).study
    [job] = [o["spec"] for o in made if o["kind"] == "RayJob"]
    words = shlex.split(job["entrypoint"])
    assert words[words.index("run") + 1] == f"{STUDY_FOLDER}/study.yaml"
    images = {c["image"] for pod in pods(made) for c in pod["spec"]["containers"]}
    assert images == {"registry.example/sc:2", "postgres:17-bookworm"}
    mounts = [m for pod in pods([{**o} for o in made if o["kind"] == "RayJob"]) for m in _study_mounts(pod)]
    # Whole folders of a ConfigMap are mounted through a link whose target has another name in each pod.
    assert mounts == [(f"{STUDY_FOLDER}/study.yaml", "study.yaml")] * 2


def _study_mounts(pod: Any) -> list[tuple[str, str]]:
    mounts = pod["spec"]["containers"][0].get("volumeMounts", [])
    return [(m["mountPath"], m["subPath"]) for m in mounts if m["name"] == "study"]


def test_modules_of_factories_travel_with_what_they_import(tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text("import torch\nfrom blocks import Block\n")
    (tmp_path / "blocks.py").write_text("class Block: ...\n")
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    scales = {"narrow": {"factory": "mynets:net", "input_size": 16, "ladder": "cifar"}}
    [files] = [o for o in objects(write(tmp_path, scales=scales)) if o["metadata"]["name"] == "study-small-files"]
    assert sorted(files["data"]) == ["blocks.py", "mynets.py", "study.yaml"]
    assert files["data"]["blocks.py"] == "class Block: ...\n"


def test_modules_that_cannot_travel_are_refused(tmp_path: Path) -> None:
    scales = {"narrow": {"factory": "mynets.small:net", "input_size": 16, "ladder": "cifar"}}
    (tmp_path / "mynets").mkdir()
    assert "need the package mynets" in refused(write(tmp_path, scales=scales), *WORKERS)
    (tmp_path / "mynets").rmdir()
    (tmp_path / "mynets.py").write_text("def net(:\n")
    assert "is no Python" in refused(write(tmp_path, scales=scales), *WORKERS)
    (tmp_path / "mynets.py").write_text("x = '" + "x" * 1_000_000 + "'\n")
    assert "Kubernetes takes 1000000" in refused(write(tmp_path, scales=scales), *WORKERS)


def test_weights_are_named_by_absolute_path_or_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_file(file: str) -> str:
        axes = raw_study()["axes"] | {"pretraining_source": ["random", "ours"]}
        sources = {"ours": {"by_scale": {"narrow": {"file": file, "drop": ["fc"]}}}}
        return write(tmp_path, axes=axes, sources=sources)

    assert "weights/ours.pth. Put them on the shared volume" in refused(with_file("weights/ours.pth"), *WORKERS)
    assert objects(with_file("/data/weights/ours.pth"))
    monkeypatch.delenv("WEIGHTS", raising=False)
    assert "environment variable WEIGHTS is not set; pods get the values" in refused(
        with_file("${WEIGHTS}/ours.pth"), *WORKERS
    )
    monkeypatch.setenv("WEIGHTS", "/data/weights")
    made = objects(with_file("${WEIGHTS}/ours.pth"))
    [environment] = [o["data"] for o in made if o["metadata"]["name"] == "study-small-environment"]
    assert environment["WEIGHTS"] == "/data/weights"


@pytest.mark.parametrize(
    ("study", "name"), [("demo", "study-demo"), ("Skin_and.Brain", "study-skin-and-brain"), ("a_", "study-a")]
)
def test_names_are_those_that_kubernetes_allows(study: str, name: str) -> None:
    assert object_name(study) == name


def test_long_names_stay_apart() -> None:
    names = {object_name("x" * 90 + end) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) <= 47


def test_a_folder_is_a_kustomization_of_the_same_objects(tmp_path: Path) -> None:
    ran = invoke("demo", *WORKERS, "--namespace", "lab", "--out", str(tmp_path / "made"))
    assert (ran.exit_code, ran.stdout) == (0, ""), ran.output
    assert "kubectl apply -k" in ran.stderr
    head = yaml.safe_load((tmp_path / "made" / "kustomization.yaml").read_text())
    assert head["namespace"] == "lab"
    written = [o for name in head["resources"] for o in yaml.safe_load_all((tmp_path / "made" / name).read_text())]
    assert written == objects("demo", "--namespace", "lab")


def test_only_pods_of_the_image_need_the_registrys_secret() -> None:
    made = pods(objects("demo", "--pull-secret", "registry"))
    named = {pod["spec"]["containers"][0]["image"]: pod["spec"].get("imagePullSecrets") for pod in made}
    assert named == {"scalecurves:latest": [{"name": "registry"}], "postgres:17-bookworm": None}


def test_a_second_study_adds_only_itself() -> None:
    made = objects("demo", "--study-only")
    assert [o["kind"] for o in made] == ["ConfigMap", "RayJob"]
    assert dangling([*objects("demo"), *made]) == []


def test_the_command_needs_neither_ray_nor_torch() -> None:
    code = "import sys; import cluster.render; print({'ray', 'torch', 'mlflow'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
    asked = [sys.executable, "-m", "cluster.render", "--study", "demo"]
    ran = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--workers" in ran.stderr
