"""Is this cluster fit for a study? ``python -m cluster.doctor [--address auto] [--study FILE] [--storage URI]``.

Looks at every node from a task that runs there: packages, clock, the home folder with its tasks, the storage, free
space; then whether a trial of the study fits. Trains nothing and needs no GPU.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import ray
import typer
from pyarrow import fs
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from cluster.capacity import Capacity, Shape, trials_at_a_time
from cluster.connection import connect
from cluster.growth import growth
from cluster.terminal import user_errors
from search_spaces.exceptions import UserError
from search_spaces.expand import expand, gang_of
from search_spaces.files import load_study
from search_spaces.home import scalecurves_home
from search_spaces.refusals import refusal_advice
from search_spaces.study import GangSpec, Study
from search_spaces.toolchain import missing_toolchain
from search_spaces.uris import hide_password, is_arrows_own

PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "pydantic", "scalecurves")
ANSWER_S = 120.0
"""Longest wait for a node; a first task there starts a process."""
CLOCK_S = 5.0
"""Difference of clocks from which times in the record mislead."""
FREE_BYTES = 5 * 10**9
"""Free space below which image stores and checkpoints may not fit."""
_QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"
"""What runs ask, too. MLflow answers ``/health`` also to those whom it lets in nowhere else."""
_SHOWN_BYTES = 300


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How bad it is.
        what: What was looked at.
        message: What was found, and what to do.
    """

    level: Level
    what: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself.

    Attributes:
        host: Its name.
        python: Version.
        packages: Package -> version; ``missing`` if it is not installed.
        clock: Unix seconds, when the question arrived.
        home: Imported tasks there: name -> hash of the manifest file's bytes; None if the folder does not exist.
        storage: Empty if the driver's file could be read and another one written; else what went wrong.
        free_bytes: Where the home lies.
        toolchain: Why ``protocol.compile`` cannot work there; empty if it can.
    """

    host: str
    python: str
    packages: dict[str, str]
    clock: float
    home: dict[str, str] | None
    storage: str
    free_bytes: int
    toolchain: str = ""


def look(home: str, storage: str, token: str) -> NodeFacts:
    """Runs on a node.

    Args:
        home: ``SCALECURVES_HOME`` of the driver.
        storage: The storage.
        token: Name of the file that the driver has put there.
    """
    import platform
    import shutil
    import socket
    from importlib import metadata

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "missing"
    folder = Path(home)
    beside = next(p for p in (folder, *folder.parents) if p.is_dir())
    return NodeFacts(
        host=socket.gethostname(),
        python=platform.python_version(),
        packages=packages,
        clock=time.time(),
        home=tasks_in(folder),
        storage=_try_storage(storage, token),
        free_bytes=shutil.disk_usage(beside).free,
        toolchain=missing_toolchain() or "",
    )


def tasks_in(home: Path) -> dict[str, str] | None:
    """Imported task -> sha256 of its manifest file; None if there is no such folder."""
    import hashlib

    if not home.is_dir():
        return None
    files = sorted(home.glob("tasks/*/manifest.parquet"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _try_storage(storage: str, token: str) -> str:
    try:
        filesystem, folder = _filesystem(storage)
        if filesystem.get_file_info(f"{folder}/{token}").type != fs.FileType.File:
            return "what the driver wrote there is not seen here: it must be one place for all nodes"
        mine = f"{folder}/{token}-{uuid.uuid4().hex[:8]}"
        _write(filesystem, mine)
        filesystem.delete_file(mine)
    except (OSError, ValueError, pa.ArrowException, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _filesystem(storage: str) -> tuple[fs.FileSystem, str]:
    """As pyarrow knows it, else as fsspec does."""
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(storage)
    except pa.ArrowException:
        if is_arrows_own(storage):
            raise
        import fsspec  # type: ignore[import-untyped]

        filesystem, path = fsspec.core.url_to_fs(storage)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(path)
    return found


def _write(filesystem: fs.FileSystem, path: str) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"scalecurves doctor")


def compare(
    driver: NodeFacts, nodes: Sequence[NodeFacts], asked: tuple[float, float], compiles: bool = False
) -> list[Finding]:
    """What differs between the driver and its nodes, or is short somewhere.

    Args:
        driver: The process that schedules.
        nodes: All nodes.
        asked: Unix seconds of the driver when the nodes were asked and when all had answered.
        compiles: Whether trials of the study are compiled.
    """
    findings: list[Finding] = []
    for node in nodes:
        findings += _packages(driver, node)
        findings += _home(driver, node)
        if node.storage:
            findings.append(Finding(level=Level.ERROR, what=f"storage on {node.host}", message=node.storage))
        if compiles and node.toolchain:
            findings.append(Finding(level=Level.ERROR, what=f"compiler on {node.host}", message=node.toolchain))
        late = max(node.clock - asked[1], 0) + min(node.clock - asked[0], 0)
        if abs(late) > CLOCK_S:
            message = f"{late:+.0f} s away from the driver's; times in the record will mislead (run NTP)"
            findings.append(Finding(level=Level.WARNING, what=f"clock of {node.host}", message=message))
        if node.free_bytes < FREE_BYTES:
            message = f"{node.free_bytes / 1e9:.1f} GB free where the home lies; image stores may not fit"
            findings.append(Finding(level=Level.WARNING, what=f"disk of {node.host}", message=message))
    return findings


def _packages(driver: NodeFacts, node: NodeFacts) -> list[Finding]:
    here, there = ({"python": n.python, **n.packages} for n in (driver, node))
    other = [f"{name} {there[name]} (driver {here[name]})" for name in here if there[name] != here[name]]
    if not other:
        return []
    message = f"{', '.join(other)}; use one image, or install one constraints file everywhere"
    return [Finding(level=Level.ERROR, what=f"packages of {node.host}", message=message)]


def _home(driver: NodeFacts, node: NodeFacts) -> list[Finding]:
    what = f"home on {node.host}"
    if driver.home is None or node.home == driver.home:
        return []
    if node.home is None:
        message = "the folder does not exist there; all nodes must see SCALECURVES_HOME under the same path"
        return [Finding(level=Level.ERROR, what=what, message=message)]
    other = sorted(name for name, digest in driver.home.items() if node.home.get(name) != digest)
    if not other:
        return []
    message = f"tasks missing or different there: {', '.join(other)}; import them there, or share the folder"
    return [Finding(level=Level.ERROR, what=what, message=message)]


def fits(spec: GangSpec, nodes: Sequence[dict[str, Any]], where: str = "execution.gang") -> Finding:
    """Whether a trial of this shape fits, and how many at a time.

    Args:
        spec: The gang.
        nodes: Those that are there and those that an autoscaler may add.
        where: Its place in the study.
    """
    try:
        shape = Shape.of(spec, nodes)
        number = trials_at_a_time(shape, nodes)
    except UserError as error:
        return Finding(level=Level.ERROR, what=where, message=str(error).replace("execution.gang", where))
    waits = number > _fit_now(shape, nodes)
    later = ", some once the autoscaler has added nodes" if waits else ""
    return Finding(level=Level.OK, what=where, message=f"{shape.label}: {number} trials at a time{later}")


def _fit_now(shape: Shape, nodes: Sequence[dict[str, Any]]) -> int:
    """Trials at a time on the nodes that are there, which Ray lists with their id."""
    return Capacity.of(node for node in nodes if "NodeID" in node).most(shape)


def gangs_of(study: Study) -> dict[str, GangSpec]:
    """Place in the study -> each gang that trains trials of it, once."""
    used = dict.fromkeys(gang_of(study, trial.cell) for trial in expand(study).trials)
    places = {rule.gang: f"execution.gangs[{n}]" for n, rule in reversed(list(enumerate(study.execution.gangs)))}
    return {places.get(gang, "execution.gang"): gang for gang in used}


def tracking(uri: str) -> Finding:
    """Whether an MLflow server answers, and whether it lets in whoever asks from here.

    Files and databases are looked at by the run itself.
    """
    if not uri.startswith(("http://", "https://")):
        return Finding(level=Level.OK, what="MLflow", message="no server: the driver alone writes a database")
    parts = urllib.parse.urlsplit(uri)
    address = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    request = urllib.request.Request(f"{address}{_QUESTION}")
    authorization = _authorization(parts)
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return _refused(address, error, authorization is not None)
    except (OSError, http.client.HTTPException) as error:
        message = f"{address} does not answer: {error}. Results would wait in the storage; start the server"
        return Finding(level=Level.ERROR, what="MLflow", message=message)
    return Finding(level=Level.OK, what="MLflow", message=f"{address} answers")


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    """Who asks, as MLflow's client would say it: by the URI, else by its variables; None if neither says."""
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    user, password, token = (os.environ.get(name, "") for name in names)
    if parts.username:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    if parts.username or (user and password):
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return f"Bearer {token}" if token else None


