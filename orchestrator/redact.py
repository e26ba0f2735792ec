"""What may leave for MLflow: no path, no file name of an image, no patient.

Image paths and file names in messages can hold patient identifiers, so they are replaced; conditions on patients or
images in a study are hidden. Checkpoints keep their file name without the folder: together with the hash it says what
was loaded.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from search_spaces.names import Column
from search_spaces.results import TrialResult

_PLACE = "<path>"
_HIDDEN = "<hidden>"
_IDENTIFYING = frozenset({Column.PATIENT_ID, Column.IMAGE_ID, Column.STUDY_ID, Column.PATH})
_IMAGE = r"(?:png|jpe?g|tiff?|bmp|gif|webp|dcm|dicom|nii|nii\.gz|npy|npz|mha|mhd|nrrd|svs)"
_QUOTED_PATH = re.compile(
    rf"""(?P<q>['"])(?:(?:[a-z][a-z0-9+]*:)?[/\\~][^'"]*|[A-Za-z]:[\\/][^'"]*|[^'"]*\.{_IMAGE})(?P=q)""", re.IGNORECASE
)
_URI = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",;]+", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(?<![\w.<])(?:~|[A-Za-z]:)?[/\\][^\s'\",;:()]*[\w/\\]")
_SPACED_IMAGE = re.compile(rf"[^\s'\"<>()]*[/\\][^\n'\"<>]*?\.{_IMAGE}\b", re.IGNORECASE)
"""From the first part of a path to the image's extension, over spaces: names of people have them."""
_IMAGE_FILE = re.compile(rf"[^\s'\"<>()]*\.{_IMAGE}\b", re.IGNORECASE)


def redact_text(text: str) -> str:
    """``text`` with quoted paths, URIs, absolute paths and names of image files replaced by ``<path>``."""
    for pattern in (_QUOTED_PATH, _SPACED_IMAGE, _URI, _ABSOLUTE, _IMAGE_FILE):
        text = pattern.sub(_PLACE, text)
    return text


def redact_json(value: Any) -> Any:
    """The same for every text in a JSON value; ``file`` keeps its last part, identifying conditions are hidden."""
    if isinstance(value, dict):
        return {redact_text(str(key)): _redact_item(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def _redact_item(key: str, item: Any) -> Any:
    if key in _IDENTIFYING:
        return _HIDDEN
    if key == "file" and isinstance(item, str):
        return file_name(item)
    return redact_json(item)


def file_name(path: str) -> str:
    """The last part of a path of either system."""
    return PureWindowsPath(PurePosixPath(path).name).name


def public_result(result: TrialResult) -> dict[str, Any]:
    """``trial.json`` as MLflow may have it: the public message for the message, no traceback, no places on disk."""
    raw = result.model_dump(mode="json")
    if result.failure is not None:
        raw["failure"] |= {"message": result.failure.public_message, "detail": "", "log": ""}
    raw["trial"]["workspace"] |= {"home": "", "storage": "", "import_paths": []}
    axes, versions = raw["trial"]["axes"], raw["environment"]["versions"] if raw["environment"] else None
    public: dict[str, Any] = redact_json(raw)
    public["trial"]["axes"] = axes  # names that the user chose, and the run's name says them anyway
    if versions is not None:
        public["environment"]["versions"] = versions
    return public


def public_study(raw: dict[str, Any]) -> dict[str, Any]:
    """A study file as MLflow may have it: conditions on single patients hidden, files without their folder."""
    return {key: _hide_conditions(value) for key, value in raw.items()}


def _hide_conditions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(key, item) for key, item in value.items()}
    return [_hide_conditions(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(key: str, item: Any) -> Any:
    if key in _IDENTIFYING:
        return _HIDDEN
    if key in ("file", "manifest") and isinstance(item, str):
        return file_name(item)
    return _hide_conditions(item)
