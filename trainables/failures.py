"""From what training raised to what is recorded. Imports no torch."""

from __future__ import annotations

import errno
import re
import socket
import sys
import traceback
from pathlib import Path

from search_spaces.exceptions import ScalecurvesError
from search_spaces.names import FailureClass
from search_spaces.results import Failure

DETAIL_CHARACTERS = 8000
PUBLIC_CHARACTERS = 500

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|ALLOC_FAILED", re.IGNORECASE
)
_AWAY = frozenset({errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN})
"""What a mounted file system that is away for a while makes the operating system say."""
_LOST_PEER = re.compile(r"closed by peer|connection reset|broken pipe|connection closed|gloo|nccl", re.IGNORECASE)

_QUOTED = re.compile(r"(?<!\w)'[^'\n]*'(?!\w)|\"[^\"\n]*\"|`[^`\n]*`")
_WITH_SEPARATOR = re.compile(r"[^\s'\"`,;()\[\]{}]*[/\\][^\s'\"`,;()\[\]{}]*")
_END_MARKS = re.compile(r"^.*?(?=[:.!?]*$)", re.DOTALL)
_FILE_NAME = re.compile(
    r"[\w.+-]+\.(?:png|jpe?g|tiff?|bmp|webp|gif|dcm|dicom|nii|npy|npz|csv|tsv|parquet|arrow|json|ya?ml|txt|h5|hdf5"
    r"|zarr|zip|tar|gz|pth?|th|bin|safetensors|py)\b",
    re.IGNORECASE,
)


def first_line(error: BaseException) -> str:
    """Type and first line of an exception's message, at most 300 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def failure_of(error: BaseException, step: int | None) -> Failure:
    """The failure that an exception of training stands for.

    A ``ScalecurvesError`` says its class itself. Memory that could not be had, on the device or the host, is
    ``memory``; a broken connection between ranks is ``node``; everything else is ``user``: a bug in the user's factory
    or in ours, which a retry would only repeat.

    Args:
        error: What was raised.
        step: Optimiser step of the last report; None if there was none.
    """
    failure_class = _class_of(error)
    named = isinstance(error, ScalecurvesError)
    message = str(error) if named and str(error) else f"{type(error).__name__}: {error}"
    return Failure(
        failure_class=failure_class,
        message=message,
        public_message=public_message(message, values=failure_class is FailureClass.DATA or not named),
        step=step,
        detail="".join(traceback.format_exception(error))[-DETAIL_CHARACTERS:],
        host=socket.gethostname(),
        log=output_file(),
    )


def output_file() -> str:
    """The file that this process writes its errors to, as Ray's workers do; empty if that is a terminal or a pipe."""
    try:
        file = Path("/proc/self/fd/2").resolve(strict=True)
    except OSError:  # no such folder (macOS), or the stream is closed or no file
        return ""
    return str(file) if file.is_file() else ""


def node_failure(message: str) -> Failure:
    """The failure of a trial whose ranks, node or worker process were lost once too often."""
    return Failure(failure_class=FailureClass.NODE, message=message, public_message=public_message(message))


def lost_a_peer(error: BaseException) -> bool:
    """Whether an exception only says that another rank went away, so that the root cause lies there."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and not _is_memory(error) and bool(_LOST_PEER.search(str(error)))


def public_message(text: str, values: bool = False) -> str:
    """``text`` as it may leave the site: without paths and file names, which can hold names of patients.

    Args:
        text: Any message.
        values: Whether quoted values go too; messages about data quote image ids and labels.
    """
    text = _QUOTED.sub(lambda match: _quoted(match.group(), values), text)
    text = _WITH_SEPARATOR.sub(lambda match: "<path>" + _END_MARKS.sub("", match.group()), text)
    text = _FILE_NAME.sub("<file>", text)
    return text if len(text) <= PUBLIC_CHARACTERS else text[: PUBLIC_CHARACTERS - 3] + "..."


def _quoted(text: str, values: bool) -> str:
    mark, inside = text[0], text[1:-1]
    if "/" in inside or "\\" in inside:
        return f"{mark}<path>{mark}"
    return f"{mark}<value>{mark}" if values and inside else text


def _class_of(error: BaseException) -> FailureClass:
    if isinstance(error, ScalecurvesError):
        return error.failure_class
    if _is_memory(error):
        return FailureClass.MEMORY
    if isinstance(error, OSError) and error.errno in _AWAY:
        return FailureClass.TRACKING
    return FailureClass.NODE if lost_a_peer(error) else FailureClass.USER


def _is_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
