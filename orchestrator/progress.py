"""How a run looks while it runs: a live view with rich on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.forecast import SecondsModel

_QUIET_S = 10.0


def duration(seconds: float) -> str:
    """Short text: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Pace:
    """Time left, from how long trials took so far: a constant and a part that grows with their work.

    Args:
        costs: Trial id -> expected work in any unit.
        clock: Seconds, never going back.
    """

    def __init__(self, costs: dict[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = dict(costs)
        self._took: list[tuple[float, float]] = []
        self._clock = clock
        self._started = clock()

    def expect(self, costs: dict[str, float]) -> None:
        """Further trials with their expected work."""
        self._left |= costs

    def finished(self, trial_id: str, seconds: float | None = None) -> None:
        """A trial has ended.

        Args:
            trial_id: Its id.
            seconds: How long it ran; None if it says nothing about others, as after a failure.
        """
        cost = self._left.pop(trial_id, None)
        if cost is not None and seconds is not None:
            self._took.append((cost, seconds))

    def eta_s(self) -> float | None:
        """Seconds left; None before the first trial has ended."""
        if not self._left:
            return 0.0
        if not self._took:
            return None
        took, left = list(self._took), list(self._left.values())  # copies: the driver's note asks from its own thread
        model = SecondsModel(took)
        at_a_time = sum(seconds for _, seconds in took) / max(self._clock() - self._started, 1e-9)
        return sum(model.seconds(cost) for cost in left) / max(at_a_time, 1e-9)


class ProgressView:
    """Live view of a run.

    Args:
        console: Where to draw.
        labels: Trial id -> short text.
        costs: Trial id -> expected work in any unit, for the time left.
    """

    def __init__(self, console: Console, labels: dict[str, str], costs: dict[str, float]) -> None:
        self._console = console
        self._labels = dict(labels)
        self._pace = Pace(costs)
        self._done = self._failed = 0
        self._left: dict[str, str] = {}
        self._running: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._main = self._bars.add_task("trials", total=len(labels), note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def eta_s(self) -> float | None:
        """Seconds left; None before the first trial has ended."""
        return self._pace.eta_s()

    def report(self, report: dict[str, Any]) -> None:
        """A running trial has reported: keys ``trial_id``, ``step``, ``steps``, ``val``."""
        if not self._live:
            return
        trial_id = str(report["trial_id"])
        if trial_id not in self._running:
            label = self._labels.get(trial_id, trial_id)
            self._running[trial_id] = self._bars.add_task(f"  {label}", total=report.get("steps"), note="")
        value = report.get("val")
        note = f"val {value:.3f}" if isinstance(value, float) else ""
        self._bars.update(self._running[trial_id], completed=report.get("step", 0), note=note)

    def revise(self, gone: list[str], labels: dict[str, str], costs: dict[str, float]) -> None:
        """Expected trials have become others, or will not come."""
        for trial_id in gone:
            self._pace.finished(trial_id)
            self._labels.pop(trial_id, None)
        self._labels |= labels
        self._pace.expect(costs)
        self._bars.update(self._main, total=len(self._labels))

    def done(self, trial_id: str, seconds: float | None = None) -> None:
        """A trial is complete; it took so many seconds."""
        self._done += 1
        self._ended(trial_id, seconds)

    def spent(self, trial_id: str, message: str) -> None:
        """A search trial has failed by its values, which is a result like others."""
        self._done += 1
        self._console.print(
            f"search trial counts as worst: {self._labels.get(trial_id, trial_id)} ({trial_id}): {message}",
            style="dim",
            markup=False,
        )
        self._ended(trial_id)

    def again(self, trial_id: str, message: str) -> None:
        """A trial has failed and will be tried once more."""
        label = self._labels.get(trial_id, trial_id)
        self._console.print(f"tried again: {label} ({trial_id}): {message}", style="yellow", markup=False)
        self._hide(trial_id)

    def failed(self, trial_id: str, message: str) -> None:
        """A trial has failed; its message is shown at once."""
        self._failed += 1
        self._console.print(
            f"FAILED {self._labels.get(trial_id, trial_id)} ({trial_id}): {message}", style="red", markup=False
        )
        self._ended(trial_id)

    def left(self, trial_ids: list[str], kind: str, message: str) -> None:
        """These trials will not be started: others of their kind kept failing alike."""
        self._put_off(
            trial_ids,
            f"{len(trial_ids)} trials of {kind} are not started, because trials there keep failing alike: {message}",
            "red",
        )

    def put_off(self, trial_ids: list[str], why: str) -> None:
        """These trials will not end in this run, for another reason than failures."""
        self._put_off(trial_ids, f"{len(trial_ids)} trials are put off: {why}", "yellow")

    def _put_off(self, trial_ids: list[str], line: str, style: str) -> None:
        self._console.print(line, style=style, markup=False)
        for trial_id in trial_ids:
            self._pace.finished(trial_id)
            self._hide(trial_id)
            if trial_id in self._labels:
                self._left[trial_id] = self._labels.pop(trial_id)
        self._bars.update(self._main, total=len(self._labels))

    def _hide(self, trial_id: str) -> None:
        if trial_id in self._running:
            self._bars.remove_task(self._running.pop(trial_id))

    def _ended(self, trial_id: str, seconds: float | None = None) -> None:
        self._pace.finished(trial_id, seconds)
        self._hide(trial_id)
        if trial_id in self._left:  # it was put off, but ended before it could be stopped
            self._labels[trial_id] = self._left.pop(trial_id)
            self._bars.update(self._main, total=len(self._labels))
        eta = self._pace.eta_s()
        note = f"{self._failed} failed" if self._failed else ""
        note += f"  about {duration(eta)} left" if eta else ""
        self._bars.update(self._main, advance=1, note=note)
        self._plain_line(note)

    def _plain_line(self, note: str) -> None:
        now = time.monotonic()
        ended = self._done + self._failed
        if self._live or (now - self._last_line < _QUIET_S and ended < len(self._labels)):
            return
        self._last_line = now
        self._console.print(f"{ended}/{len(self._labels)} trials  {note}".rstrip(), markup=False, highlight=False)
