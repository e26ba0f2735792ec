"""A server that speaks as Google Cloud Storage does; load with ``pytest_plugins = ("tests.gcs_plugin",)``."""

from __future__ import annotations

import http.server
import json
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import free_port


class _QuietServer(http.server.HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: pyarrow hangs up on reads that it needs no longer, and commands are tested by what is printed."""


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """Its address; what is stored there is gone with this process."""
    pytest.importorskip("gcp_storage_emulator", reason="a server that speaks as GCS does needs gcp-storage-emulator")
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http.server, "HTTPServer", _QuietServer)
        server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def gcs_bucket(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``gs://`` URI of an empty bucket, for this process and those that it starts."""
    variables = {
        "STORAGE_EMULATOR_HOST": gcs_server,  # gcsfs
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": gcs_server,  # pyarrow
        "NO_GCE_CHECK": "true",
        "GOOGLE_CLOUD_PROJECT": "any",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    name = f"bucket-{uuid.uuid4().hex}"
    address = f"{gcs_server}/storage/v1/b?project=any"
    asked = urllib.request.Request(address, json.dumps({"name": name}).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(asked).close()
    return f"gs://{name}"


@pytest.fixture
def gcs_storage(gcs_bucket: str) -> str:
    """The same bucket for pyarrow, which is to be told that nobody signs in."""
    return gcs_bucket.replace("://", "://anonymous@")
