"""Fills in the manifests of ``cluster/manifests/base`` for one study. Those files are the template: whole and valid."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from cluster.study_files import STUDY_FILE, StudyFiles
from cluster.workers import Workers

Manifest = dict[str, Any]

DATA = "/data"
"""Where every pod sees the shared volume."""
STUDY_FOLDER = "/etc/scalecurves/study"
MLFLOW = "http://mlflow:5000"
"""The server of the manifests, from pods of the same namespace."""
IMAGE, NAMESPACE = "scalecurves:latest", "scalecurves"
"""Image and namespace that stand in the template."""
ACCELERATOR_LABEL = "nvidia.com/gpu.product"
"""Set on nodes by NVIDIA's GPU feature discovery, which its GPU operator brings."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_STUDY = "study-demo"
_MOST_NAME = 47
"""Characters of a RayJob's name: KubeRay makes longer names of it (validation.go, MaxRayJobNameLength)."""
_ARTIFACTS = "--artifacts-destination="
_RECORD_PARTS = ("mlflow.yaml", "postgres.yaml")
_RECORD_POLICIES = ("mlflow", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a study runs and keeps its results.

    Attributes:
        namespace: Of all objects.
        image: Of all pods but the database's.
        storage: Weights and spool: a path below DATA, or a URI.
        tracking_uri: Of an MLflow server elsewhere; MLFLOW and its database are part of the manifests if not given.
        artifacts: URI where MLFLOW keeps artifacts; a volume of its own if not given.
        storage_class: Of the shared volume; the cluster's default if not given.
        queue: Kueue's LocalQueue; none if not given.
        pull_secret: Secret with which nodes fetch the image; none if not given.
        study_only: Leave away what the namespace has from another study: volume, MLflow, policies, toolbox.
    """

    namespace: str
    image: str
    storage: str
    tracking_uri: str | None = None
    artifacts: str | None = None
    storage_class: str | None = None
    queue: str | None = None
    pull_secret: str | None = None
    study_only: bool = False


def template() -> dict[str, list[Manifest]]:
    """File name -> objects of the base, in the order in which they are applied."""
    folder = resources.files("cluster") / "manifests" / "base"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return {name: list(yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))) for name in names}


def fill(study: StudyFiles, workers: Workers, place: Placement) -> dict[str, list[Manifest]]:
    """The manifests of one study: file name -> objects.

    Args:
        study: What of it travels.
        workers: Its worker pods.
        place: Where it runs.
    """
    name = object_name(study.name)
    values = {IMAGE: place.image, _STUDY: name, f"{_STUDY}-environment": f"{name}-environment"}
    if place.tracking_uri:
        values[MLFLOW] = place.tracking_uri
    files = {file: [_replaced(made, values) for made in objects] for file, objects in _parts(place).items()}
    _fill_study(files["study.yaml"], study, workers, place)
    if place.storage_class and "data.yaml" in files:
        files["data.yaml"][0]["spec"]["storageClassName"] = place.storage_class
    if place.artifacts and "mlflow.yaml" in files:
        files["mlflow.yaml"] = _with_artifacts(files["mlflow.yaml"], place.artifacts)
    for made in (made for objects in files.values() for made in objects):
        made["metadata"]["namespace"] = place.namespace
        if place.pull_secret:
            _add_pull_secret(made, place.image, place.pull_secret)
    return files


def object_name(study: str) -> str:
    """The name of a study's objects: ``study-`` and the study's name as Kubernetes allows it, at most 47 characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    name = f"study-{slug}"
    if len(name) <= _MOST_NAME:
        return name
    return f"{name[: _MOST_NAME - 9].rstrip('-')}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"


def entrypoint(study: StudyFiles, place: Placement) -> str:
    """The job's command. Two shells read it, the submitter's and Ray's, so its words must need no quotes."""
    text = study.name if study.preset else f"{STUDY_FOLDER}/{STUDY_FILE}"
    words = ["python", "-m", "orchestrator.sweep", "run", text, "--address", "auto", "--yes"]
    words += ["--storage", place.storage, "--tracking-uri", place.tracking_uri or MLFLOW]
    return " ".join([*words, "--out", f"{DATA}/reports/{study.name}"])


def _parts(place: Placement) -> dict[str, list[Manifest]]:
    files = template()
    if place.study_only:
        return {"study.yaml": files["study.yaml"]}
    if place.tracking_uri:
        files = {name: objects for name, objects in files.items() if name not in _RECORD_PARTS}
        files["network.yaml"] = [o for o in files["network.yaml"] if o["metadata"]["name"] not in _RECORD_POLICIES]
    return files


def _replaced(value: Any, values: dict[str, str]) -> Any:
    """A copy in which every text that is a key of ``values`` as a whole is replaced."""
    if isinstance(value, dict):
        return {key: _replaced(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, values) for inner in value]
    return values.get(value, value) if isinstance(value, str) else value


def _add_pull_secret(value: Any, image: str, secret: str) -> None:
    """To every pod of this image inside a value."""
    if isinstance(value, dict):
        if any(container.get("image") == image for container in value.get("containers", [])):
            value["imagePullSecrets"] = [{"name": secret}]
        for inner in value.values():
            _add_pull_secret(inner, image, secret)
    elif isinstance(value, list):
        for inner in value:
            _add_pull_secret(inner, image, secret)


def _fill_study(objects: list[Manifest], study: StudyFiles, workers: Workers, place: Placement) -> None:
    environment, job = objects
    environment["data"] |= study.variables
    spec = job["spec"]
    spec["entrypoint"] = entrypoint(study, place)
    _size(spec["rayClusterSpec"], workers)
    if place.queue:
        job["metadata"]["labels"][QUEUE_LABEL] = place.queue
    if study.files:
        name = f"{job['metadata']['name']}-files"
        labels = copy.deepcopy(environment["metadata"]["labels"])
        metadata = {"name": name, "labels": labels}
        objects.insert(1, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": study.files})
        for template_ in _ray_pods(spec["rayClusterSpec"]):
            _mount(template_["spec"], name, sorted(study.files))


def _ray_pods(spec: Manifest) -> Iterator[Manifest]:
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]


def _mount(pod: Manifest, config_map: str, names: list[str]) -> None:
    # File by file: in a mounted folder they are links into one whose name differs from pod to pod, and it is the
    # resolved folder that workers get as the place of the study's modules.
    mounts = [
        {"name": "study", "mountPath": f"{STUDY_FOLDER}/{name}", "subPath": name, "readOnly": True} for name in names
    ]
    pod["containers"][0]["volumeMounts"] += mounts
    pod["volumes"].append({"name": "study", "configMap": {"name": config_map}})


def _size(spec: Manifest, workers: Workers) -> None:
    if not workers.autoscaling:
        del spec["autoscalerOptions"]
    spec["enableInTreeAutoscaling"] = workers.autoscaling
    [group] = spec["workerGroupSpecs"]
    group |= {"replicas": workers.least, "minReplicas": workers.least, "maxReplicas": workers.most}
    pod = group["template"]["spec"]
    amounts: dict[str, Any] = {"cpu": str(workers.cpus), "memory": f"{workers.memory_gib}Gi"}
    if workers.gpus:
        amounts["nvidia.com/gpu"] = workers.gpus
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if workers.accelerator:
        pod["nodeSelector"] = {ACCELERATOR_LABEL: workers.accelerator}
    pod["containers"][0]["resources"] = {"requests": dict(amounts), "limits": dict(amounts)}
    [memory] = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shared-mem"]
    memory["sizeLimit"] = f"{workers.shared_memory_gib}Gi"


def _with_artifacts(objects: list[Manifest], uri: str) -> list[Manifest]:
    """The server without its volume."""
    kept = [o for o in objects if o["kind"] != "PersistentVolumeClaim"]
    [pod] = [o["spec"]["template"]["spec"] for o in kept if o["kind"] == "Deployment"]
    [container] = pod["containers"]
    container["args"] = [f"{_ARTIFACTS}{uri}" if a.startswith(_ARTIFACTS) else a for a in container["args"]]
    del container["volumeMounts"], pod["volumes"]
    return kept
