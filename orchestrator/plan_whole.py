"""The whole study behind a plan that ``--only`` cut: what a report, the record's plan and forecasts have to know."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from orchestrator.plan import Plan, make_plan
from trainables.library import TaskLibrary


def whole_of(plan: Plan, library: TaskLibrary, console: Console | None = None) -> Plan:
    """The plan of the whole study; the plan itself if it is that, or if the rest of the study has problems.

    The rest is planned without loading weights, so costs and parameters are not known; notes and what was found in
    images are those of the selected trials, too.

    Args:
        plan: A plan.
        library: Imported tasks.
        console: Where to show what goes on, and to say why the rest is not known; nothing is printed without one.
    """
    if plan.only is None or plan.resolver is None:
        return plan
    console = console or Console(quiet=True)
    doing = "planning what --only leaves out"
    with console.status(doing) as status:
        # Images of tasks that were never used are hashed, which may take a while: only then are their trials known.
        whole = make_plan(
            plan.loaded,
            library,
            note=lambda what: status.update(f"{doing}: {what}"),
            load_weights=False,
            to_be_run=False,
        )
    if whole.resolver is None:
        console.print(
            f"what --only leaves out cannot be planned, so any of its trials may be in the report: {whole.problems[0]}",
            style="yellow",
            markup=False,
        )
        return plan
    found = plan.resolver
    whole.resolver.alike, whole.resolver.apart, whole.resolver.near_copies = found.alike, found.apart, found.near_copies
    return replace(whole, notes=tuple(dict.fromkeys((*plan.notes, *whole.notes))))
