"""``sweep ingest``: a table of others' results becomes a record like our own, with the same report."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from rich.console import Console

from dashboards.evidence import IN_DOMAIN
from dashboards.load import load_failures, load_results
from orchestrator.ingest_predictions import PredictionFiles
from orchestrator.ingest_problems import Problems
from orchestrator.ingest_table import Table, Written, read_table
from orchestrator.ingest_trials import ReportedTrial, entry_of, predictions_place, reported_trials, usual_name
from orchestrator.ingest_values import known_metric, metric_name
from orchestrator.record import Record
from search_spaces.exceptions import UserError, unknown
from search_spaces.ingested import IngestedStudy
from search_spaces.names import AXES, State

_NO_PRETRAINING = ("random", "scratch", "from_scratch", "from scratch", "random_init", "random init", "none", "no")
_LEADING = (
    "auc_macro",
    "auc",
    "dice",
    "kappa",
    "balanced_accuracy",
    "accuracy",
    "ap_macro",
    "ap",
    "iou",
    "nll",
    "brier",
)
"""Which metric leads where a task has several and none was chosen."""
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How a table is to be read.

    Attributes:
        renames: Column or metric as written -> as it is called here.
        scale: Factor of bounded metrics, such as 0.01 for percent.
        encoding: Of a CSV; UTF-8 (or UTF-16 with its mark) if None.
        decimal_comma: Whether ``0,85`` means 0.85.
        predictions: Folder of predictions.
        baseline: Source that all are compared with; found by its name if None.
        primary: Task -> its primary metric; the key ``""`` is for all tasks.
        delta: Largest difference of no practical meaning.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    scale: float | None = None
    encoding: str | None = None
    decimal_comma: bool = False
    predictions: Path | None = None
    baseline: str | None = None
    primary: Mapping[str, str] = field(default_factory=dict)
    delta: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingestion:
    """A table, understood.

    Attributes:
        study: What is known of the study.
        table: What was read.
        trials: Its trials.
        files: Reads their predictions.
        reported_at: Unix seconds of the table: they stand for the time of the trials.
    """

    study: IngestedStudy
    table: Table
    trials: tuple[ReportedTrial, ...]
    files: PredictionFiles
    reported_at: float

    def lines(self) -> list[str]:
        """What was read, what was left out and why, for a terminal."""
        table, duplicates = self.table, self.table.duplicates
        failed = sum(trial.state is State.FAILED for trial in self.trials)
        with_predictions = sum(bool(trial.predictions) for trial in self.trials)
        counts = {axis: len({trial.axes[axis] for trial in self.trials}) for axis in AXES}
        lines = [
            f"{table.read} rows give {len(self.trials)} trials" + (f", {failed} of them failed" if failed else ""),
            ", ".join(f"{n} {axis}{'' if n == 1 else 's'}" for axis, n in counts.items()),
        ]
        if duplicates.rows:
            lines.append(
                f"{duplicates.rows} rows repeat a trial, set and metric: the last finished one is kept "
                f"({duplicates.differing} had another value)"
            )
        if duplicates.telling:
            lines.append(f"such rows differ in the columns {_named(duplicates.telling)}, which mean nothing here")
        if table.blank:
            lines.append(f"blank rows left out: {table.blank}")
        if table.undefined:
            lines.append(f"values that are blank or nan, so undefined and not used: {table.undefined}")
        if table.unfinished:
            lines.append(f"{table.unfinished} rows of trials that have not ended are left out")
        if table.ignored:
            lines.append(f"columns that mean nothing here: {_named(table.ignored)}")
        lines += [f"metric {old!r} is read as {new}" for old, new in table.renamed.items()]
        lines += self._of_two_classes()
        if table.unknown_metrics:
            listed = ", ".join(f"{name} ({n} rows)" for name, n in table.unknown_metrics.items())
            lines.append(f"metrics that are recorded, but that the report does not know: {listed}")
        lines += [f"{task}: primary metric {metric}" for task, metric in self.study.primary.items()]
        lines.append(f"baseline {self.study.statistics.baseline}, delta {self.study.statistics.delta:g}")
        lines.append(
            f"{with_predictions} of {len(self.trials)} trials have predictions"
            + ("" if with_predictions else ": intervals can hold seeds only, and every verdict is at most grade C")
        )
        return [*lines, *self._not_finite(), *self._other_sets(), *self._doubtful_names()]

    def _doubtful_names(self) -> list[str]:
        """Names that may be meant as one, and a baseline that nothing can be compared with."""
        lines = []
        for axis in AXES:
            names = list(dict.fromkeys(trial.axes[axis] for trial in self.trials))
            alike = Counter(name.casefold() for name in names)
            if twins := [name for name in names if alike[name.casefold()] > 1]:
                lines.append(f"{axis}: {', '.join(twins)} differ in capitals alone, and count as different")
        if len({trial.axes["pretraining_source"] for trial in self.trials}) == 1:
            lines.append("there is one source only: nothing can be compared with it")
        return lines

    def _not_finite(self) -> list[str]:
        files = [file for trial in self.trials for file in trial.predictions.values()]
        broken = sum(not file.truth.finite for file in files)
        return [f"predictions with z_ that are not finite, so not used: {broken} of {len(files)}"] if broken else []

    def _of_two_classes(self) -> list[str]:
        """Metrics that have another name where predictions are of two classes."""
        written = dict.fromkeys((row.axes[0], row.metric) for row in self.table.rows if row.metric)
        read = {
            (task, metric): usual_name(metric, [trial for trial in self.trials if trial.axes["task"] == task])
            for task, metric in written
        }
        return [
            f"{task}: {metric} is read as {name}, since its predictions are of two classes"
            for (task, metric), name in read.items()
            if name != metric
        ]

    def _other_sets(self) -> list[str]:
        """Predictions of one set that are about other images than most."""
        seen: dict[tuple[str, str], Counter[str]] = {}
        for trial in self.trials:
            for name, file in trial.predictions.items():
                seen.setdefault((trial.axes["task"], name), Counter())[file.truth.digest] += 1
        return [
            f"{task}, {name}: {n - digests.most_common(1)[0][1]} of {n} predictions are about other images, patients "
            "or labels than the rest; they are not paired with them"
            for (task, name), digests in seen.items()
            if len(digests) > 1 and (n := digests.total())
        ]


def read_ingestion(path: Path, study: str, options: IngestOptions) -> Ingestion:
    """Read and check a table with its predictions; writes nothing.

    Raises:
        UserError: Anything is wrong; names all of it.
    """
    written = Written(
        renames=options.renames,
        scale=options.scale,
        only_metric=options.primary.get(""),
        encoding=options.encoding,
        decimal_comma=options.decimal_comma,
    )
    table = read_table(path, written)
    problems, files = Problems(), PredictionFiles()
    folder = options.predictions
    if folder is not None and not folder.is_dir():
        raise UserError(f"--predictions {folder} is no folder")
    trials = reported_trials(table.rows, folder or path.parent, folder, files, problems)
    if folder is not None and not problems and not any(trial.predictions for trial in trials):
        example = predictions_place(table.rows[0])
        problems.add(f"no predictions in {folder} belong to a row; the first was looked for as {example}")
    baseline = _baseline(trials, options.baseline, problems)
    primary = _primary(trials, options.primary, problems)
    problems.raise_if_any(path.name)
    return Ingestion(
        study=IngestedStudy.parse(
            {
                "name": study,
                "ingested": {"file": path.name, "sha256": sha256(path.read_bytes()).hexdigest(), "rows": table.read},
                "primary": primary,
                "statistics": {"baseline": baseline, "delta": options.delta, "groups": _groups(trials)},
            },
            "--study, --delta",
        ),
        table=table,
        trials=tuple(trials),
        files=files,
        reported_at=float(int(path.stat().st_mtime)),
    )


def _named(columns: Sequence[str]) -> str:
    return ", ".join(column or "(no name)" for column in columns)


def _groups(trials: Sequence[ReportedTrial]) -> tuple[str, ...]:
    """Every subgroup column that some predictions have."""
    return tuple(dict.fromkeys(g for t in trials for file in t.predictions.values() for g in file.truth.groups))


def _baseline(trials: Sequence[ReportedTrial], asked: str | None, problems: Problems) -> str:
    """The source that all are compared with: as asked, else the one that is called like no pretraining."""
    sources = list(dict.fromkeys(trial.axes["pretraining_source"] for trial in trials))
    if asked is not None:
        if asked not in sources:
            problems.add("--baseline: " + unknown("source", asked, sources))
        return asked
    plain = [name for name in sources if name.lower().replace("-", "_") in _NO_PRETRAINING]
    if len(plain) == 1:
        return plain[0]
    problems.add(f"which source is the baseline? Say --baseline with one of {', '.join(sources)}")
    return ""


def _primary(trials: Sequence[ReportedTrial], asked: Mapping[str, str], problems: Problems) -> dict[str, str]:
    tasks = list(dict.fromkeys(trial.axes["task"] for trial in trials))
    for task in asked:
        if task and task not in tasks:
            problems.add("--primary: " + unknown("task", task, tasks))
    found = {}
    for task in tasks:
        own = [trial for trial in trials if trial.axes["task"] == task and trial.state is State.COMPLETE]
        wanted = asked.get(task, asked.get(""))
        found[task] = _leading(task, own, None if wanted is None else metric_name(wanted), problems)
    return found


def _leading(task: str, trials: Sequence[ReportedTrial], wanted: str | None, problems: Problems) -> str:
    """A task's primary metric: the one asked for, else the first of the usual ones that most of its trials have.

    Every file of predictions of the task must give it: what the report says of patients is computed from them.
    """
    counts = Counter(metric for trial in trials for metric in _metrics_of(trial))
    known = {metric: n for metric, n in counts.items() if known_metric(metric) is not None}
    if not trials:
        return wanted or _LEADING[0]
    usable = _in_all_predictions(known, trials)
    if wanted is not None:
        wanted = usual_name(wanted, trials)
        if wanted not in known:
            problems.add(f"--primary of task {task!r}: " + unknown("metric", wanted, known))
        elif wanted not in usable:
            problems.add(
                f"--primary of task {task!r}: not all of its predictions give {wanted}; all give "
                f"{', '.join(sorted(usable)) or 'none of its metrics'}"
            )
        return wanted
    if known and not usable:
        problems.add(
            f"task {task!r} has no metric that all of its predictions give (its metrics: {', '.join(sorted(known))}): "
            "kind and labels in their Parquet metadata differ, or do not belong to these metrics"
        )
        return ""
    if not known:
        problems.add(
            f"task {task!r} has no metric that the report knows (only {', '.join(counts) or 'none'}); it knows "
            f"{', '.join(_LEADING)}: say --map NAME=METRIC if one of them is meant"
        )
        return ""
    most = max(usable.values())
    order = {metric: i for i, metric in enumerate(_LEADING)}
    return min((m for m in usable if usable[m] == most), key=lambda m: (order.get(m, len(order)), m))


def _in_all_predictions(counts: Mapping[str, int], trials: Sequence[ReportedTrial]) -> dict[str, int]:
    files = [file for trial in trials for file in trial.predictions.values()]
    return {metric: n for metric, n in counts.items() if all(metric in file.truth.metrics for file in files)}


def _metrics_of(trial: ReportedTrial) -> set[str]:
    """Metrics of a trial on the in-domain set, reported or from predictions."""
    file = trial.predictions.get(IN_DOMAIN)
    return {*trial.values.get(IN_DOMAIN, {}), *(file.truth.metrics if file else ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What came of it.

    Attributes:
        added: Trials that are new in the record.
        known: Trials that were there.
        replaced: Earlier runs of the same cell and seed with other content, which count no longer.
        contradicted: Reported values that the predictions contradict, in words.
    """

    added: int
    known: int
    replaced: int
    contradicted: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The same for a terminal."""
        lines = [f"{self.added} trials added to the record, {self.known} were there"]
        if self.replaced:
            lines.append(f"{self.replaced} earlier runs of the same cells and seeds said otherwise and count no longer")
        if self.contradicted:
            more = len(self.contradicted) - _SHOWN
            lines.append(f"{len(self.contradicted)} reported values differ from their predictions, which count:")
            lines += [f"  {text}" for text in self.contradicted[:_SHOWN]] + ([f"  and {more} more"] if more > 0 else [])
        return lines


def new_trials(ingestion: Ingestion, record: Record) -> int:
    """How many trials of a table the record lacks, without writing anything.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    states = record.look(trial.trial_id for trial in ingestion.trials)
    return sum(states[trial.trial_id].state is not trial.state for trial in ingestion.trials)


