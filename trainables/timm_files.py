"""timm's pretrained weights as files in a folder of the user's: which are there, and what they hold. Needs no torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from search_spaces.identity import ScaleCard
from trainables.hashing import file_sha256

LOCAL_VARIABLE = "SCALECURVES_TIMM_WEIGHTS"
"""Folder with timm's weights as files: ``<name>.<tag>/model.safetensors`` or ``<name>.<tag>.safetensors`` (or ``.pth``,
``.bin``). What is not there is fetched by timm: from its cache, a mirror (``HF_ENDPOINT``) or the network."""

_FORMS = ("{}/model.safetensors", "{}/pytorch_model.bin", "{}.safetensors", "{}.pth", "{}.bin")
_HASHED = "@sha256:"


def local_folder() -> Path | None:
    """The folder that ``LOCAL_VARIABLE`` names, whether or not it is there; None if none is named."""
    folder = os.environ.get(LOCAL_VARIABLE, "").strip()
    return Path(folder).expanduser() if folder else None


def local_file(revision: str) -> Path | None:
    """The file that is used instead of what timm would fetch.

    Args:
        revision: ``name.tag@location``.
    """
    folder, name = local_folder(), revision.partition("@")[0]
    if folder is None:
        return None
    return next((file for form in _FORMS if (file := folder / form.format(name)).is_file()), None)


def content_at_hand(revision: str) -> str:
    """What weights are: ``name.tag@location`` as timm says, or ``name.tag@sha256:HASH`` of the local file.

    Raises:
        UserError: The local file cannot be read.
    """
    file = local_file(revision)
    return revision if file is None else f"{revision.partition('@')[0]}{_HASHED}{file_sha256(file, LOCAL_VARIABLE)}"


def is_local(text: str) -> bool:
    """Whether a content is that of a local file."""
    return _HASHED in text


def with_local_files(card: ScaleCard) -> ScaleCard:
    """Facts about a scale as they are on this machine: local files take the place of what timm would fetch.

    Raises:
        UserError: A local file cannot be read.
    """
    if card.revision is None:
        return card
    return replace(card, revision={tag: content_at_hand(revision) for tag, revision in card.revision.items()})
