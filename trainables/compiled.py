"""Training through ``torch.compile`` (``protocol.compile``): one cache for all trials of a home, and named failures.

Forward and backward passes of training are compiled, validation and scoring are not: a trial that is scored later from
its kept weights gives the same numbers. The compiler fuses and reorders arithmetic, and draws dropout from a generator
of its own, so results differ from those without it; they depend on ranks and interruptions no more than those do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from search_spaces.exceptions import UserError
from search_spaces.toolchain import OPTION, missing_toolchain

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps what it has compiled."""

CACHE = "compiled"
"""Folder in the cache of the home."""


@contextlib.contextmanager
def compiled(module: nn.Module, cache: Path | None) -> Iterator[nn.Module]:
    """For the length of a ``with`` block, a compiled twin of a module: same parameters and buffers.

    It is compiled anew for every trial, which takes seconds once the cache has it: torch stops compiling, without a
    word, after a few models in one process.

    Args:
        module: On its device.
        cache: Folder of compiled code, unless the variable ``TORCHINDUCTOR_CACHE_DIR`` names one; None is torch's own.

    Raises:
        UserError: There is no compiler, or the model cannot be compiled; the message names the option.
    """
    if problem := missing_toolchain():
        raise UserError(problem)
    # Imported here, as they cost seconds and 160 MB.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config

    # More threads than one are processes, which share the CPUs of the rank.
    with _cached(cache), config.patch(compile_threads=torch.get_num_threads()):
        torch.compiler.reset()
        try:
            yield torch.compile(module)  # type: ignore[misc]
        except TorchDynamoException as error:
            raise UserError(
                f"{OPTION}: torch.compile cannot compile this model; write compile: false. "
                f"{type(error).__name__}: {_reason(error)}"
            ) from error
        finally:
            torch.compiler.reset()


@contextlib.contextmanager
def _cached(folder: Path | None) -> Iterator[None]:
    before = _chosen_cache()
    if before is None and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CACHE_VARIABLE, None)


def _chosen_cache() -> str | None:
    """The user's folder; torch writes its own default into the variable as soon as a part of it asks."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    value = os.environ.get(CACHE_VARIABLE)
    return None if value is None or Path(value) == Path(default_cache_dir()).absolute() else value


def _reason(error: Exception) -> str:
    """Dynamo says in its first lines what failed where, and then how to debug torch."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:300] or "no reason given"
