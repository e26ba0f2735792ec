"""What ``protocol.compile`` needs of a machine, found without torch."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

OPTION = "protocol.compile"
"""What messages call the option."""


def missing_toolchain() -> str | None:
    """Why ``torch.compile`` cannot build its kernels on this machine, and what to do; None if it can.

    Torch's compiler writes C++ (on GPUs Triton, whose launchers are C) and calls the compiler that the variable ``CXX``
    names, else g++ (clang++ on macOS); what it builds includes Python's headers.
    """
    default = "clang++" if sys.platform == "darwin" else "g++"
    written = shlex.split(os.environ.get("CXX", "")) or [default]
    if shutil.which(written[0]) is None:
        return f"{OPTION} needs a C++ compiler, and {written[0]!r} is not found: install g++, or name one by CXX"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"{OPTION} needs Python's headers, and {headers} does not exist: install python3-dev"
    return None
