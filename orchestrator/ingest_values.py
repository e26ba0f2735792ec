"""Single values of a table of others' results, from how people write them."""

from __future__ import annotations

import math
import re
from typing import Any

from dashboards.statistics import Metric
from search_spaces.amounts import Amount, Seed
from search_spaces.names import FailureClass, State

LARGEST = 1e300
"""MLflow stores an infinite metric as 1.797e308: beyond this a value stands for none."""

RUNNING = "running"
"""What ``parse_status`` gives for trials that have not ended."""

METRIC_SYNONYMS = {
    "auroc": "auc",
    "roc_auc": "auc",
    "rocauc": "auc",
    "mean_auc": "auc_macro",
    "auc_mean": "auc_macro",
    "macro_auc": "auc_macro",
    "mean_auroc": "auc_macro",
    "auroc_macro": "auc_macro",
    "auprc": "ap",
    "average_precision": "ap",
    "mean_ap": "ap_macro",
    "acc": "accuracy",
    "bacc": "balanced_accuracy",
    "balanced_acc": "balanced_accuracy",
    "qwk": "kappa",
    "weighted_kappa": "kappa",
    "log_loss": "nll",
    "brier_score": "brier",
    "dsc": "dice",
    "dice_score": "dice",
    "jaccard": "iou",
    "mean_iou": "iou",
}

_BOUNDS: dict[Metric, tuple[float, float]] = {
    Metric.KAPPA: (-1.0, 1.0),
    Metric.NLL: (0.0, math.inf),
    Metric.BRIER: (0.0, 2.0),
}
_EVERYTHING = ("full", "all", "full-shot", "fullshot", "full_shot")
_KINDS = ("images", "patients", "per_class")
_DONE = ("", "finished", "complete", "completed", "done", "success", "succeeded", "ok")
_FAILED: dict[str, FailureClass | None] = {
    "failed": None,
    "error": None,
    "crashed": None,
    "killed": None,
    "diverged": FailureClass.DIVERGENCE,
    "nan": FailureClass.DIVERGENCE,
    "oom": FailureClass.MEMORY,
}
_SEPARATED = re.compile(r"\d{1,3}([.,\s']\d{3})+")
"""Whole numbers with thousands separators; ``12.000`` is 12 here and 12,000 there."""
_COMMA_HINT = "; decimals need a point, or say --decimal ,"
_UNFINISHED = (RUNNING, "scheduled", "pending", "queued", "unfinished")


def text_of(raw: Any) -> str:
    """A cell as text without outer blanks; empty if it is missing."""
    if raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return ""
    if isinstance(raw, float) and raw.is_integer() and abs(raw) < 1e15:
        return str(int(raw))
    return str(raw).strip()


def parse_amount(raw: Any) -> Amount:
    """``0.1``, ``10%``, ``full``, ``images=5000``, ``patients=9`` or ``per_class=10``.

    Raises:
        ValueError: Another form, or a number that is no fraction.
    """
    text = text_of(raw).lower()
    if text in _EVERYTHING:
        return Amount.model_validate(1.0)
    kind, equals, count = text.partition("=")
    if equals and kind.strip() in _KINDS and re.fullmatch(r"\s*\d+\s*", count):
        return Amount.model_validate({kind.strip(): int(count)})
    percent = text.endswith("%")
    number = _float(text.removesuffix("%").strip())
    if number is None:
        hint = _COMMA_HINT if re.fullmatch(r"\d+,\d+ ?%?", text) else ""
        allowed = ", ".join(("0.1", "10%", "full", *(f"{kind}=N" for kind in _KINDS)))
        raise ValueError(f"data_fraction {text_of(raw)!r} is not one of {allowed}{hint}")
    share = round(number / 100, 12) if percent else number
    if not 0 < share <= 1:
        raise ValueError(f"data_fraction {text_of(raw)!r} is no share in (0, 1]; write 10% or images={text_of(raw)}")
    return Amount.model_validate(share)


def parse_seed(raw: Any) -> Seed:
    """A whole number from 0, or ``s3i0`` for a subset seed and an init seed.

    Raises:
        ValueError: Another form.
    """
    text = text_of(raw)
    if match := re.fullmatch(r"s(\d+)i(\d+)", text):
        return Seed(subset=int(match[1]), init=int(match[2]))
    number = _float(text)
    if number is None or not 0 <= number < LARGEST or number != int(number):
        raise ValueError(f"seed {text!r} is no whole number from 0 (or s3i0: subset seed 3, init seed 0)")
    return Seed(subset=int(number), init=int(number))


def parse_status(raw: Any) -> tuple[State, FailureClass | None]:
    """What became of a trial, and why it failed if the word says so; a missing status is a finished trial.

    Raises:
        ValueError: Another word.
    """
    text = text_of(raw).lower()
    if text in _DONE:
        return State.COMPLETE, None
    if text in _FAILED:
        return State.FAILED, _FAILED[text]
    if text in _UNFINISHED:
        return State.RUNNING, None
    known = ", ".join([*_DONE[1:4], *_FAILED, RUNNING])
    raise ValueError(f"status {text_of(raw)!r} is not known; write one of {known}")


def parse_value(raw: Any) -> float:
    """A metric's value; NaN for a blank or ``nan``: undefined.

    Raises:
        ValueError: No number, or an infinite one (1e300 and more included).
    """
    text = text_of(raw)
    if text.lower() in ("", "nan", "na", "n/a", "none", "null", "-"):
        return math.nan
    number = _float(text)
    if number is None:
        hint = _COMMA_HINT if re.fullmatch(r"-?\d+,\d+", text) else ""
        raise ValueError(f"value {text!r} is no number{hint}")
    if not abs(number) < LARGEST:
        raise ValueError(f"value {text} is infinite; leave it blank if it is undefined, or give status=diverged")
    return number


def parse_count(column: str, raw: Any, *, whole: bool = True) -> float | None:
    """A number of at least 0 in an optional column; None for a blank.

    Raises:
        ValueError: No such number.
    """
    text = text_of(raw)
    if not text or text.lower() in ("nan", "na", "none"):
        return None
    if whole and _SEPARATED.fullmatch(text):
        raise ValueError(f"{column} {text!r} may have a thousands separator: write it without")
    number = _float(text)
    if number is None or not 0 <= number < LARGEST or (whole and number != int(number)):
        raise ValueError(f"{column} {text!r} is no {'whole ' if whole else ''}number of at least 0")
    return number


def metric_name(raw: Any) -> str:
    """The name of a metric as this project writes it: ``AUROC`` is ``auc``; unknown names stay as they are."""
    text = text_of(raw)
    head, dot, label = text.partition(".")
    name = re.sub(r"[\s-]+", "_", head.lower())
    name = METRIC_SYNONYMS.get(name, name)
    return f"{name}{dot}{label}" if name in set(Metric) else text


def known_metric(name: str) -> Metric | None:
    """The metric of a name with or without a label; None if reports do not know it."""
    head = name.partition(".")[0]
    return Metric(head) if head in set(Metric) else None


def bounds(metric: Metric) -> tuple[float, float]:
    """Smallest and largest possible value."""
    return _BOUNDS.get(metric, (0.0, 1.0))


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
