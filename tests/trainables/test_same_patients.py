"""When ids of two manifests mean the same persons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from search_spaces.names import Kind
from trainables.manifest import Manifest
from trainables.same_patients import ids_compare


def manifest(importer: str, root: str = "/data", paths: str = "abc", patients: str = "xyz", **facts) -> Manifest:
    table = pd.DataFrame(
        {
            "image_id": list(paths),
            "path": [f"{path}.png" for path in paths],
            "patient_id": list(patients),
            "split": "train",
            "y_t": 0.0,
        }
    )
    known = {"patients_known": True, **facts}
    return Manifest(name="m", kind=Kind.BINARY, labels=("t",), table=table, root=Path(root), importer=importer, **known)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (manifest("map chexpert", "/full"), manifest("map chexpert", "/small", "de", "xy"), True),
        (manifest("map chexpert"), manifest("map padchest"), False),
        (manifest("map ham10000", grouping="lesion"), manifest("map ham10000"), False),
        (manifest("map chexpert", patients_known=False), manifest("map chexpert"), False),
        (manifest("map ours", "/north"), manifest("map ours", "/south", "de", "xy"), False),
        (manifest("map ours", "/north"), manifest("map ours", "/south", "cd", "xy"), False),
        (manifest("map ours", "/full"), manifest("map ours", "/small", "bc", "yz"), True),
        (manifest("map ours"), manifest("map ours", paths="de", patients="xy"), True),
        (manifest("csv"), manifest("csv", paths="cd", patients="zx"), True),
        (manifest("csv"), manifest("csv", paths="cd", patients="yx"), False),
        (manifest("csv"), manifest("csv", paths="de", patients="yx"), False),
        (manifest("csv"), manifest("csv", "/elsewhere"), False),
    ],
    ids=[
        "one map, two copies", "two maps", "other grouping", "patients not known",
        "two hospitals, a map of the user's", "two hospitals, equal names of files", "two copies, a map of the user's",
        "two views, a map of the user's", "one folder, images agree",
        "one folder, images disagree", "one folder, no image shared", "two folders",
    ],
)  # fmt: skip
def test_ids_compare_within_a_release_alone(one, other, expected):
    assert ids_compare(one, other) is expected
    assert ids_compare(other, one) is expected


def test_pages_of_one_file_are_of_one_patient():
    pages = manifest("csv", paths="abc", patients="xxx")
    table = pages.table.assign(path="a.tif", frame=[0, 1, 2])
    paged = replace(pages, table=table)
    assert ids_compare(paged, paged)
    assert not ids_compare(paged, replace(paged, table=table.assign(patient_id=list("xyx"))))
