"""The Ray cluster that a command works on."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray

from cluster.growth import growth
from search_spaces.exceptions import UserError

OBJECT_STORE_BYTES = 256 * 1024**2
"""Of a local cluster. Nothing large travels through it, and Ray's default is 30 % of the memory."""

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    # How soon Train notices a lost rank; the default of 2 s also delays every start. Each look costs ranks and driver
    # some milliseconds, all the time that they train.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray starts its workers with a nice value of 15. Whatever else runs then delays every collective of the ranks: two
    # ranks on two cores took 1.05 s for trials that take 0.63 s without.
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # As Train sets for its controllers.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    # Nodes that will go away are the engine's business: it has their trials write checkpoints. Train would end gangs.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Relative paths of a study mean the same in every process.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are of no use here: what is done stands in the record.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    # How many trials wait is decided where they are handed out.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


_STARTS = 3
_TOO_SLOW = "timed out during startup"
"""What Ray says of a node that was not there in time."""

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entry point of a submitted job."""

_OF_TRAIN = ("RAY_TRAIN_", "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC")

_ours = threading.Event()
"""Set while a connection of ``connect`` is there."""


@contextmanager
def connect(address: str = "local", *, import_paths: Sequence[str] = (), num_cpus: int | None = None) -> Iterator[None]:
    """A Ray cluster for the length of a ``with`` block.

    Inside a process that is connected already, that connection is used and left alone.

    Args:
        address: ``local`` starts a cluster of this machine that ends with the block; ``auto`` joins the one that runs
            here or that submitted this job; anything else is an address that Ray knows.
        import_paths: Folders from which workers import a user's modules.
        num_cpus: CPUs of a local cluster; all of this machine if not given.

    Raises:
        UserError: No cluster answers at the address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": num_cpus,
    }
    on_termination = signal.getsignal(signal.SIGTERM)
    if address == "local":
        with _environment(_variables(import_paths)):
            _init(address, local)
        _end_monitors()
    else:
        variables = train_variables() | _variables(import_paths)
        # Ray refuses a variable that the job has, too.
        added = {name: value for name, value in variables.items() if name not in _variables_of_job()}
        _init(address, {"runtime_env": {"env_vars": added}})
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_termination)  # ray.init has replaced it by one that exits at once
    _ours.set()
    try:
        yield
    finally:
        _ours.clear()
        # A handle that another thread's search for garbage finds while Ray shuts down ends the process.
        gc.collect()
        ray.shutdown()


def has_our_environment() -> bool:
    """Whether all processes of the cluster have ``ENVIRONMENT``: not those of a connection that the caller made."""
    return _ours.is_set()


def train_variables() -> dict[str, str]:
    """The variables of this process that Train's controllers read, and pass on to their ranks."""
    return {name: value for name, value in os.environ.items() if name.startswith(_OF_TRAIN)}


@contextmanager
def meanwhile(connection: AbstractContextManager[None]) -> Iterator[Callable[[], None]]:
    """Enters a connection in a thread: a local cluster takes seconds to start, in which the block does other things.

    Args:
        connection: Of ``connect``. It ends with the block.

    Yields: Waits until the cluster is there, and raises what ``connect`` raises.
    """
    # The thread has to last: the system ends the processes of Ray with the thread that started them.
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(connection.__enter__)

        def close() -> None:
            if coming.exception() is None:
                connection.__exit__(None, None, None)

        try:
            yield coming.result
        finally:
            thread.submit(close).result()  # interrupted or not, the thread ends after it


def _init(address: str, options: dict[str, Any]) -> None:
    """``ray.init``; a local cluster that was too slow to start is started again.

    Ray gives a node 30 s, which a busy machine may exceed. The next start finds its files in memory.

    Raises:
        UserError: No cluster answers at the address, or none could be started on this machine.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster at address {address!r}: {error}. Use --address local or start one"
            ) from None
        except (ValueError, ray.exceptions.RayError) as error:  # an address without a port, a token that is missing
            if address == "local":
                raise
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"Ray does not connect to address {address!r}: {said} (--address takes local, auto or HOST:PORT; for "
                "tokens see docs/cluster.md)"
            ) from None
        except Exception as error:  # Ray has no type for it
            if address != "local" or _TOO_SLOW not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise UserError(
                    f"this machine started no local Ray cluster within 30 s, tried {_STARTS} times: {error} Look at "
                    "the load, the free memory and Ray's logs (/tmp/ray/session_latest/logs); nothing has been lost"
                ) from None


def _end_monitors() -> None:
    """That of the autoscaler, which a cluster of one machine has no use for, and which ``ray.shutdown`` waits a whole
    second for in vain; and that of the logs, which nobody has asked to see. Ray has no options for this.
    """
    node = ray._private.worker._global_node
    if node is not None:
        node.kill_monitor(check_alive=False)
        node.kill_log_monitor(check_alive=False)


def submitted_job() -> str:
    """Submission id of the Ray job that this process is the driver of (``ray job logs ID``); empty outside of one."""
    try:
        return str(_job_config().get("metadata", {}).get("job_submission_id", ""))
    except AttributeError:
        return ""


def _variables_of_job() -> Mapping[str, str]:
    """What the job was submitted with (``--runtime-env-json``)."""
    try:
        return dict((_job_config().get("runtime_env") or {}).get("env_vars") or {})
    except (AttributeError, TypeError, ValueError):
        return {}


def _job_config() -> Any:
    try:
        return json.loads(os.environ.get(_JOB_CONFIG, "{}"))
    except ValueError:
        return {}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables that a local cluster's processes inherit. As a ``runtime_env`` they would cost an agent's work for
    each, and no process that Ray starts in advance would do.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _variables(import_paths: Sequence[str]) -> dict[str, str]:
    variables = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    if _JOB_CONFIG not in os.environ:
        # Inside a submitted job the working directory of the job is on the path of all workers already.
        paths = [str(ROOT), *import_paths, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return variables


def present_and_possible() -> list[dict[str, Any]]:
    """Nodes of the cluster that live, and those that its autoscaler may add.

    Raises:
        UserError: What the user declares of the autoscaler cannot be read.
    """
    present = [node for node in ray.nodes() if node["Alive"]]
    return [*present, *growth().not_there_yet(present)]


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that will soon go away: preempted, or drained by the autoscaler or an operator."""
    return frozenset(ray._private.state.state.get_draining_nodes())
