"""What every command line shares: where it prints, and how an error looks."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from search_spaces.exceptions import Paused, ScalecurvesError

EXIT_USER, EXIT_FAILED, EXIT_INTERRUPTED = 1, 3, 130
"""Exit codes (docs/failures.md); 0 is success and 2 a wrong command line."""


def make_console(quiet: bool = False) -> Console:
    """Wide enough on a pipe that no line is cut: other programs read it. Plain lines in a notebook's cell.

    Args:
        quiet: Print nothing.
    """
    width = None if sys.stdout.isatty() else 200
    # Rich's own drawing in notebooks needs widgets that few have installed, and leaves no text in the saved notebook.
    return Console(soft_wrap=True, highlight=False, width=width, force_jupyter=False, quiet=quiet)


def leave_quickly() -> None:
    """Of a process that ends with its command: without Python's last search for garbage, which takes a second."""

    def freeze() -> None:
        if "triton" not in sys.modules:  # whose bindings then complain of leaks
            gc.freeze()

    atexit.register(freeze)


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors of ours as one message on stderr and exit code 1; an interruption says how to go on.

    One Ctrl-C while trials run is a wish fulfilled, exit code 0; a second one, SIGTERM, and one before that are
    not: whoever started the command should know that the study is not done.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        yield
    except ScalecurvesError as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}")
        raise typer.Exit(EXIT_USER) from None
    except Paused:
        errors.print("stopped as asked; what ran has left checkpoints, and the same command goes on from them")
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        errors.print("interrupted; the same command continues where this one stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None
