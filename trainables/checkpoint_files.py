"""Checkpoint files as dicts of tensors. No code of a file is ever run: pickles are read weights-only."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from search_spaces.catalogue import catalogue
from search_spaces.exceptions import UserError, unknown
from search_spaces.source_specs import CheckpointSource
from trainables.bit_npz import is_bit, timm_name

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".torch")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npz")

_MOST_LEVELS = 4
_MOST_NAMES = 5
_SHOWN = 60
"""Bytes of a text that was saved as weights."""
_LEAVES = ("weight", "kernel")
"""What tells a state dict from an optimiser's state, which holds tensors too."""
_TOP = "(top level)"
_CONVERT = (
    "Files are only read weights-only, because a pickle can run code. If you trust it, convert it once: "
    "python -c \"import torch; c = torch.load('IN', map_location='cpu', weights_only=False); "
    "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c['state_dict'], 'OUT.pth')\""
)


def read_source(weights: CheckpointSource) -> dict[str, Tensor]:
    """The tensors of a source's file.

    The ``state_key`` of a catalogue entry is where the published file has its state dict. A copy of that file may be
    flat (converted to safetensors, or by what is advised here), and is then read as it is.

    Raises:
        UserError: As for ``read_state_dict``.
    """
    entry = catalogue().get(weights.catalogue or "")
    of_entry = entry is not None and weights.state_key == entry.state_key
    return read_state_dict(weights.file, weights.state_key, flat_too=of_entry)


def read_state_dict(path: str | Path, state_key: str | None = None, flat_too: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, on the CPU, with the file's names and number formats.

    Args:
        path: A ``.safetensors``, ``.npz`` or torch file (``.pth``, ``.pt``, ``.th``, ``.tar``, ``.bin``, ``.ckpt``,
            ``.torch``). Original BiT ``.npz`` files get timm's names and axis order.
        state_key: Where the state dict lies inside a torch file, such as ``state_dict`` or ``model.trunk``; found by
            itself if there is only one.
        flat_too: Whether a file whose tensors lie at its top level is read all the same.

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or needs code to be read; or the state dict is not found
            or not the only one.
    """
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"checkpoint {file}: {unknown('file type', suffix or 'without suffix', SUFFIXES)}")
    _refuse_what_is_no_checkpoint(file)
    if suffix == ".safetensors":
        return _without_key(_read_safetensors(file)[0], None if flat_too else state_key, file)
    if suffix == ".npz":
        return _without_key(_read_npz(file), None if flat_too else state_key, file)
    content = _read_torch(file)
    if flat_too and state_key is not None and _walk(content, state_key) is None and "" in dict(_candidates(content)):
        state_key = None
    return _find_state_dict(content, state_key, file)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file.

    Raises:
        UserError: The file is missing or damaged.
    """
    file = Path(path)
    _refuse_what_is_no_checkpoint(file)
    return _read_safetensors(file)


def _refuse_what_is_no_checkpoint(file: Path) -> None:
    """Name the usual accidents of downloading: an error page, a git-lfs pointer, nothing at all."""
    try:
        with file.open("rb") as stream:
            start = stream.read(256)
    except FileNotFoundError:
        raise UserError(f"checkpoint {file} does not exist") from None
    except OSError as error:
        raise UserError(f"checkpoint {file} cannot be read: {error.strerror or error}") from error
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        raise UserError(f"checkpoint {file} is empty")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"checkpoint {file} is a git-lfs pointer, not the weights: run git lfs pull where it came from")
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in text)  # the length that starts a safetensors file is none
    if is_text and text.startswith(b"<"):
        raise UserError(f"checkpoint {file} is a web page, not weights: the download went to a page; fetch it again")
    if is_text:
        shown = text[:_SHOWN].decode("utf-8", "replace")
        raise UserError(f"checkpoint {file} is text, not weights; it starts with {shown!r}")


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"checkpoint {file} is damaged or no safetensors file: {error}") from error


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {str(name): archive[name] for name in archive.files}
    except Exception as error:  # a damaged file makes numpy, zlib and Python's tokenizer raise anything
        raise UserError(f"checkpoint {file} is damaged or no npz file of plain arrays: {error}") from error
    if odd := [name for name, a in arrays.items() if not isinstance(a, np.ndarray)]:
        raise UserError(f"checkpoint {file} is no npz file of plain arrays: {odd[0]!r} in it is none")
    if is_bit(arrays):
        # TensorFlow keeps convolutions as (height, width, in, out), torch as (out, in, height, width).
        arrays = {timm_name(n): a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for n, a in arrays.items()}
    numbers = {n: a for n, a in arrays.items() if a.dtype.kind in "fiub"}
    return {n: torch.from_numpy(np.array(a, dtype=a.dtype.newbyteorder("="), order="C")) for n, a in numbers.items()}


