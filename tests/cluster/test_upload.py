"""What ``ray job submit --working-dir .`` uploads from a clone in which a user has worked for a while."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from tests.conftest import ROOT

LEFT_BEHIND = (
    ".venv/lib/torch.so",
    ".git/objects/pack",
    "data/images.npy",
    "reports/demo/index.html",
    "mlartifacts/1/weights.safetensors",
    "mlflow.db",
    "docs/report.png",
    "tests/conftest.py",
    "build/lib.py",
)
TAKEN_ALONG = ("my_study.yaml", "mynets.py", "weights/ours_r50.pth", "orchestrator/sweep.py", "cluster/doctor.py")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of this repository, and what use adds to them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    folder = tmp_path / "clone"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for name in (*LEFT_BEHIND, *TAKEN_ALONG):
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"0" * 1_000_000)
    return folder


def test_code_and_studies_travel_and_nothing_large_that_grows_in_a_clone(clone: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(clone), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert set(TAKEN_ALONG) <= set(sizes)
    assert not set(LEFT_BEHIND) & set(sizes)
    ours = {name: size for name, size in sizes.items() if name not in TAKEN_ALONG}
    assert sum(ours.values()) < 4_000_000, sorted(ours, key=ours.__getitem__)[-5:]
    assert sum(size for name, size in ours.items() if not name.endswith(".py")) < 500_000
