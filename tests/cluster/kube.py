"""What an API server would say of a manifest, and whether the things that manifests name exist."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT, data_root

Manifest = dict[str, Any]

MANIFESTS = ROOT / "cluster" / "manifests"
KUBERNETES = "1.32"
"""Release whose schemas are used: the oldest that the tested kubernetes-validate and a kept cluster share."""
MADE_BY_HAND = {"mlflow-postgres": {"password"}}
"""Secrets that docs/cluster.md says how to make -> their keys."""
OPERATOR = "kuberay-operator"
_CRDS = {
    "RayJob": "ray.io_rayjobs.yaml",
    "ClusterQueue": "kueue.x-k8s.io_clusterqueues.yaml",
    "LocalQueue": "kueue.x-k8s.io_localqueues.yaml",
    "ResourceFlavor": "kueue.x-k8s.io_resourceflavors.yaml",
}
_ADDRESS = re.compile(r"(?:://|@)([a-z][a-z0-9-]*):(\d+)")


def composed(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder; skips where kubectl is absent."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl not found: overlays cannot be composed")
    ran = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def validate(made: Manifest) -> None:
    """As an API server with strict field validation would.

    Raises:
        jsonschema.ValidationError: A field is unknown, missing or of another type.
    """
    if made["kind"] not in _CRDS:
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
        return
    folder = data_root() / "schemas"
    if not folder.is_dir():
        pytest.skip(f"schemas of custom resources not found at {folder} (set SCALECURVES_DATA)")
    validator = _validator(str(folder / _CRDS[made["kind"]]), made["apiVersion"].rpartition("/")[2])
    validator.validate(made)


@functools.cache
def _validator(path: str, version: str) -> jsonschema.Draft202012Validator:
    definition = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    versions = {v["name"]: v for v in definition["spec"]["versions"] if v["served"]}
    schema = _strict(versions[version]["schema"]["openAPIV3Schema"])
    # The API server checks metadata itself and says so by a schema without fields.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["properties"]["kind"] = {"const": definition["spec"]["names"]["kind"]}
    return jsonschema.Draft202012Validator(schema)


def _strict(schema: Any) -> Any:
    """A structural schema as JSON schema, in which fields that would be pruned are errors."""
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(inner) for key, inner in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_ = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not open_:
        made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def walk(value: Any) -> Iterator[Any]:
    """Every value inside a value, itself included."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from walk(part)


def pods(objects: Sequence[Manifest]) -> list[Manifest]:
    """Pod templates of all objects; volume claims of a StatefulSet count among the volumes of its pod."""
    found = []
    for made in copy.deepcopy(list(objects)):
        templates = [v for v in walk(made.get("spec", {})) if isinstance(v, dict) and "containers" in v.get("spec", {})]
        claims = made.get("spec", {}).get("volumeClaimTemplates", [])
        for template in templates:
            volumes = template["spec"].setdefault("volumes", [])
            volumes += [{"name": claim["metadata"]["name"]} for claim in claims]
        found += templates
        if made["kind"] == "RayJob":
            spec = made["spec"]
            templates_ = [spec["submitterPodTemplate"], spec["rayClusterSpec"]["headGroupSpec"]["template"]]
            templates_ += [group["template"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
            assert {id(t) for t in templates_} == {id(t) for t in templates}
    return found


def dangling(objects: Sequence[Manifest]) -> list[str]:
    """Everything that some object names and that does not exist."""
    problems = []
    for made in objects:
        where = f"{made['kind']} {made['metadata']['name']}"
        if made["kind"] == "Service":
            problems += _service(where, made, objects)
        if made["kind"] == "NetworkPolicy":
            problems += _policy(where, made, objects)
        if made["kind"] in ("Deployment", "StatefulSet"):
            selector, labels = made["spec"]["selector"]["matchLabels"], made["spec"]["template"]["metadata"]["labels"]
            problems += [f"{where}: selector misses its own pods"] * (not selector.items() <= labels.items())
            name = made["spec"].get("serviceName")
            problems += [f"{where}: no Service {name}"] * (name is not None and not _named(objects, "Service", name))
        problems += _addresses(where, made, objects)
    for pod in pods(objects):
        problems += _pod(pod, objects)
    return problems


def _named(objects: Sequence[Manifest], kind: str, name: str) -> list[Manifest]:
    return [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]


def _ports(pod: Manifest) -> set[Any]:
    listed = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
    return {port["containerPort"] for port in listed} | {port.get("name") for port in listed}


def _service(where: str, made: Manifest, objects: Sequence[Manifest]) -> list[str]:
    selected = _selected({"matchLabels": made["spec"]["selector"]}, objects)
    if not selected:
        return [f"{where}: selects no pod"]
    targets = [port.get("targetPort", port["port"]) for port in made["spec"]["ports"]]
    return [f"{where}: no container port {t}" for t in targets for pod in selected if t not in _ports(pod)]


def _selected(selector: Manifest, objects: Sequence[Manifest]) -> list[Manifest]:
    def matches(labels: dict[str, str]) -> bool:
        exact = selector.get("matchLabels", {}).items() <= labels.items()
        return exact and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))

    return [pod for pod in pods(objects) if matches(pod.get("metadata", {}).get("labels", {}))]


