"""Kubernetes manifests for a study: ``python -m cluster.render --study STUDY --image IMAGE --workers 2:8``.

Writes what ``kubectl apply -f -`` (or ``-k FOLDER`` with ``--out FOLDER``) takes; talks to no cluster. See
docs/cluster.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
import yaml
from rich.console import Console

from cluster.fill import DATA, IMAGE, NAMESPACE, Manifest, Placement, fill
from cluster.study_files import collect
from cluster.terminal import user_errors
from cluster.workers import Workers, parse_range, workers_for_all
from search_spaces.exceptions import UserError

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9_.:/@-]*")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors: people read and compare what is written."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: Sequence[Manifest]) -> str:
    """Several objects as one YAML stream."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write(files: Mapping[str, Sequence[Manifest]], folder: Path, namespace: str) -> list[Path]:
    """The objects as a kustomize folder.

    Args:
        files: File name -> objects.
        folder: Made if it does not exist; files of the same names are overwritten.
        namespace: Of the objects.

    Returns:
        The files, kustomization.yaml last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": list(files),
    }
    texts = {name: to_yaml(objects) for name, objects in files.items()} | {"kustomization.yaml": to_yaml([head])}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def checked(place: Placement, workers: Workers) -> Placement:
    """The same placement.

    Raises:
        UserError: A name that Kubernetes would not take, an address that a shell would not leave alone, a place that
            ends with the pod, a password that would stand in the manifests, or a queue with autoscaling.
    """
    _match(_LABEL, place.namespace, "--namespace", "small letters, digits and -, at most 63")
    _match(_IMAGE, place.image, "--image", "a reference such as registry.example/scalecurves:1.0")
    if place.pull_secret:
        _match(_NAME, place.pull_secret, "--pull-secret", "the name of a Secret")
    if place.queue:
        _match(_NAME, place.queue, "--queue", "the name of a LocalQueue")
        if workers.autoscaling:
            raise UserError(
                f"--queue {place.queue} with --workers {workers.least}:{workers.most}: Kueue admits a study whole, "
                f"so the number of workers must be fixed; give --workers {workers.most}:{workers.most}"
            )
    if place.storage_class:
        _match(_NAME, place.storage_class, "--storage-class", "the name of a StorageClass")
    if workers.accelerator:
        _match(_LABEL_VALUE, workers.accelerator, "--accelerator", "a node label's value such as NVIDIA-H100-80GB-HBM3")
    _check_places(place)
    return place


def _match(pattern: re.Pattern[str], text: str, option: str, allowed: str) -> None:
    if not pattern.fullmatch(text):
        raise UserError(f"{option} {text!r} is not {allowed}")


def _check_places(place: Placement) -> None:
    given = {"--storage": place.storage, "--tracking-uri": place.tracking_uri, "--artifacts": place.artifacts}
    for option, uri in given.items():
        if not uri:
            continue
        if urlsplit(uri).password or "@" in urlsplit(uri).netloc:
            raise UserError(
                f"{option} holds credentials, and manifests are no place for them; put MLFLOW_TRACKING_USERNAME and "
                "_PASSWORD, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, into the Secret scalecurves-env"
            )
        if not _PLAIN.fullmatch(uri):
            raise UserError(
                f"{option} {uri!r}: two shells read the job's command, so only letters, digits and _@%+=:,./- may be; "
                "options of a bucket go as variables, such as AWS_ENDPOINT_URL, into the Secret scalecurves-env"
            )
    if "://" not in place.storage and not place.storage.startswith(f"{DATA}/"):
        raise UserError(
            f"--storage {place.storage}: a path must lie below {DATA}, the shared volume, else it ends with its pod; "
            "or give a URI such as s3://bucket/folder"
        )
    if place.tracking_uri and not place.tracking_uri.startswith(("http://", "https://")):
        raise UserError(
            f"--tracking-uri {place.tracking_uri}: a cluster needs an MLflow server, http:// or https://; "
            "leave the option away to get one"
        )
    if place.artifacts and place.tracking_uri:
        raise UserError("--artifacts is for the MLflow server of these manifests, and --tracking-uri leaves it away")
    if place.artifacts and "://" not in place.artifacts:
        raise UserError(f"--artifacts takes a URI such as s3://bucket/mlflow, got {place.artifacts!r}")


def main(
    study: Annotated[str, typer.Option("--study", help="Preset (demo), YAML file, or module:function.")],
    workers: Annotated[
        str, typer.Option("--workers", help="Worker pods, MIN:MAX; more than MIN come while trials wait.")
    ],
    namespace: Annotated[str, typer.Option("--namespace", help="Of all objects; must exist.")] = NAMESPACE,
    image: Annotated[str, typer.Option("--image", help="Built from cluster/Dockerfile.")] = IMAGE,
    gpus_per_worker: Annotated[int, typer.Option("--gpus-per-worker", min=0, help="Of one pod.")] = 0,
    cpus_per_worker: Annotated[
        int | None, typer.Option("--cpus-per-worker", min=1, help="Of one pod; else what its ranks need.")
    ] = None,
    memory_per_worker: Annotated[
        int | None, typer.Option("--memory-per-worker", min=1, help="GiB of one pod; else by its ranks.")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", help="Type of GPU: value of the node label nvidia.com/gpu.product.")
    ] = None,
    storage: Annotated[
        str, typer.Option("--storage", help="Weights and spool: a path below /data or a URI.")
    ] = f"{DATA}/home/storage",
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow server; else one is part of the manifests.")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option("--artifacts", help="URI where that server keeps artifacts; else a volume.")
    ] = None,
    storage_class: Annotated[
        str | None, typer.Option("--storage-class", help="Of the shared volume; must offer ReadWriteMany.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="LocalQueue of Kueue.")] = None,
    pull_secret: Annotated[
        str | None, typer.Option("--pull-secret", help="Secret for a private registry of the image.")
    ] = None,
    study_only: Annotated[
        bool, typer.Option("--study-only", help="Only the study's job: the namespace has the rest already.")
    ] = False,
    out: Annotated[str, typer.Option("--out", help="Folder for kustomize, or - for one stream of YAML.")] = "-",
) -> None:
    """Write the Kubernetes manifests of one study; exit code 1 if its trials do not fit the workers."""
    with user_errors():
        files = collect(study)
        pods = workers_for_all(
            files.gangs,
            parse_range(workers),
            gpus=gpus_per_worker,
            cpus=cpus_per_worker,
            memory_gib=memory_per_worker,
            accelerator=accelerator,
        )
        place = Placement(
            namespace=namespace,
            image=image,
            storage=storage,
            tracking_uri=tracking_uri,
            artifacts=artifacts,
            storage_class=storage_class,
            queue=queue,
            pull_secret=pull_secret,
            study_only=study_only,
        )
        made = fill(files, pods, checked(place, pods))
        if out == "-":
            print(to_yaml([one for objects in made.values() for one in objects]), end="")
            return
        written = write(made, Path(out), namespace)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    errors.print(f"{len(written)} files; next: kubectl apply -k {out}", markup=False)


if __name__ == "__main__":
    typer.run(main)
