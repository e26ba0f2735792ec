"""The graph of a plan's stages: what starts from whose weights, in words and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchestrator.plan import Plan
from search_spaces.expand import Trial
from search_spaces.names import Role


@dataclass(frozen=True, slots=True)
class _Step:
    """Trials of one stage that differ in scale, amount and seed alone.

    Attributes:
        stage: Trials that must be done before, one after the other.
        role: target or upstream.
        task, source: Of the trials.
        starts_from: Task, source and amount of the trials whose weights they start from; None for none.
    """

    stage: int
    role: Role
    task: str
    source: str
    starts_from: tuple[str, str, str] | None

    @classmethod
    def of(cls, trial: Trial) -> _Step:
        up = trial.upstream
        before = None if up is None else (up.cell.task, up.cell.pretraining_source, up.cell.data_fraction.label)
        return cls(trial.stage, trial.role, trial.cell.task, trial.cell.pretraining_source, before)

    @property
    def text(self) -> str:
        if self.starts_from is None:
            return f"{self.task} from {self.source}"
        task, source, amount = self.starts_from
        return f"{self.task} from {self.source} (trained on {task} at {amount}, from {source})"


def stage_lines(plan: Plan) -> list[str]:
    """One line per stage: how many trials, and of several stages also what starts from what."""
    stages = list(plan.stages())
    lines = []
    for number, stage in enumerate(stages):
        roles = Counter(t.trial.role for t in stage)
        counts = f"stage {number}: {roles[Role.TARGET]} targets, {roles[Role.UPSTREAM]} upstream"
        steps = dict.fromkeys(_Step.of(t.trial).text for t in stage)
        lines.append(f"{counts}: {'; '.join(steps)}" if len(stages) > 1 else counts)
    return lines


def stage_graph(plan: Plan) -> list[dict[str, Any]]:
    """The same as data: one entry per stage, task, source and what it starts from, with its number of trials."""
    counts = Counter(_Step.of(t.trial) for stage in plan.stages() for t in stage)
    names = ("task", "pretraining_source", "data_fraction")
    return [
        {
            "stage": step.stage,
            "role": step.role.value,
            "task": step.task,
            "pretraining_source": step.source,
            "starts_from": None if step.starts_from is None else dict(zip(names, step.starts_from, strict=True)),
            "trials": count,
        }
        for step, count in counts.items()
    ]
