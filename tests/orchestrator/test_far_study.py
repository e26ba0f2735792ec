"""A study whose images and files lie in a bucket: every command that reads them there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ray")

from dashboards import load_predictions, load_results
from search_spaces.home import scalecurves_home
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import make_task, raw_study, rewrite_study, write_study
from trainables.filesystems import below
from trainables.importers import ImportOptions, import_csv
from trainables.library import TaskLibrary
from trainables.places import place
from trainables.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]
pytest_plugins = ("tests.s3_plugin", "tests.gcs_plugin")

AXES = raw_study()["axes"] | {"pretraining_source": ["random"]}


@pytest.fixture(params=["s3", "gs"])
def far(request: pytest.FixtureRequest) -> tuple[str, str]:
    """URI of a bucket for images, and of a storage in it."""
    if request.param == "gs":
        pytest.importorskip("gcsfs", reason="images in a bucket need gcsfs")
        return request.getfixturevalue("gcs_bucket"), f"{request.getfixturevalue('gcs_storage')}/sc?scheme=http"
    pytest.importorskip("s3fs", reason="images in a bucket need s3fs")
    bucket, server = request.getfixturevalue("bucket"), request.getfixturevalue("s3_server")
    return bucket, f"{bucket}/sc?endpoint_override={server}&scheme=http"


def far_task(folder: Path, bucket: str) -> None:
    """The task of small studies, its files moved into the bucket and imported from there."""
    make_task(folder, "spots")
    root = place(f"{bucket}/images")
    for file in folder.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
        file.unlink()
    manifest = import_csv(root / "labels.csv", ImportOptions(name="spots", label_name="spot", split=(0.5, 0.2, 0.3)))
    TaskLibrary(scalecurves_home()).save(manifest, overwrite=True)


def test_a_study_in_a_bucket_is_trained_recorded_evaluated_exported_and_pruned(
    far: tuple[str, str], tmp_path: Path
) -> None:
    bucket, storage = far
    later = raw_study(axes=AXES, seeds=1)
    first = raw_study(axes=AXES, seeds=1)
    del first["tasks"]["spots"]["evaluate"]
    file = write_study(tmp_path, **first)
    far_task(tmp_path / "moved", bucket)
    where = ("--storage", storage, "--out", tmp_path / "report")
    assert "2 trials trained, 0 were done before, 0 failed" in call("run", file, *where)
    assert "0 trials trained, 2 were done before, 0 failed" in call("run", file, *where)
    assert (tmp_path / "report" / "index.html").is_file()
    assert len(load_results("small")) == 2
    assert len(load_predictions("small")) > 0

    rewrite_study(tmp_path, **later)
    assert "2 trials scored on site_b" in call("evaluate", file, "--on", "site_b", *where)

    files = Storage(below(storage, "small"))
    assert files.undelivered() == []
    assert len(files.weights()) == 2
    [one, _] = sorted(files.weights())
    call("export", file, one, tmp_path / "exported", "--storage", storage)
    assert list((tmp_path / "exported").rglob("*.safetensors"))
    call("prune", file, "--weights", "all", "--yes", "--storage", storage)
    assert files.weights() == {}
    found = json.loads(call("status", file, "--json", "--storage", storage))
    assert (found["done"], found["missing"], found["failed"]) == (2, 0, 0)
