"""Nothing that could name a patient leaves for MLflow."""

from __future__ import annotations

import json

import pytest

from orchestrator.redact import file_name, public_result, public_study, redact_json, redact_text
from search_spaces.results import TrialResult
from tests.orchestrator.record_fixtures import make_failure, make_result


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /data/Doe_Jane/1.png",
        "cannot read '/data/Jane Doe/scan 1'",
        'cannot read "C:\\data\\Doe_Jane\\1.dcm": truncated',
        "s3://bucket/Doe_Jane/1 is gone",
        "image Doe_Jane.nii.gz has 4 dimensions",
        "rel/Doe_Jane/1.jpg: bad header",
        "cannot read /data/Jane Doe/scan 1.png (truncated)",
        "rel/Jane Doe/1.jpg: bad header",
        "(~/Doe_Jane/scan)",
    ],
)
def test_places_and_image_files_are_replaced(text: str) -> None:
    assert "Doe" not in redact_text(text)
    assert "<path>" in redact_text(text)


@pytest.mark.parametrize(
    "text",
    ["loss is nan at step 17", "640 samples/s", "mean and/or std", "layer1.0.conv1.weight: (64, 3, 7, 7)", "yes / no"],
)
def test_other_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_keys_that_identify_are_hidden_and_checkpoints_keep_their_name() -> None:
    raw = {"where": {"patient_id": ["Doe"], "site": ["DU"]}, "file": "/home/ann/w/cifar.th", "n": 3, "note": "/a/b"}
    assert redact_json(raw) == {
        "where": {"patient_id": "<hidden>", "site": ["DU"]},
        "file": "cifar.th",
        "n": 3,
        "note": "<path>",
    }
    assert file_name("C:\\weights\\cifar.th") == "cifar.th"


def test_a_public_result_is_still_a_result_without_places() -> None:
    for result in (make_result(), make_failure()):
        public = public_result(result)
        text = json.dumps(public)
        assert "/home" not in text
        assert "Doe" not in text
        read = TrialResult.model_validate(public)
        assert read.trial.trial_id == result.trial.trial_id
        assert read.trial.axes == result.trial.axes
        assert read.timing == result.timing
    assert public["failure"]["message"] == "cannot read an image"


def test_a_public_study_hides_conditions_on_patients_only() -> None:
    raw = {"tasks": {"a": {"where": {"patient_id": ["Doe"], "site": "DU"}}}, "sources": {"n": {"file": "/w/a.th"}}}
    assert public_study(raw) == {
        "tasks": {"a": {"where": {"patient_id": "<hidden>", "site": "DU"}}},
        "sources": {"n": {"file": "a.th"}},
    }
