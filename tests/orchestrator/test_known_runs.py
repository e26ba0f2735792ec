"""What the writer of the record remembers of runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from orchestrator.record_states import KnownRun, KnownRuns


def run(attempt: str, trial: str, *, start_ms: int = 0, complete: bool = True) -> KnownRun:
    """A run that ended."""
    return KnownRun(
        run_id=f"run-{attempt}",
        attempt_id=attempt,
        trial_id=trial,
        start_ms=start_ms,
        terminated=True,
        complete=complete,
        artifact_uri="",
    )


def test_the_complete_runs_of_a_trial_come_earliest_first() -> None:
    late, early, failed = run("a", "t", start_ms=2), run("b", "t", start_ms=1), run("c", "t", complete=False)
    known = KnownRuns([late, failed, early, run("d", "other")])
    assert known.complete("t") == [early, late]
    assert known.complete("nobody") == []
    assert known.get("c") == failed
    assert known.get("e") is None
    assert set(known) == {late, failed, early, run("d", "other")}


def test_a_run_takes_the_place_of_what_was_known_of_its_attempt() -> None:
    known = KnownRuns([run("a", "t", complete=False)])
    known.put(run("a", "t"))
    assert known.complete("t") == [run("a", "t")]
    known.put(dataclasses.replace(run("a", "t"), complete=False))
    assert known.complete("t") == []
    known.put(run("a", "t"))
    known.put(run("a", "other"))
    assert known.complete("t") == []
    assert known.complete("other") == [run("a", "other")]


def test_the_runs_of_other_trials_are_not_looked_at() -> None:
    class Untouched:
        attempt_id, trial_id = "b", "other"

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    known = KnownRuns([run("a", "t")])
    known.put(Untouched())  # type: ignore[arg-type]
    assert known.complete("t") == [run("a", "t")]
