"""How numbers, metrics and sources look, the same in every figure, table and sentence.

Colours are those of Okabe and Ito (2008) that reach a contrast of 3:1 on white; each comes with its own marker and
dash, so that no line is told apart by colour alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_LINES = 6
"""Lines of one panel; more cannot be told apart. Further sources go to a further figure."""

FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1a1a1a"
MUTED = "#5f6368"
GRID = "#e3e5e8"
ZONE = "#e9edf2"
"""Fill of the zone of no practical meaning."""
BAND = "#d5dae1"
"""Fill of what chance alone gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStyle:
    """How one source is drawn by both backends.

    Attributes:
        colour: ``#rrggbb``.
        dash: plotly's dash name.
        symbol: plotly's marker symbol.
        mpl_dash: matplotlib's line style.
        mpl_marker: matplotlib's marker.
    """

    colour: str
    dash: str
    symbol: str
    mpl_dash: str | tuple[int, tuple[int, ...]]
    mpl_marker: str


_BASELINE = LineStyle(colour="#000000", dash="dash", symbol="x", mpl_dash=(0, (5, 3)), mpl_marker="X")
_STYLES = (
    LineStyle(colour="#0072B2", dash="solid", symbol="circle", mpl_dash="-", mpl_marker="o"),
    LineStyle(colour="#D55E00", dash="longdash", symbol="square", mpl_dash=(0, (8, 3)), mpl_marker="s"),
    LineStyle(colour="#009E73", dash="dashdot", symbol="diamond", mpl_dash="-.", mpl_marker="D"),
    LineStyle(colour="#CC79A7", dash="dot", symbol="triangle-up", mpl_dash=":", mpl_marker="^"),
    LineStyle(colour="#5f6368", dash="longdashdot", symbol="star", mpl_dash=(0, (8, 2, 1, 2)), mpl_marker="*"),
)


def source_styles(sources: Iterable[str], baseline: str) -> dict[str, LineStyle]:
    """Source -> style. The baseline is black; the others take the palette in their order, again after five."""
    others = [s for s in dict.fromkeys(sources) if s != baseline]
    styles = {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(others)}
    return {baseline: _BASELINE} | styles


def source_groups(sources: Sequence[str], baseline: str) -> list[list[str]]:
    """Sources of each figure: the baseline in every one, at most MAX_LINES together."""
    others = [s for s in sources if s != baseline]
    size = MAX_LINES - 1
    chunks = [others[i : i + size] for i in range(0, len(others), size)] or [[]]
    first = [baseline] if baseline in sources else []
    return [first + chunk for chunk in chunks]


_METRICS = {
    "auc": "AUC",
    "auc_macro": "macro AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "ece": "ECE",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "95 % Hausdorff distance (pixels of the original)",
    "nsd": "normalised surface Dice",
    "kappa": "weighted kappa",
    "ap": "average precision",
    "ap_macro": "macro average precision",
}
_LOWER_IS_BETTER = frozenset({"nll", "brier", "ece"})
_CHANCE = {"auc": 0.5, "auc_macro": 0.5, "kappa": 0.0}


def metric_label(metric: str) -> str:
    """The metric's name in running text, with its unit where it has one."""
    head, _, label = metric.partition(".")
    shown = _METRICS.get(head, head.replace("_", " "))
    return f"{shown}, {label}" if label else shown


def direction(metric: str) -> int:
    """1 where a larger value is better, -1 where a smaller one is."""
    return -1 if metric.partition(".")[0] in _LOWER_IS_BETTER else 1


def chance_level(metric: str) -> float | None:
    """Value of a model that knows nothing, where it does not depend on the data."""
    return _CHANCE.get(metric.partition(".")[0])


def number(value: float | None, digits: int = 3) -> str:
    """``0.041``; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.041`` or ``−0.020``; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """``p = 0.012``, ``p < 0.001`` or ``p > 0.99``; ``p undefined`` where there is none."""
    if p is None or not math.isfinite(p):
        return "p undefined"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.995 else "p > 0.99"


def count(value: float | None) -> str:
    """Whole number with thin spaces between thousands; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value):,}".replace(",", "\u202f")


def plural(n: int, word: str) -> str:
    """``1 seed``, ``3 seeds``, ``2 patients``."""
    if n == 1:
        return f"1 {word}"
    return f"{count(n)} {word[:-1]}ies" if word.endswith("y") else f"{count(n)} {word}s"


def sample_text(n_seeds: float, n_patients: float) -> str:
    """``5 seeds, 1,234 patients``; of numbers without patients ``5 seeds, no patient data``."""
    patients = plural(int(n_patients), "patient") if n_patients else "no patient data"
    return f"{plural(int(n_seeds), 'seed')}, {patients}"


def amount_text(label: str) -> str:
    """An amount label for people: ``0.05`` is ``5 %``, ``patients=9`` is ``9 patients``."""
    if "=" in label:
        kind, _, n = label.partition("=")
        words = {"images": "image", "patients": "patient", "per_class": "patient"}
        return plural(int(n), words[kind]) + " per class" * (kind == "per_class") if kind in words else label
    try:
        return f"{100 * float(label):g} %"
    except ValueError:
        return label


def file_key(*parts: str) -> str:
    """A file name from names that users gave; names that need changing get a checksum, so that no two meet."""
    name = "_".join(parts)
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def seconds_text(seconds: float | None) -> str:
    """``48 s``, ``3.2 min`` or ``5.1 h``; a dash where there is no number."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size_text(parameters: float | None) -> str:
    """``0.27 M`` for 270 000 numbers; a dash where there is none."""
    if parameters is None or not math.isfinite(parameters):
        return "–"
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g} G"
    return f"{parameters / 1e6:.3g} M" if parameters >= 1e5 else f"{parameters / 1e3:.3g} k"
