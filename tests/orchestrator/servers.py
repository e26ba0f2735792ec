"""Throw-away servers for tests: Postgres, and MLflow's tracking server on any database."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import free_port

STARTS_WITHIN_S = 300


class TrackingServer:
    """``mlflow server``, which can be killed and started again.

    Args:
        backend: Database URI.
        folder: For its artifacts and its log.
        options: Further options; those of the manifests for example.
        variables: Further environment variables.
    """

    def __init__(
        self,
        backend: str,
        folder: Path,
        options: Sequence[str] = ("--workers=1",),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", *options]
        self._command += ["--host=127.0.0.1", f"--port={port}", f"--artifacts-destination={folder / 'served'}"]
        self._environment = os.environ | dict(variables or {}) | {"MLFLOW_BACKEND_STORE_URI": backend}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """With everything that it has started; nothing if it does not run."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def tracking_server(*arguments: Any, **named: Any) -> Iterator[TrackingServer]:
    """A server that answers. Arguments as of ``TrackingServer``."""
    server = TrackingServer(*arguments, **named)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def postgres_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``: on the path, or where Debian puts them; None if there are none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """URI of an empty database in a cluster of its own, which listens on this machine only.

    Args:
        programs: See ``postgres_programs``.
    """
    # Not below pytest's folder: Postgres refuses root, and nobody else may enter that one.
    folder = Path(tempfile.mkdtemp(prefix="sc-pg-"))
    try:
        account = _account(folder)
        data, port = folder / "data", free_port()
        initdb = ["initdb", "--pgdata", str(data), "--username=mlflow", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        _run(programs, initdb, account)
        start = ["pg_ctl", "--pgdata", str(data), "--wait", "--log", str(folder / "log"), "--options", options, "start"]
        _run(programs, start, account)
        try:
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            _run(programs, ["pg_ctl", "--pgdata", str(data), "--mode=immediate", "stop"], account)
    finally:
        shutil.rmtree(folder)


def _account(folder: Path) -> dict[str, Any]:
    """Whom Postgres runs as: an account without rights where the tests run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    name = "postgres" if "postgres" in names else "nobody"
    entry = pwd.getpwnam(name)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(programs: Path, command: list[str], account: dict[str, Any]) -> None:
    # Output goes to a file: the server inherits it from pg_ctl, and a pipe would stay open as long as the server.
    with tempfile.TemporaryFile("w+") as said:
        full = [str(programs / command[0]), *command[1:]]
        code = subprocess.run(full, stdout=said, stderr=said, cwd="/", check=False, **account).returncode
        said.seek(0)
        assert code == 0, f"{command[0]}: {said.read()}"