def _read_torch(file: Path) -> Any:
    try:
        with _allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a pickle's protocol: what is refused is said below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {file} {_pickle_trouble(file, error)}") from error
    except Exception as error:  # as above
        if "TorchScript" in str(error):
            raise UserError(f"checkpoint {file} is a TorchScript program, not weights. {_CONVERT}") from error
        raise UserError(f"checkpoint {file} {_damaged(file)}: {_first_sentence(error)}") from error


def _allowed() -> AbstractContextManager[None]:
    """Many training scripts keep their command line beside the weights; it holds no code."""
    return torch.serialization.safe_globals([argparse.Namespace])


def _pickle_trouble(file: Path, error: Exception) -> str:
    needs: list[str] = []
    if zipfile.is_zipfile(file):
        with _allowed():
            needs = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    elif "GLOBAL " in str(error):
        needs = [str(error).partition("GLOBAL ")[2].split()[0].rstrip(".,:")]
    else:
        needs = _names_in_pickle(file)
    if needs:
        return f"holds more than weights: reading it would need {', '.join(needs[:_MOST_NAMES])}. {_CONVERT}"
    return _damaged(file)


def _names_in_pickle(file: Path) -> list[str]:
    """Classes and functions that a plain pickle names, told from its opcodes: nothing is run."""
    texts: list[str] = []
    names: list[str] = []
    # MemoryError: of a text that says it is longer than any memory.
    with contextlib.suppress(ValueError, OSError, MemoryError), file.open("rb") as stream:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    return list(dict.fromkeys(names))


def _damaged(file: Path) -> str:
    return f"({file.stat().st_size} bytes) is cut off, damaged or no torch file"


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]


def _without_key(tensors: dict[str, Tensor], state_key: str | None, file: Path) -> dict[str, Tensor]:
    if state_key is not None:
        raise UserError(f"checkpoint {file} is flat: leave state_key ({state_key!r}) out")
    return tensors


def _find_state_dict(content: Any, state_key: str | None, file: Path) -> dict[str, Tensor]:
    candidates = dict(_candidates(content))
    listed = ", ".join(f"{name or _TOP} ({len(_tensors(d))} tensors)" for name, d in candidates.items())
    if state_key is not None:
        found = _walk(content, state_key)
        if found is None or not _tensors(found):
            raise UserError(
                f"checkpoint {file}: no tensors under state_key {state_key!r}; state dicts found: {listed or 'none'}"
                + ("; leave state_key out for the top level" if "" in candidates else "")
            )
        return _tensors(found)
    if not candidates:
        holds = ", ".join(map(str, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"checkpoint {file} holds no state dict (text names with tensors such as a.weight); got: {holds}"
        )
    if len(candidates) > 1:
        raise UserError(f"checkpoint {file} holds several state dicts; choose one by state_key: {listed}")
    return _tensors(next(iter(candidates.values())))


def _candidates(content: Any, name: str = "", level: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """State dicts and where they lie. One inside another is part of it."""
    if not isinstance(content, Mapping) or level > _MOST_LEVELS:
        return
    if any(isinstance(k, str) and k.split(".")[-1] in _LEAVES and isinstance(v, Tensor) for k, v in content.items()):
        yield name, content
        return
    for key, value in content.items():
        if isinstance(key, str):
            yield from _candidates(value, f"{name}.{key}" if name else key, level + 1)


def _walk(content: Any, path: str) -> Mapping[str, Any] | None:
    """What lies under a dotted path; keys may hold dots themselves."""
    if not isinstance(content, Mapping):
        return None
    if path in content:
        return content[path] if isinstance(content[path], Mapping) else None
    for key in content:
        if isinstance(key, str) and path.startswith(f"{key}."):
            found = _walk(content[key], path[len(key) + 1 :])
            if found is not None:
                return found
    return None


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
