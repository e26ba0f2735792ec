"""The options that every command of ``orchestrator.sweep`` takes, and what they stand for."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import FrameType
from typing import Annotated, Any, get_type_hints

import typer

from orchestrator.terminal import user_errors
from search_spaces.exceptions import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Shared options; a command that has no use for one ignores it."""

    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change an axis or a field: task=a,b | seeds=2 | protocol.budget.steps=50. Repeatable."
        ),
    ] = None
    only: Annotated[
        str | None, typer.Option("--only", help="Select target trials: 'task=ham10000,data_fraction<=0.1'.")
    ] = None
    address: Annotated[str, typer.Option("--address", help="Ray: local, auto (the cluster around) or an address.")] = (
        "local"
    )
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="MLflow; else MLFLOW_TRACKING_URI, else SQLite in the home folder."),
    ] = None
    storage: Annotated[
        str | None, typer.Option("--storage", help="Path or URI of weights and spool; else <home>/storage.")
    ] = None
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False

    def places(self) -> Any:
        """The ``orchestrator.places.Places`` that they name."""
        from orchestrator.places import Places

        return Places.of(storage=self.storage, tracking_uri=self.tracking_uri, address=self.address)


def pairs(option: str, given: Sequence[str], *, single: bool = False) -> dict[str, str]:
    """``OLD=NEW`` texts, several in one separated by commas, as a mapping.

    Args:
        option: Name of the option, for the message.
        given: What the user wrote.
        single: A text without ``=`` is the value of the key ``""``.

    Raises:
        UserError: A text of another form, or a key given twice.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for text in given for part in text.split(",")):
        old, equals, new = (piece.strip() for piece in part.partition("="))
        if single and not equals:
            old, new = "", old
        if not new or (not old and not single):
            raise UserError(f"{option} takes {'METRIC or ' if single else ''}OLD=NEW, got {part!r}")
        if old in found:
            raise UserError(f"{option} names {old or new!r} twice")
        found[old] = new
    return found


def command(app: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as a command that takes its own options and, as ``shared``, those of all commands.

    An error of ours is printed as one message with exit code 1; SIGTERM (a stopped job, a drained node) ends the
    command like Ctrl-C.

    Args:
        app: The command line.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(Shared, include_extras=True)
        common = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(Shared)
        ]
        signature = inspect.signature(function, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "shared"]

        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            shared = Shared(**{p.name: options.pop(p.name) for p in common if p.name in options})
            with user_errors(), _terminated_as_interrupt():
                function(*arguments, shared=shared, **options)

        run.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
        app.command()(run)
        return run

    return register


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
