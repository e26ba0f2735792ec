"""Planted near copies are found by check and by later looks; hashes are remembered by content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.names import Kind
from tests.trainables.test_similar_images import jpeg, picture, resized
from trainables.check_memory import remembered_check
from trainables.check_outcomes import Check
from trainables.checks import check_task
from trainables.image_hashes import Side, near_copies, remembered_hashes
from trainables.library import TaskLibrary
from trainables.manifest import Manifest

N = 24


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Images 20 and 21 (test) are near copies of 1 and 2 (train), 22 is 3 again, 5 and 6 are a pair inside train."""
    pictures = {k: picture(k) for k in range(N)}
    pictures[20], pictures[21] = jpeg(pictures[1], 50), resized(pictures[2], 0.6)
    pictures[22], pictures[6] = pictures[3], jpeg(pictures[5], 60)
    pictures[10] = pictures[23] = np.full((40, 40, 3), 9, np.uint8)  # plain: copies byte for byte, but no near copies
    for k, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    table = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(N)],
            "path": [f"{k}.png" for k in range(N)],
            "patient_id": [f"p{k}" for k in range(N)],
            "split": np.repeat(["train", "val", "test"], [12, 6, 6]),
            "y_t": np.arange(N, dtype=np.float32) % 2,
        }
    )
    return Manifest(
        name="t", kind=Kind.BINARY, labels=("t",), table=table, root=tmp_path, importer="test", patients_known=True
    )


def sides(library, manifest):
    known = remembered_hashes(library, manifest)
    split = manifest.table["split"]
    return [Side(manifest, known, np.flatnonzero(split.isin(names))) for names in (["test"], ["train", "val"])]


def test_check_finds_planted_copies_and_remembers(manifest, tmp_path):
    library = TaskLibrary(tmp_path / "home")
    library.save(manifest)
    assert remembered_hashes(library, manifest) is None
    report = check_task(library, "t")
    (near,) = [w for w in report.warnings if "look like images of train" in w]
    assert near.startswith("2 images of test or external look like images of train or val")
    assert "i20 (test), i1 (train)" in near
    assert sum("identical images on both sides" in e for e in report.errors) == 2
    pairs = near_copies(library, *sides(library, manifest))
    assert pairs[["row", "other_row", "identical"]].to_numpy().tolist() == [[20, 1, 0], [21, 2, 0], [22, 3, 1]]
    summary = remembered_check(library, manifest)
    assert (summary.checks[Check.EVALUATION_COPIES], summary.checks[Check.OTHER_COPIES]) == (2, 0)
    assert (summary.checks[Check.NEAR_COPIES], summary.errors) == (2, 2)


def test_a_second_look_is_taken_once(manifest, tmp_path, monkeypatch):
    library = TaskLibrary(tmp_path / "home")
    library.save(manifest)
    check_task(library, "t")

    def no_look(*_):
        raise AssertionError("an image was read again")

    monkeypatch.setattr(Manifest, "pixels", no_look)
    assert len(near_copies(library, *sides(library, manifest))) == 3


def test_hashes_of_images_that_change_are_not_known(manifest, tmp_path):
    library = TaskLibrary(tmp_path / "home")
    library.save(manifest)
    check_task(library, "t")
    Image.fromarray(picture(99, height=64)).save(tmp_path / "7.png")
    assert remembered_hashes(library, manifest) is None
    assert remembered_check(library, manifest) is None
    fewer = replace(manifest, table=manifest.table.drop(index=7).reset_index(drop=True))
    assert len(remembered_hashes(library, fewer).hashes) == N - 1
