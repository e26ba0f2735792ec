"""Which report read which test results when: looking at them, then training more, makes p-values wrong.

Each read is one small JSON file that is only ever added: with the study's record where the orchestrator writes the
report, beside the report's folder where it is built without writing to the record.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards import tracking
from dashboards.answers import Answer
from dashboards.evidence import Evidence
from dashboards.planned import planned_seeds
from dashboards.style import plural
from dashboards.tracking import RecordArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One report's look at the test results of a study.

    Attributes:
        report_id: Random, of the report.
        read_at: Time in UTC, ISO 8601.
        reader: Stands for user and host: the first 12 hexadecimal digits of a hash.
        study: Name of the study.
        sets: Evaluation sets whose results were read.
        trials: Finished trials whose results were read.
        seeds: Labels of the seeds that the study planned then.
        results_hash: Stands for the results: trial ids, runs and sets.
    """

    report_id: str
    read_at: str
    reader: str
    study: str
    sets: tuple[str, ...]
    trials: int
    seeds: tuple[str, ...]
    results_hash: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Read:
        """The read of one line.

        Raises:
            ValueError: It is not one.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            given = {field.name: raw[field.name] for field in fields(cls)}
            read = cls(**given | {name: tuple(map(str, given[name])) for name in ("sets", "seeds")})
            datetime.fromisoformat(read.read_at)
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"not an entry of the ledger: {text[:80]!r}") from error
        return read

    @property
    def file_name(self) -> str:
        """Sorts by time; two reports at once have two names."""
        return f"{self.read_at.replace(':', '')}-{self.report_id}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The reads before a report, and its own.

    Attributes:
        this: The report's own read.
        earlier: Earlier reads of any test result, first one first.
        place: Where it is kept, in words.
        damaged: Entries that could not be read.
    """

    this: Read
    earlier: tuple[Read, ...] = ()
    place: str = "nowhere: this report keeps no ledger"
    damaged: int = 0

    @property
    def added_seeds(self) -> tuple[str, ...]:
        """Seeds of the study now that it did not plan when its test results were first read."""
        if not self.earlier:
            return ()
        return tuple(seed for seed in self.this.seeds if seed not in self.earlier[0].seeds)

    @property
    def added_trials(self) -> int:
        """Trials now beyond those at the first read; at least 0."""
        return max(0, self.this.trials - self.earlier[0].trials) if self.earlier else 0

    def table(self) -> pd.DataFrame:
        """Every read, the latest first: when, by whom, of which results, how many trials, which sets and seeds."""
        rows = [
            {
                "read at (UTC)": f"{datetime.fromisoformat(read.read_at):%Y-%m-%d %H:%M:%S}",
                "report": read.report_id + (" (this one)" if read is self.this else ""),
                "reader": read.reader,
                "state of the results": read.results_hash,
                "trials": read.trials,
                "evaluation sets": ", ".join(read.sets) or "none",
                "planned seeds": ", ".join(read.seeds),
            }
            for read in (self.this, *reversed(self.earlier))
        ]
        return pd.DataFrame(rows)

    @property
    def sentence(self) -> str:
        """Who looked when, in words."""
        kept = f" The ledger is kept {self.place}."
        if self.damaged:
            kept += f" {plural(self.damaged, 'entry')} of it could not be read."
        if not self.earlier:
            return f"Test results of this study were not read before, as far as the ledger knows.{kept}"
        times = plural(len(self.earlier), "time")
        states = len({read.results_hash for read in self.earlier})
        first = datetime.fromisoformat(self.earlier[0].read_at)
        text = (
            f"Test results of this study were read {times} before ({plural(states, 'state')} of them), the first on "
            f"{first:%Y-%m-%d %H:%M} UTC with {plural(self.earlier[0].trials, 'trial')}."
        )
        if self.added_seeds:
            added = ", ".join(self.added_seeds)
            one = len(self.added_seeds) == 1
            text += (
                f" Seed{'' if one else 's'} {added} {'was' if one else 'were'} added to the study after that: its "
                "p-values do not account for it (looking after every seed makes 5 % up to 18 %)."
            )
        elif self.added_trials:
            text += f" {plural(self.added_trials, 'planned trial')} finished since."
        return text + kept

    def answer(self) -> Answer:
        """The ledger as an answer to question 8."""
        word = "seeds added after a look" if self.added_seeds else "no seeds added after a look"
        return Answer(
            question=8,
            word=word,
            sentence=self.sentence,
            tone="bad" if self.added_seeds else "good",
            numbers={
                "reads_before": len(self.earlier),
                "added_seeds": len(self.added_seeds),
                "added_trials": self.added_trials,
            },
        )


