"""How the commands of this package show an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from search_spaces.exceptions import ScalecurvesError


@contextmanager
def user_errors() -> Iterator[None]:
    """An error of ours as one message on stderr and exit code 1."""
    try:
        yield
    except ScalecurvesError as error:
        Console(stderr=True, soft_wrap=True).print(f"Error: {error}", markup=False, style="red")
        raise typer.Exit(1) from None
