"""Options that several commands take, or one takes many of: given one by one, used together."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from types import FrameType
from typing import Annotated, Any, get_type_hints

import typer

from orchestrator.terminal import user_errors
from search_spaces.exceptions import Terminated, UserError


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


def spread(parameter: str, options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option per field of a dataclass; the function gets them together, as one parameter.

    Args:
        parameter: Name of the function's parameter.
        options: The dataclass; its fields are annotated as typer wants parameters to be.
    """
    hints = get_type_hints(options, include_extras=True)
    each = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(options)
    ]

    def spread_over(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != parameter]

        @functools.wraps(function)
        def run(*arguments: Any, **given: Any) -> None:
            gathered = options(**{p.name: given.pop(p.name) for p in each if p.name in given})
            function(*arguments, **{parameter: gathered}, **given)

        run.__signature__ = signature.replace(parameters=[*own, *each])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *each)}
        return run

    return spread_over


def command(app: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as a command that takes its own options and, as ``shared``, those of all commands.

    An error of ours is printed as one message with exit code 1; SIGTERM (a stopped job, a drained node) ends the
    command like Ctrl-C.

    Args:
        app: The command line.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> None:
            with user_errors(), _terminated_as_interrupt():
                function(*arguments, **options)

        run = spread("shared", Shared)(guarded)
        app.command()(run)
        return run

    return register


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