def _refused(address: str, error: urllib.error.HTTPError, named: bool) -> Finding:
    """What a server means that answers and does not let in; ``named`` if it was told who asks."""
    said = " ".join(error.read(_SHOWN_BYTES).decode(errors="replace").split())
    advice = refusal_advice(said) if error.code in (401, 403) else "is it an MLflow server?"
    # Without a name 401 may be no fault: MLflow's client also reads ~/.mlflow/credentials, for example.
    level = Level.WARNING if error.code == 401 and not named else Level.ERROR
    message = f"{address} answers {error.code} {error.reason}: {said or 'nothing more'}; {advice}"
    return Finding(level=level, what="MLflow", message=message)


def examine(gangs: Mapping[str, GangSpec], storage: str, tracking_uri: str, compiles: bool = False) -> list[Finding]:
    """Every finding about the connected cluster, good and bad.

    Args:
        gangs: Place in the study -> gang that must fit.
        storage: Path or URI that all nodes must see.
        tracking_uri: Of MLflow.
        compiles: Whether trials of the study are compiled.

    Raises:
        UserError: The driver cannot write the storage.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    grows = growth()
    possible = [*nodes, *grows.not_there_yet(nodes)]
    message = f"nodes: {len(nodes)}, CPUs: {cpus:g}, GPUs: {gpus:g}"
    if grows.origin:
        message += f"; {len(possible) - len(nodes)} more may come ({grows.origin})"
    findings = [
        Finding(level=Level.OK, what="cluster", message=message),
        *(fits(spec, possible, where) for where, spec in gangs.items()),
        tracking(tracking_uri),
    ]
    home, token = str(scalecurves_home()), f"doctor-{uuid.uuid4().hex}"
    with _file_of_driver(storage, token):
        driver = look(home, storage, token)
        asked_at = time.time()
        answers, silent = _ask_all(nodes, (home, storage, token))
        answered_at = time.time()
    findings += silent + compare(driver, answers, (asked_at, answered_at), compiles)
    if not any(f.level is Level.ERROR for f in findings):
        tasks = "no task is imported yet" if not driver.home else f"{len(driver.home)} tasks"
        alike = f"one set of packages, one home ({tasks}), one storage everywhere"
        findings.append(Finding(level=Level.OK, what="nodes", message=alike))
    return findings


@contextmanager
def _file_of_driver(storage: str, token: str) -> Iterator[None]:
    """A file in the storage for as long as nodes look for it."""
    try:
        filesystem, folder = _filesystem(storage)
        filesystem.create_dir(folder, recursive=True)
        _write(filesystem, f"{folder}/{token}")
    except (OSError, ValueError, pa.ArrowException, ImportError) as error:
        raise UserError(hide_password(f"storage {storage} cannot be written from here: {error}")) from None
    try:
        yield
    finally:
        filesystem.delete_file(f"{folder}/{token}")


def _ask_all(nodes: Sequence[dict[str, Any]], arguments: tuple[str, str, str]) -> tuple[list[NodeFacts], list[Finding]]:
    """The answers, and a finding for each node that gave none."""
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node["NodeManagerAddress"]
        for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    facts: list[NodeFacts] = []
    silent: list[Finding] = []
    for reference, address in asked.items():
        try:
            if reference not in answered:
                raise TimeoutError(f"no answer within {ANSWER_S:g} s")
            facts.append(ray.get(reference))
        except (ray.exceptions.RayError, TimeoutError) as error:
            message = f"{str(error).strip().splitlines()[-1]}; is scalecurves installed there?"
            silent.append(Finding(level=Level.ERROR, what=f"node {address}", message=message))
    return facts, silent


def _compiles(study: Study) -> bool:
    """Whether the protocol, or an override of it, says ``compile``."""
    return study.protocol.compile or any(override.set.get("compile") for override in study.overrides)


def main(
    address: Annotated[str, typer.Option("--address", help="Ray: local, auto or an address.")] = "auto",
    study: Annotated[str | None, typer.Option("--study", help="Whose gangs must fit.")] = None,
    storage: Annotated[str | None, typer.Option("--storage", help="Path or URI; else <home>/storage.")] = None,
    tracking_uri: Annotated[
        str, typer.Option("--tracking-uri", help="MLflow.", envvar="MLFLOW_TRACKING_URI", show_default=False)
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Look whether a cluster is fit for a study; exit code 1 if it is not."""
    console = Console(soft_wrap=True, highlight=False)
    place = storage or str(scalecurves_home() / "storage")
    place = place if "://" in place else str(Path(place).expanduser().resolve())
    with user_errors():
        read = load_study(study).study if study else None
        gangs = gangs_of(read) if read else {"execution.gang": GangSpec()}
        with connect(address):
            findings = examine(gangs, place, tracking_uri, read is not None and _compiles(read))
    if json_:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        styles: dict[Level, str] = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
        for finding in findings:
            console.print(f"{finding.level.value:8}{finding.what}: {finding.message}", style=styles[finding.level])
    if any(f.level is Level.ERROR for f in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    # Under its real name, so that tasks on other nodes find the function.
    from cluster import doctor

    typer.run(doctor.main)
