"""How well trials of very different lengths are packed: ``python -m benchmarks.packing [--quick]``.

200 trials whose lengths spread 100-fold (log-uniform) on 8 slots. ``ratio_to_bound`` is the time that the schedule
takes on the simulator's virtual clock over what no schedule can beat: all work divided by the slots, or the longest
trial. ``simulator_error`` compares the simulator once with real trials that only sleep, trained through Ray Tune in
reused processes, from the first start to the last end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.orchestration import study_of
from cluster.connection import connect
from orchestrator.agenda import Agenda, Entry, makespan
from orchestrator.executor import Executor
from orchestrator.feed import Handout
from orchestrator.fleet import Demand
from orchestrator.pilot import TrialOutcome
from orchestrator.plan import make_plan
from search_spaces.files import LoadedStudy
from search_spaces.names import State
from search_spaces.results import TrialResult
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.groups import Group
from trainables.library import TaskLibrary
from trainables.phantoms import PhantomSizes, make_phantoms
from trainables.warm import Tell

SLOTS = 8
SPREAD = 100.0
TARGET_RATIO, TARGET_ERROR = 1.05, 0.05


def sleep(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult:
    """A training function that sleeps for ``scale.arguments["seconds"]``."""
    started = time.time()
    time.sleep(trial.scale.arguments["seconds"])
    return TrialResult(trial=trial, state=State.COMPLETE, started_at=started, finished_at=time.time())


class Sleepers:
    """A feed of trials that sleep.

    Args:
        entries: The trials; ``cost`` in seconds.
        example: A resolved trial, to make them from.
    """

    def __init__(self, entries: list[Entry[GangSpec]], example: ResolvedTrial) -> None:
        self._entries = {entry.trial_id: entry for entry in entries}
        self._agenda = Agenda(entries)
        self._example = example

    def __len__(self) -> int:
        """Trials that are left."""
        return len(self._agenda)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        """What there is to do."""
        return self._agenda.demands(running)

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        """The longest that is left."""
        trial_id = self._agenda.next(gangs)
        if trial_id is None:
            return None
        entry = self._entries[trial_id]
        scale = self._example.scale.model_copy(update={"arguments": {"seconds": entry.cost}})
        changes = {"trial_id": trial_id, "attempt_id": f"{trial_id}-1", "scale": scale}
        return Handout(self._example.model_copy(update=changes).model_dump(mode="json"), entry.gang)


def entries_of(trials: int, longest_s: float, seed: int = 0) -> list[Entry[GangSpec]]:
    """Trials of log-uniform length, ``SPREAD``-fold, the longest one first."""
    drawn = np.random.default_rng(seed).uniform(0.0, 1.0, trials)
    drawn = (drawn - drawn.min()) / (drawn.max() - drawn.min())
    seconds = longest_s / SPREAD * SPREAD**drawn
    return [Entry(trial_id=f"{n:016x}", cost=float(s), gang=GangSpec(gpus_per_rank=0)) for n, s in enumerate(seconds)]


def example_trial(home: Path) -> ResolvedTrial:
    """Any trial that can be resolved."""
    library = TaskLibrary(home)
    make_phantoms(library, ["skin_phantom"], sizes=PhantomSizes(skin=(40, 20, 20)))
    plan = make_plan(LoadedStudy(study=study_of(1, 1), text="", folder=home, origin="benchmark"), library)
    assert plan.resolver is not None
    return plan.resolver.resolved(plan.trials[0].trial, "example", Workspace(home=str(home), storage=str(home)))


def real_seconds(entries: list[Entry[GangSpec]], example: ResolvedTrial) -> float:
    """From the first start to the last end of real trials that sleep; processes are started by others before."""
    ends: list[tuple[float, float]] = []

    def done(outcome: TrialOutcome) -> None:
        if outcome.result is None:
            raise RuntimeError(f"a benchmark trial failed: {outcome.failure}")
        ends.append((outcome.result.started_at, outcome.result.finished_at))

    warm = [Entry(trial_id=f"{2**32 + n:016x}", cost=0.1, gang=entries[0].gang) for n in range(2 * SLOTS)]
    with (
        connect("local", num_cpus=SLOTS),
        Executor(on_report=lambda report: None, on_done=done, train="benchmarks.packing:sleep") as executor,
    ):
        # What starts processes comes first; it heads the agenda by its weight and is not counted.
        heavy = [Entry(trial_id=e.trial_id, cost=e.cost, gang=e.gang, priority=1) for e in warm]
        executor.run(Sleepers([*heavy, *entries], example))
    counted = sorted(ends)[len(warm) :]
    return max(end for _, end in counted) - min(start for start, _ in counted)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter real trials: 2 s at most instead of 20 s")
    longest_s = 2.0 if parser.parse_args().quick else 20.0
    entries = entries_of(200, longest_s)
    work = sum(entry.cost for entry in entries)
    bound = max(work / SLOTS, max(entry.cost for entry in entries))
    simulated = makespan(entries, SLOTS)
    with tempfile.TemporaryDirectory(prefix="scalecurves-benchmark-") as folder:
        real = real_seconds(entries, example_trial(Path(folder)))
    print(f"{len(entries)} trials of {longest_s / SPREAD:g} to {longest_s:g} s on {SLOTS} slots")
    rows = {"no schedule is shorter": bound, "simulator": simulated, "real sleeping trials": real}
    for what, seconds in rows.items():
        print(f"{seconds:9.2f} s  {what}")
    answer: dict[str, Any] = {
        "benchmark": "packing",
        "ratio_to_bound": round(simulated / bound, 4),
        "target_ratio_to_bound": TARGET_RATIO,
        "simulator_error": round(abs(real - simulated) / real, 4),
        "target_simulator_error": TARGET_ERROR,
        "real_s": round(real, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