def read_of(evidence: Evidence, *, now: datetime | None = None) -> Read:
    """The read of the report that is about to be made of some evidence."""
    results = evidence.results
    keys = sorted(evidence.predictions)
    runs = dict(zip(results["trial_id"], results["run_id"], strict=True)) if "run_id" in results else {}
    digest = hashlib.sha256(json.dumps([[*key, str(runs.get(key[0], ""))] for key in keys]).encode())
    planned = planned_seeds(evidence.plan, evidence.failures)
    seeds = {seed.label for of_cell in planned.values() for seed in of_cell} or set(map(str, results.get("seed", ())))
    return Read(
        report_id=uuid.uuid4().hex[:12],
        read_at=(now or datetime.now(UTC)).isoformat(timespec="milliseconds"),
        reader=hashlib.sha256(f"{_user()}@{socket.gethostname()}".encode()).hexdigest()[:12],
        study=evidence.name,
        sets=tuple(sorted({name for _, name in keys})),
        trials=len({trial_id for trial_id, _ in keys}),
        seeds=tuple(sorted(seeds, key=lambda label: (len(label), label))),
        results_hash=digest.hexdigest()[:16],
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no account of that number, as in many containers
        return "unknown"


def parse_reads(texts: Iterable[str]) -> tuple[tuple[Read, ...], int]:
    """Reads of test results, first one first, and how many entries are damaged. Looks at no result are no reads."""
    reads, damaged = [], 0
    for text in texts:
        try:
            reads.append(Read.parse(text))
        except ValueError:
            damaged += 1
    return tuple(sorted((r for r in reads if r.trials), key=lambda r: (r.read_at, r.report_id))), damaged


def recorded_reads(study: str, tracking_uri: str | None = None) -> list[str]:
    """The entries that the study's record holds.

    Raises:
        UserError: There is no record of the study.
        TrackingError: MLflow is away.
    """
    uri = tracking.resolve_tracking_uri(tracking_uri)
    client = tracking.connect(uri)
    experiment = tracking.find_experiment(client, study, uri)
    with tracking.tracking(uri), tempfile.TemporaryDirectory(prefix="scalecurves-ledger-") as folder:
        for parent in tracking.find_parents(client, experiment.experiment_id)[:1]:
            if any(item.path == RecordArtifact.READS for item in client.list_artifacts(parent.info.run_id)):
                path = Path(client.download_artifacts(parent.info.run_id, RecordArtifact.READS, folder))
                return [file.read_text("utf-8") for file in sorted(path.glob("*.json"))]
    return []


def local_file(out: Path) -> Path:
    """The ledger beside a report's folder."""
    return out.absolute().with_name(f"{out.absolute().name}.reads.jsonl")


def local_reads(out: Path) -> list[str]:
    """Its entries; none if there is no such file."""
    file = local_file(out)
    return [line for line in file.read_text("utf-8").splitlines() if line.strip()] if file.is_file() else []


def add_local_read(out: Path, read: Read) -> None:
    """Append a read to the ledger beside a report's folder."""
    with local_file(out).open("a", encoding="utf-8") as file:
        file.write(read.to_json() + "\n")