def _policy(where: str, made: Manifest, objects: Sequence[Manifest]) -> list[str]:
    guarded = _selected(made["spec"]["podSelector"], objects)
    problems = [] if guarded else [f"{where}: guards no pod"]
    for rule in made["spec"]["ingress"]:
        for peer in rule["from"]:
            outside = peer["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") == OPERATOR
            problems += [f"{where}: lets in no pod"] * (not outside and not _selected(peer["podSelector"], objects))
        for port in rule.get("ports", []):
            problems += [f"{where}: no port {port['port']}"] * (not any(port["port"] in _ports(p) for p in guarded))
    return problems


def _addresses(where: str, made: Manifest, objects: Sequence[Manifest]) -> list[str]:
    found = {match for text in walk(made) if isinstance(text, str) for match in _ADDRESS.findall(text)}
    problems = []
    for host, port in sorted(found):
        services = [s for s in _named(objects, "Service", host) if int(port) in {p["port"] for p in s["spec"]["ports"]}]
        problems += [f"{where}: no Service {host}:{port}"] * (not services)
    return problems


def _pod(pod: Manifest, objects: Sequence[Manifest]) -> list[str]:
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    problems = []
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        problems += [f"no claim {claim}"] * (bool(claim) and not _named(objects, "PersistentVolumeClaim", str(claim)))
        config = volume.get("configMap", {}).get("name")
        problems += [f"no ConfigMap {config}"] * (bool(config) and not _named(objects, "ConfigMap", str(config)))
    for container in pod["spec"]["containers"]:
        problems += _container(container, volumes, objects)
    return problems


def _container(container: Manifest, volumes: dict[str, Manifest], objects: Sequence[Manifest]) -> list[str]:
    where, problems = f"container {container['name']}", []
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"])
        problems += [f"{where}: no volume {mount['name']}"] * (volume is None)
        for config in _named(objects, "ConfigMap", (volume or {}).get("configMap", {}).get("name", "")):
            missing = mount.get("subPath") not in (None, *config["data"])
            problems += [f"{where}: no file {mount.get('subPath')}"] * missing
    for source in container.get("envFrom", []):
        config, secret = source.get("configMapRef"), source.get("secretRef")
        problems += [f"{where}: no ConfigMap {config}"] * bool(
            config and not _named(objects, "ConfigMap", config["name"])
        )
        known = bool(secret) and (secret.get("optional") or secret["name"] in MADE_BY_HAND)
        problems += [f"{where}: no Secret {secret}"] * (bool(secret) and not known)
    for variable in container.get("env", []):
        key = variable.get("valueFrom", {}).get("secretKeyRef")
        problems += [f"{where}: no key {key}"] * bool(key and key["key"] not in MADE_BY_HAND.get(key["name"], ()))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = container.get(probe, {}).get("httpGet", {}).get("port")
        problems += [f"{where}: no port {port}"] * (
            port is not None and port not in _ports({"spec": {"containers": [container]}})
        )
    return problems
