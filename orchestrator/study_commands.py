"""What commands on a study share: how it is named, planned and reported, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.options import Shared
from orchestrator.terminal import make_console

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.record import Record
    from search_spaces.files import LoadedStudy

console = make_console()

StudyArgument = Annotated[str, typer.Argument(help="Preset (demo, taher2021, ...), YAML file, or module:function.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the report; else ./reports/<study>.")]


def loaded_study(text: str, shared: Shared) -> LoadedStudy:
    """The study of that name with the changes of ``--set``; see ``orchestrator.api.loaded``."""
    from orchestrator.api import loaded

    return loaded(text, shared.set_ or ())


def plan_of(text: str, shared: Shared, quiet: bool = False) -> Plan:
    """Its plan, problems included; ``quiet`` leaves standard output to the caller. See ``orchestrator.api.a_plan``."""
    from orchestrator.api import a_plan

    return a_plan(loaded_study(text, shared), shared.places(), shared.only, console=None if quiet else console)


def sound_plan_of(text: str, shared: Shared, quiet: bool = False, load_weights: bool = True) -> Plan:
    """Its plan, refused if it has problems; see ``orchestrator.api.sound_plan``."""
    from orchestrator.api import sound_plan

    shown = None if quiet else console
    return sound_plan(
        loaded_study(text, shared), shared.places(), shared.only, console=shown, load_weights=load_weights
    )


def report_on(plan: Plan | None, record: Record, out: Path | None) -> None:
    """Build the report of an open record and say where it is; results of others have no plan."""
    from orchestrator.api import attach_report, parent_closed, write_report
    from orchestrator.run_text import print_report

    with parent_closed(record, console):
        if plan is None:
            page, headlines = attach_report(record, console, out)
        else:
            page, headlines = write_report(plan, record, console, out)
    print_report(page, headlines, record.uri, console)
