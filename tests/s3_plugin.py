"""A server that speaks S3; load with ``pytest_plugins = ("tests.s3_plugin",)``."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its address; what is stored there is gone with this process."""
    pytest.importorskip("moto", reason="a server that speaks S3 needs moto")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://`` URI of an empty bucket. This process and those that it starts reach it as users reach theirs."""
    import pyarrow.fs as pafs

    variables = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{uuid.uuid4().hex}"
    pafs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")[0].create_dir(name)
    return f"s3://{name}"
