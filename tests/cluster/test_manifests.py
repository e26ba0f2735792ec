"""The manifests against the schemas of Kubernetes, KubeRay and Kueue, against one another, and against the code."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

from cluster import drain, render
from cluster.fill import template
from tests.cluster.kube import MANIFESTS, Manifest, composed, dangling, pods, validate, walk
from tests.conftest import ROOT

OPTIONS = {
    "demo": ["--workers", "1:4"],
    "gpus": ["--workers", "2:8", "--gpus-per-worker", "4", "--accelerator", "NVIDIA-H100-80GB-HBM3"],
    "fixed": ["--workers", "3:3", "--queue", "medical", "--cpus-per-worker", "8", "--memory-per-worker", "64"],
    "bucket": ["--workers", "1:2", "--storage", "s3://bucket/scalecurves", "--artifacts", "s3://bucket/mlflow"],
    "elsewhere": [
        "--workers",
        "1:1",
        "--tracking-uri",
        "https://mlflow.example",
        "--storage-class",
        "nfs",
        "--pull-secret",
        "registry",
    ],
}


def rendered(*options: str) -> list[Manifest]:
    """What the command prints."""
    app = typer.Typer()
    app.command()(render.main)
    ran = CliRunner().invoke(app, ["--study", "demo", *options])
    assert ran.exit_code == 0, ran.output
    return list(yaml.safe_load_all(ran.stdout))


def by_name(objects: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(o["kind"], o["metadata"]["name"]): o for o in objects}


def job_of(objects: list[Manifest]) -> Any:
    [job] = [o for o in objects if o["kind"] == "RayJob"]
    return job["spec"]


def check(objects: list[Manifest]) -> None:
    for made in objects:
        validate(made)
    assert dangling(objects) == []


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rendered_manifests_are_valid_and_name_nothing_that_is_absent(options: list[str]) -> None:
    check(rendered(*options))


@pytest.mark.parametrize("folder", ["base", "overlays/gpu", "overlays/kueue", "overlays/laptop-kind"])
def test_composed_manifests_are_valid_and_name_nothing_that_is_absent(folder: str) -> None:
    check(composed(MANIFESTS / folder))


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("base", ["--workers", "1:4"]),
        ("overlays/gpu", ["--workers", "1:4", "--gpus-per-worker", "1", "--cpus-per-worker", "4"]),
        ("overlays/kueue", ["--workers", "2:2", "--queue", "scalecurves"]),
    ],
)
def test_kustomize_and_render_say_the_same(folder: str, options: list[str]) -> None:
    made = {k: o for k, o in by_name(composed(MANIFESTS / folder)).items() if "kueue" not in o["apiVersion"]}
    assert made == by_name(rendered(*options))


def test_the_template_is_what_the_demo_gets() -> None:
    """The same without kubectl: nothing of the template is changed for the demo study but the namespace."""
    expected = [copy.deepcopy(o) for objects in template().values() for o in objects]
    for made in expected:
        made["metadata"]["namespace"] = "scalecurves"
    assert rendered("--workers", "1:4") == expected


def _set(*path: Any, value: Any) -> Callable[[Manifest], None]:
    def change(spec: Manifest) -> None:
        *way, last = path
        for step in way:
            spec = spec[step]
        spec[last] = value

    return change


HEAD = ("rayClusterSpec", "headGroupSpec", "template", "spec")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("RayJob", _set("shutdownAfterJobFinish", value=True)),
        ("RayJob", _set("rayClusterSpec", "authOptions", "mode", value="password")),
        ("RayJob", _set("rayClusterSpec", "workerGroupSpecs", 0, "minReplicas", value="1")),
        ("RayJob", _set(*HEAD, "containers", 0, "volumeMount", value=[])),
        ("RayJob", _set(*HEAD, "securityContext", "runAsUser", value="ray")),
        ("Deployment", _set("template", "spec", "containers", 0, "imagePullPolice", value="Always")),
        ("Deployment", _set("replicas", value="one")),
        ("Service", _set("ports", value=[{"name": "http"}])),
        ("NetworkPolicy", _set("ingress", value=[{"form": []}])),
        ("PersistentVolumeClaim", _set("resources", "storage", value="5Gi")),
    ],
)
def test_a_broken_manifest_is_refused(kind: str, change: Callable[[Manifest], None]) -> None:
    broken = next(o for o in rendered("--workers", "1:4") if o["kind"] == kind)
    validate(broken)
    change(broken["spec"])
    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


@pytest.mark.parametrize(
    ("kind", "name", "change", "says"),
    [
        ("Service", "mlflow", _set("selector", value={"app": "mlflow"}), "selects no pod"),
        ("Service", "mlflow", _set("ports", value=[{"port": 5001, "targetPort": "http"}]), "no Service mlflow:5000"),
        ("Service", "mlflow-postgres", _set("ports", 0, "targetPort", value="sql"), "no container port sql"),
        ("StatefulSet", "mlflow-postgres", _set("serviceName", value="database"), "no Service database"),
        ("RayJob", "study-demo", _set("entrypoint", value="x --tracking-uri http://mlfow:5000"), "no Service mlfow"),
        (
            "RayJob",
            "study-demo",
            _set(*HEAD, "volumes", 0, "persistentVolumeClaim", value={"claimName": "d"}),
            "claim d",
        ),
        ("RayJob", "study-demo", _set(*HEAD, "volumes", value=[]), "no volume data"),
        (
            "RayJob",
            "study-demo",
            _set(*HEAD, "containers", 0, "envFrom", 0, "configMapRef", "name", value="e"),
            "no Conf",
        ),
        ("NetworkPolicy", "mlflow", _set("podSelector", "matchLabels", value={"a": "b"}), "guards no pod"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(kind: str, name: str, change: Any, says: str) -> None:
    objects = rendered("--workers", "1:4")
    assert dangling(objects) == []
    change(by_name(objects)[kind, name]["spec"])
    assert any(says in problem for problem in dangling(objects)), dangling(objects)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_job_is_a_command_of_the_sweep(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator import sweep
    from search_spaces.exceptions import UserError

    asked: list[Any] = []

    def planned(*arguments: Any) -> None:
        asked.extend(arguments)
        raise UserError("far enough")

    monkeypatch.setattr(sweep, "sound_plan_of", planned)
    entrypoint = job_of(rendered(*options))["entrypoint"]
    python, flag, module, *words = shlex.split(entrypoint)
    assert (python, flag, module) == ("python", "-m", "orchestrator.sweep")
    assert shlex.join([python, flag, module, *words]) == entrypoint, "two shells read it: no word may need quotes"
    ran = CliRunner().invoke(sweep.app, words)
    assert (ran.exit_code, "far enough" in ran.output) == (1, True), ran.output
    study, shared = asked
    assert study == "demo"
    assert (shared.address, shared.yes) == ("auto", True)
    assert shared.storage.startswith(("/data/", "s3://"))
    assert shared.tracking_uri in ("http://mlflow:5000", "https://mlflow.example")


def test_hooks_are_commands_of_this_package_and_end_before_the_pod() -> None:
    app = typer.Typer()
    app.command()(drain.main)
    command = typer.main.get_command(app)
    hooks = [pod["spec"] for pod in pods(rendered("--workers", "1:4")) if "lifecycle" in pod["spec"]["containers"][0]]
    assert len(hooks) == 2
    for spec in hooks:
        python, flag, module, *words = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (python, flag, module) == ("python", "-m", "cluster.drain")
        given = command.make_context("drain", words).params
        assert given["seconds"] < spec["terminationGracePeriodSeconds"]
        assert given["role"] == spec["containers"][0]["name"].removeprefix("ray-")
    environment = by_name(rendered("--workers", "1:4"))["ConfigMap", "study-demo-environment"]["data"]
    assert float(environment["RAY_JOB_STOP_WAIT_TIME_S"]) < given["seconds"]


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow itself, on import
def test_the_servers_options_are_those_of_mlflow() -> None:
    from mlflow.cli import cli

    [container] = by_name(rendered("--workers", "1:4"))["Deployment", "mlflow"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["command"] == ["python", "-m", "mlflow", "server"]
    given = cli.commands["server"].make_context("server", list(container["args"])).params
    assert (given["host"], given["port"], given["workers"]) == ("0.0.0.0", 5000, "2")
    [mount] = container["volumeMounts"]
    assert given["artifacts_destination"] == mount["mountPath"]


def test_pods_meet_the_restricted_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted)."""
    made = pods(rendered("--workers", "1:4"))
    assert len(made) == 6
    for pod in made:
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_what_the_operator_asks_of_a_job() -> None:
    """KubeRay 1.7, ray-operator/controllers/ray/utils/validation.go."""
    spec = job_of(rendered("--workers", "1:4"))
    assert spec["shutdownAfterJobFinishes"] is True  # else Kueue cannot suspend it
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["restartPolicy"] for group in groups} == {"Never"}  # autoscaler v2
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["cpu"]  # what Ray tells its scheduler


def test_no_secret_is_part_of_the_manifests() -> None:
    for path in Path(MANIFESTS).rglob("*.yaml"):
        for made in yaml.safe_load_all(path.read_text()):
            assert made["kind"] != "Secret"
            assert "secretGenerator" not in made
    assert all(value.get("kind") != "Secret" for value in walk(rendered("--workers", "1:4")) if isinstance(value, dict))
