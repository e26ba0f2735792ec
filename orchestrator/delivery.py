"""How an entry is cut into MLflow's calls and files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dashboards.tracking import RecordTag, tag_list
from orchestrator.entries import Entry
from orchestrator.metrics import SetMetrics
from search_spaces.names import State, Tag
from search_spaces.results import TrialResult
from trainables.storage import Undelivered

T = TypeVar("T")

METRICS_PER_CALL = 800
"""MLflow takes 1000 metrics, and 1000 metrics, params and tags together."""
OTHERS_PER_CALL = 100
"""Params, and tags, per call."""

_FIRST = (Tag.ATTEMPT_ID, Tag.TRIAL_ID, Tag.STUDY, Tag.ROLE)
_LATE = (Tag.STATE, Tag.RUN_NAME)


def spooled(result: TrialResult) -> Undelivered:
    """Where the storage keeps an attempt that was published."""
    if result.state is State.COMPLETE:
        trial_id = result.trial.trial_id
        return Undelivered(folder=f"trials/{trial_id}", key=trial_id, state=State.COMPLETE)
    attempt_id = result.trial.attempt_id
    return Undelivered(folder=f"attempts/{attempt_id}", key=attempt_id, state=State.FAILED)


def split_tags(entry: Entry) -> tuple[dict[str, str], dict[str, str]]:
    """The tags a run is created with, in one step with the run, and those that come at the end, the state last.

    Tags at creation cost a fraction of tags set later, and make the run found again after a delivery that broke off.
    """
    early = sorted((name for name in entry.tags if name not in _LATE), key=lambda name: name not in _FIRST)
    at_creation = early[: OTHERS_PER_CALL - 1]  # and the parent
    return {name: entry.tags[name] for name in at_creation}, {
        name: value for name, value in entry.tags.items() if name not in {*at_creation, Tag.RUN_NAME}
    }


def metric_rows(entry: Entry) -> list[Any]:
    """The entry's points as MLflow metrics, at t0 + step milliseconds."""
    from mlflow.entities import Metric

    return [Metric(p.key, p.value, entry.started_ms + p.step, p.step) for p in entry.points]


def set_rows(scores: SetMetrics, scored_ms: int) -> list[Any]:
    """The metrics of one evaluation set as MLflow metrics; of two scorings MLflow shows the later one."""
    from mlflow.entities import Metric

    return [Metric(key, value, scored_ms, 0) for key, value in scores.values.items()]


def added_tags(tags: Mapping[str, str], scores: SetMetrics) -> dict[str, str]:
    """The tags that change when an evaluation set is added to a run (or scored again)."""
    sets = list(dict.fromkeys([*tag_list(tags, RecordTag.SETS), scores.name]))
    others = [key for key in tag_list(tags, RecordTag.UNDEFINED) if not key.startswith(f"{scores.name}/")]
    return {
        RecordTag.SETS: ",".join(sets),
        RecordTag.UNDEFINED: ",".join([*others, *scores.undefined]),
        RecordTag.set_hash(scores.name): scores.set_hash,
    }


def batches(
    metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[dict[str, Sequence[Any]]]:
    """Arguments of as few ``log_batch`` calls as MLflow's limits allow; the state tag comes with or after all else.

    MLflow writes the params of a call, then its metrics, then its tags.
    """
    from mlflow.entities import Param, RunTag

    ordered = sorted(tags.items(), key=lambda item: item[0] == Tag.STATE)
    metric_parts = _parts(metrics, METRICS_PER_CALL)
    param_parts = _parts([Param(k, v) for k, v in params.items()], OTHERS_PER_CALL)
    tag_parts = _parts([RunTag(k, v) for k, v in ordered], OTHERS_PER_CALL)
    calls = max(len(metric_parts), len(param_parts), len(tag_parts))
    tag_parts = [[]] * (calls - len(tag_parts)) + tag_parts
    for k in range(calls):
        yield {
            "metrics": metric_parts[k] if k < len(metric_parts) else [],
            "params": param_parts[k] if k < len(param_parts) else [],
            "tags": tag_parts[k],
        }


def _parts(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[k : k + size]) for k in range(0, len(items), size)]


def write_files(folder: Path, texts: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Write texts and copy files (relative path -> content) below a folder, each under a temporary name, then moved."""
    for name, text in texts.items():
        _part(folder / name).write_text(text, encoding="utf-8")
    for name, source in files.items():
        shutil.copyfile(source, _part(folder / name))
    for name in (*texts, *files):
        _part(folder / name).replace(folder / name)


def _part(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f"{target.name}.part")
