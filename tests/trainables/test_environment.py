"""What is recorded about the place of an attempt."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
import torch

from trainables import environment as module
from trainables.environment import commit, device_name, environment, package_versions
from trainables.groups import SingleProcess


@pytest.fixture
def _fresh():
    commit.cache_clear()
    yield
    commit.cache_clear()


def test_versions_and_device_are_those_in_use():
    found = environment(SingleProcess())
    assert found.versions["torch"] == torch.__version__
    assert found.versions["numpy"] == np.__version__
    assert found.device.startswith("cpu")
    assert found.ranks == 1
    assert found.host
    assert device_name(torch.device("cpu")) == found.device
    assert dict(package_versions())["python"].startswith("3.")


@pytest.mark.usefixtures("_fresh")
def test_the_commit_is_that_of_the_working_tree_and_marks_changes(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    monkeypatch.setattr(module, "__file__", str(tmp_path / "trainables" / "environment.py"))
    assert commit() is None
    commit.cache_clear()
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert re.fullmatch(r"[0-9a-f]{40}", str(commit()))
    (tmp_path / "file").write_text("two")
    assert not str(commit()).endswith("+")  # looked up once per process
    commit.cache_clear()
    assert str(commit()).endswith("+")
