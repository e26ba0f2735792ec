"""One side of ``peers`` in a process of its own: ``python -m benchmarks.peer_sides SIDE FOLDER RANKS``.

Every side trains the trials of one study with ``trainables.loop.train``, and leaves one MLflow run per trial.
``FOLDER`` holds ``study.yaml`` and, for each side, a storage and a record of its own (``Place``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, make_plan
from search_spaces.files import load_study
from search_spaces.names import Artifact
from search_spaces.results import TrialResult
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.library import TaskLibrary
from trainables.storage import Storage


@dataclass(frozen=True, slots=True)
class Place:
    """Where a side reads and writes.

    Attributes:
        folder: Of the study.
        side: Its name (``kind_of``).
    """

    folder: Path
    side: str

    @property
    def storage(self) -> Path:
        """Folder of the trials' files."""
        return self.folder / self.side / "storage"

    @property
    def tracking_uri(self) -> str:
        """MLflow on SQLite."""
        return f"sqlite:///{self.folder / self.side / 'mlflow.db'}"

    @property
    def home(self) -> Path:
        """Imported tasks and image stores, shared by all sides."""
        return self.folder / "home"

    def plan(self) -> Plan:
        """The plan of the study."""
        return make_plan(load_study(str(self.folder / "study.yaml")), TaskLibrary(self.home))

    def trials(self, plan: Plan) -> list[ResolvedTrial]:
        """The trials, ready to train."""
        assert plan.resolver is not None
        execution = plan.study.execution
        workspace = Workspace(
            home=str(self.home),
            storage=str(self.storage),
            keep_weights=execution.keep_weights,
            checkpoint_every_s=execution.checkpoint_every_s,
        )
        return [plan.resolver.resolved(p.trial, f"{self.side}-{p.trial_id}", workspace) for p in plan.trials]

    def written(self) -> list[ResolvedTrial]:
        """The trials as ``write_trials`` left them: a script that trains one has no study to read."""
        text = (self.folder / self.side / "trials.jsonl").read_text(encoding="utf-8")
        return [ResolvedTrial.model_validate_json(line) for line in text.splitlines()]

    def write_trials(self, trials: list[ResolvedTrial]) -> None:
        """Leave the trials for a process that has no plan."""
        lines = "\n".join(trial.model_dump_json() for trial in trials)
        (self.folder / self.side / "trials.jsonl").write_text(lines, encoding="utf-8")

    def result(self, trial: ResolvedTrial) -> TrialResult:
        """What a trial left in the storage."""
        file = Storage(self.storage).fetch(trial.trial_id, Artifact.TRIAL)
        return TrialResult.model_validate_json(file.read_bytes())


def ours(place: Place, ranks: int) -> None:
    """This project: plan, record, cluster, gangs, delivery; no report, which no other side writes."""
    from orchestrator.terminal import leave_quickly, make_console

    leave_quickly()  # as the command line does

    from orchestrator.engine import Engine
    from orchestrator.places import Places

    places = Places.of(place.home, str(place.storage), place.tracking_uri)
    summary = Engine(place.plan(), places, make_console(quiet=True)).run()
    if summary.failed or summary.waiting:
        raise RuntimeError(f"benchmark trials failed or wait: {summary}")


def with_tune(place: Place, ranks: int) -> None:
    """Plain Ray Tune, one ``TorchTrainer`` per trial; the driver records each trial when it has ended."""
    import mlflow  # noqa: F401 - at the start of the driver, as a script does
    from ray import tune

    from benchmarks.per_trial_peers import fit_each, log_run
    from cluster.connection import connect

    by_id = {trial.trial_id: trial for trial in place.written()}

    class Recorder(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            done = by_id[trial.config["trial"]["trial_id"]]
            log_run(done, place.result(done), place.tracking_uri)

    # Tune's own trial takes a CPU while its ranks train, so the cluster is told of one more than they use.
    with connect("local", num_cpus=ranks + 1):
        fit_each(list(by_id.values()), ranks, [Recorder()])


def with_shell(place: Place, ranks: int) -> None:
    """A loop of ``torchrun``; rank 0 of each trial records it."""
    from benchmarks.per_trial_peers import run_each

    run_each(place.written(), ranks, place.tracking_uri)


def with_hydra(place: Place, ranks: int) -> None:
    """Hydra's basic launcher: all trials one after the other in one process, recorded there."""
    import hydra
    import mlflow  # noqa: F401
    import torch

    from benchmarks.per_trial_peers import log_run
    from search_spaces.results import Order
    from trainables.groups import SingleProcess
    from trainables.loop import train

    trials = place.written()

    def job(config: Any) -> None:
        trial = trials[config.trial]
        torch.set_num_threads(1)
        result = train(trial, SingleProcess(torch.device("cpu")), lambda report: Order.GO)
        assert result is not None
        log_run(trial, result, place.tracking_uri)

    swept = f"hydra.sweep.dir={place.folder / place.side / 'hydra'}"
    sys.argv = [sys.argv[0], "--multirun", swept, "hydra/launcher=basic", f"+trial=range(0,{len(trials)})"]
    hydra.main(version_base="1.3", config_path=None, config_name=None)(job)()


SIDES: dict[str, Callable[[Place, int], None]] = {
    "ours": ours,
    "tune": with_tune,
    "shell": with_shell,
    "ours_alone": ours,
    "hydra": with_hydra,
}
"""Name -> what it runs; ``ours_alone`` and ``hydra`` have trials of one rank."""


def kind_of(side: str) -> str:
    """Which of ``SIDES`` it is: the second time that one runs it has ``.2`` behind its name."""
    return side.partition(".")[0]


def main() -> None:
    """Run one side."""
    os.environ["OMP_NUM_THREADS"] = "1"
    side, folder, ranks = sys.argv[1:]
    SIDES[kind_of(side)](Place(Path(folder), side), int(ranks))


if __name__ == "__main__":
    main()
