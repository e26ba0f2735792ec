"""Where an attempt runs, and the global settings of a process that a trial borrows."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from search_spaces.results import Environment
from trainables.groups import Group

_PACKAGES = ("torchvision", "timm", "numpy", "segmentation_models_pytorch", "scalecurves")
_GIT_TIMEOUT_S = 10


def environment(group: Group) -> Environment:
    """Host, device, ranks, versions and commit of this attempt."""
    return Environment(
        host=socket.gethostname(),
        device=device_name(group.device),
        ranks=group.size,
        versions=dict(package_versions()),
        commit=commit(),
    )


def device_name(device: torch.device) -> str:
    """Such as ``cpu (AMD EPYC 7B13)`` or ``cuda (NVIDIA H200)``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{device.type} ({name})" if name else device.type


@functools.cache
def package_versions() -> tuple[tuple[str, str], ...]:
    """(package, version) of Python and what results depend on; a package that is absent is left out."""
    # torch's own string names the build (+cpu, +cu132), which its metadata may leave out.
    versions = [("python", platform.python_version()), ("torch", str(torch.__version__))]
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append((package, importlib.metadata.version(package)))
    return tuple(versions)


@functools.cache
def commit() -> str | None:
    """Commit of the working tree this code lies in, ``+`` appended if tracked files have changes; None without one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


@contextlib.contextmanager
def borrowed_globals(device: torch.device) -> Iterator[None]:
    """Full float32 arithmetic inside; random states and flags of torch, numpy and Python as before after it."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's factory may draw from it
    devices = [device] if device.type == "cuda" else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = _read_flags()
    with torch.random.fork_rng(devices=devices):
        try:
            _full_precision()
            yield
        finally:
            _write_flags(flags)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _full_precision() -> None:
    """No TF32 in products and convolutions: float32 means float32 on every device."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


_Flags = tuple[bool, bool, bool, bool, torch.dtype, int, bool]


def _read_flags() -> _Flags:
    cudnn = torch.backends.cudnn
    return (
        torch.backends.cuda.matmul.allow_tf32,
        cudnn.allow_tf32,
        cudnn.benchmark,
        cudnn.deterministic,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )


def _write_flags(flags: _Flags) -> None:
    cudnn = torch.backends.cudnn
    torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = flags[:4]
    torch.set_default_dtype(flags[4])
    if torch.get_num_threads() != flags[5]:
        torch.set_num_threads(flags[5])
    torch.set_grad_enabled(flags[6])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
