"""How a run looks while it runs: a live view with rich on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from orchestrator.cell_counts import CellCounts
from orchestrator.pace import Pace, TimeLeft
from orchestrator.running_contrasts import RunningContrasts
from search_spaces.expand import Trial

_QUIET_S = 10.0
"""Least seconds between two plain lines."""
_CONTRASTS_S = 600.0
"""Least seconds between two plain listings of contrasts, but for those at the end of a task."""
_REDRAW_S = 1.0
"""Least seconds between two counts of everything for the live view."""


class _Bars(Progress):
    """Progress bars with lines of text below them."""

    def __init__(self, *columns: Any, below: Callable[[], list[str]], **options: Any) -> None:
        self._below = below
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called by rich for each frame."""
        yield from super().get_renderables()
        lines = self._below()
        if lines:
            yield Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


class ProgressView:
    """Live view of a run.

    Args:
        console: Where to draw.
        trials: What is to be trained in this run, by id.
        costs: Trial id -> expected work in any unit, for the time left.
        contrasts: Gets the values of trials as they end.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        console: Console,
        trials: Mapping[str, Trial],
        costs: dict[str, float],
        contrasts: RunningContrasts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._trials = dict(trials)
        self._contrasts = contrasts
        self._clock = clock
        self._pace = Pace(costs, clock)
        self._cells = CellCounts()
        self._done = self._failed = 0
        self._left: dict[str, Trial] = {}
        self._running: dict[str, TaskID] = {}
        self._last_line = -_QUIET_S
        self._last_contrasts = clock()
        self._lines: list[str] = []
        self._counted_at = -_REDRAW_S
        self._live = console.is_terminal
        self._bars = _Bars(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            below=self._below,
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._main = self._bars.add_task("trials", total=len(self._trials), note="")
        for trial_id, trial in self._trials.items():
            self._cells.expect(trial_id, trial)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def time_left(self) -> TimeLeft | None:
        """Until the run ends; None before the first trial has ended."""
        return self._pace.left()

    def stopping(self) -> None:
        """A signal has stopped the run; trials that run write checkpoints now."""
        self._console.print("stopping: running trials write checkpoints; a second signal does not wait for them")

    def storage_away(self, message: str) -> None:
        """A trial could not reach the storage; nothing starts until it answers."""
        self._console.print(f"nothing starts until the storage answers: {message}", style="yellow", markup=False)

    def storage_back(self) -> None:
        """The storage answers again."""
        self._console.print("the storage answers again")

    def known(self, trial_id: str, trial: Trial, value: float | None) -> None:
        """A trial was done before this run; its validation value."""
        self._cells.expect(trial_id, trial)
        self._cells.ended(trial_id, done=True)
        self._contrasts.take(trial, value)

    def report(self, report: dict[str, Any]) -> None:
        """A running trial has reported: keys ``trial_id``, ``step``, ``steps``, ``val``."""
        trial_id = str(report["trial_id"])
        self._cells.began(trial_id)
        if not self._live:
            return
        if trial_id not in self._running:
            self._running[trial_id] = self._bars.add_task(
                f"  {self._label(trial_id)}", total=report.get("steps"), note=""
            )
        value = report.get("val")
        note = f"val {value:.3f}" if isinstance(value, float) else ""
        self._bars.update(self._running[trial_id], completed=report.get("step", 0), note=note)

    def revise(self, gone: list[str], trials: Mapping[str, Trial], costs: dict[str, float]) -> None:
        """Expected trials have become others, or will not come."""
        for trial_id in gone:
            self._pace.finished(trial_id)
            self._trials.pop(trial_id, None)
            self._cells.forget(trial_id)
        for trial_id, trial in trials.items():
            self._trials[trial_id] = trial
            self._cells.expect(trial_id, trial)
        self._pace.expect(costs)
        self._bars.update(self._main, total=len(self._trials))

    def done(self, trial_id: str, seconds: float | None = None, value: float | None = None) -> None:
        """A trial is complete.

        Args:
            trial_id: Its id.
            seconds: What it took; None if that says nothing about others.
            value: Validation value of its primary metric.
        """
        self._done += 1
        self._cells.ended(trial_id, done=True)
        if trial_id in self._trials:
            self._contrasts.take(self._trials[trial_id], value)
        self._ended(trial_id, seconds)

    def spent(self, trial_id: str, message: str) -> None:
        """A search trial has failed by its values, which is a result like others."""
        self._done += 1
        self._console.print(
            f"search trial counts as worst: {self._label(trial_id)} ({trial_id}): {message}",
            style="dim",
            markup=False,
        )
        self._ended(trial_id)

    def again(self, trial_id: str, message: str) -> None:
        """A trial has failed and will be tried once more."""
        line = f"tried again: {self._label(trial_id)} ({trial_id}): {message}"
        self._console.print(line, style="yellow", markup=False)
        self._hide(trial_id)

    def failed(self, trial_id: str, message: str) -> None:
        """A trial has failed; its message is shown at once."""
        self._failed += 1
        self._cells.ended(trial_id, done=False)
        self._console.print(f"FAILED {self._label(trial_id)} ({trial_id}): {message}", style="red", markup=False)
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
            if trial_id in self._trials:
                self._left[trial_id] = self._trials.pop(trial_id)
        self._bars.update(self._main, total=len(self._trials))

    def _label(self, trial_id: str) -> str:
        trial = self._trials.get(trial_id) or self._left.get(trial_id)
        return trial.label if trial else trial_id

    def _hide(self, trial_id: str) -> None:
        if trial_id in self._running:
            self._bars.remove_task(self._running.pop(trial_id))

    def _ended(self, trial_id: str, seconds: float | None = None) -> None:
        self._pace.finished(trial_id, seconds)
        self._hide(trial_id)
        if trial_id in self._left:  # it was put off, but ended before it could be stopped
            self._trials[trial_id] = self._left.pop(trial_id)
            self._bars.update(self._main, total=len(self._trials))
        self._bars.update(self._main, advance=1, note=self._note() if self._live else "")
        if not self._live:
            self._plain_lines(trial_id)

    def _note(self) -> str:
        rate, left = self._pace.per_minute(), self._pace.left()
        parts = [f"{self._failed} failed" if self._failed else ""]
        parts += [f"{rate:.3g} trials/min" if rate else "", left.text if left and left.seconds else ""]
        return "  ".join(filter(None, parts))

    def _below(self) -> list[str]:
        """Lines of the live view below its bars, counted once a second at most: rich draws more often."""
        if self._clock() - self._counted_at >= _REDRAW_S:
            self._counted_at = self._clock()
            self._lines = [self._cell_line(), *self._contrasts.lines()]
        return self._lines

    def _cell_line(self) -> str:
        counts = self._cells.counts()
        return "cells: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n or state == "done")

    def _plain_lines(self, trial_id: str) -> None:
        """One line now and then; contrasts when a task has ended, and rarely in between."""
        now, ended = self._clock(), self._done + self._failed
        task = self._cells.task_ended(trial_id)
        if now - self._last_line >= _QUIET_S or ended >= len(self._trials):
            self._last_line = now
            line = f"{ended}/{len(self._trials)} trials  {self._note()}".rstrip()
            self._console.print(f"{line}  {self._cell_line()}", markup=False, highlight=False)
        if task or now - self._last_contrasts >= _CONTRASTS_S:
            self._last_contrasts = now
            if task:
                self._console.print(f"all trials of {task} have ended", markup=False, highlight=False)
            for text in self._contrasts.lines():
                self._console.print(text, markup=False, highlight=False)
