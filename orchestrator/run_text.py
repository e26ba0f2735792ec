"""What a run did, in words, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.pace import duration
from orchestrator.run_terms import RunSummary
from search_spaces.uris import hide_password


def print_summary(summary: RunSummary, console: Console) -> None:
    """What was trained, what failed and what was not started, with the reason."""
    console.print(
        f"{summary.trained} trials trained, {summary.skipped} were done before, {len(summary.failed)} failed, "
        f"in {duration(summary.seconds)}"
    )
    if summary.left:
        console.print(
            f"{summary.left} trials were not started, because others of their kind kept failing alike or "
            "the storage stayed away; mend the cause and run again",
            style="red",
        )
    if summary.cancelled:
        console.print(f"{summary.cancelled} trials were cancelled; the next run takes them up", style="yellow")
    if summary.over_budget:
        console.print(
            f"{summary.over_budget} trials were not started, because they would have exceeded --max-gpu-hours; "
            "the next run takes them up",
            style="yellow",
        )
    if summary.waiting:
        text = f"{summary.waiting} results wait in the storage for the next run; the record did not take them"
        console.print(f"{text}: {summary.outage}", style="yellow", markup=False)
    for failure in summary.failed:
        console.print(f"failed ({failure.failure_class}) {failure.label}: {failure.message}", style="red", markup=False)


def print_report(page: Path | None, headlines: Sequence[str], tracking_uri: str, console: Console) -> None:
    """What the report found and where it is; nothing if there is none."""
    if page is None:
        return
    console.print()
    for line in headlines:
        console.print(f"• {line}", markup=False)
    console.print()
    console.print(f"report: {page}", soft_wrap=True, markup=False)
    uri = hide_password(tracking_uri)
    look = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri '{uri}'"
    console.print(f"MLflow: {look}", soft_wrap=True, markup=False)
