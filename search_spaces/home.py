"""The folder that holds imported tasks and image stores."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "SCALECURVES_HOME"

CACHE = "cache"
"""Folder of the home; what is in it can be found out, or made, again."""


def scalecurves_home() -> Path:
    """``SCALECURVES_HOME``, else ``~/.scalecurves``. Not created here: only what writes into it creates it."""
    given = os.environ.get(HOME_VARIABLE, "").strip()
    return (Path(given) if given else Path("~/.scalecurves")).expanduser().absolute()