def ingest(ingestion: Ingestion, record: Record, console: Console) -> Ingested:
    """Add to an open record what it lacks of a table; a second time changes nothing.

    Args:
        ingestion: The table.
        record: Open, of ``ingestion.study``.
        console: Where to show how far it is.

    Raises:
        TrackingError: MLflow stayed away; the same command goes on from there.
        DataError: Predictions cannot be scored.
    """
    states = record.states(trial.trial_id for trial in ingestion.trials)
    missing = [
        (position, trial)
        for position, trial in enumerate(ingestion.trials)
        if states[trial.trial_id].state is not trial.state
    ]
    contradicted: list[str] = []
    with console.status("adding trials") as shown:
        for number, (position, trial) in enumerate(missing, 1):
            shown.update(f"adding trials: {number} of {len(missing)}")
            with tempfile.TemporaryDirectory(prefix="scalecurves-ingest-") as folder:
                entry, texts = entry_of(
                    trial,
                    study=ingestion.study.name,
                    primary=ingestion.study.primary[trial.axes["task"]],
                    attempts=states[trial.trial_id].attempts,
                    reported_at=ingestion.reported_at + position / 1000,  # readers see trials in the table's order
                    files=ingestion.files,
                    staged=Path(folder),
                )
                record.add(entry)
            contradicted += texts
    replaced = _supersede(ingestion, record)
    known = len(ingestion.trials) - len(missing)
    return Ingested(added=len(missing), known=known, replaced=replaced, contradicted=tuple(contradicted))


def _supersede(ingestion: Ingestion, record: Record) -> int:
    """Take out earlier runs of the same cells and seeds that reported something else."""
    now = {trial.cell_and_seed: trial.trial_id for trial in ingestion.trials}
    replaced = 0
    for frame in (load_results(record.study.name, record.uri), load_failures(record.study.name, record.uri)):
        for row in frame[[*AXES, "seed", "trial_id", "run_id"]].to_dict("records"):
            key = (*(str(row[axis]) for axis in AXES), str(row["seed"]))
            if now.get(key, row["trial_id"]) != row["trial_id"]:
                record.supersede(str(row["run_id"]))
                replaced += 1
    return replaced
