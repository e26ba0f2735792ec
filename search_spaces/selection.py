"""``--only``: which target trials a command is about."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from search_spaces.exceptions import UserError, unknown
from search_spaces.expand import Trial
from search_spaces.names import AXES, Role

Key = tuple[str, ...]
"""A target trial by its place in the study: its coordinates in the order of the axes, and the label of its seed."""

_CONDITION = re.compile(r"^\s*([a-z_]+)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*$")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def key_of(trial: Trial) -> Key:
    """What names a target trial also while its id is not known, because a search has not chosen its values."""
    return (*(trial.cell.coordinates[axis] for axis in AXES), trial.seed.label)


def select(trials: Iterable[Trial], only: str | None) -> list[Trial]:
    """Target trials that fulfil all conditions, plus the upstream trials that they and their searches need, first.

    Args:
        trials: All trials of a study.
        only: Conditions joined by commas, each ``axis=a|b``, ``axis!=a`` or, for ``data_fraction`` and ``seed``,
            ``<``, ``<=``, ``>``, ``>=``; None selects all.

    Raises:
        UserError: A condition that cannot be read, an unknown axis or value, or nothing selected.
    """
    trials = list(trials)
    targets = [t for t in trials if t.role is Role.TARGET]
    for condition in only.split(",") if only else ():
        targets = _filter(targets, trials, condition)
    if not targets:
        raise UserError(f"--only {only!r} selects no trial of the study")
    needed: dict[int, Trial] = {}
    for target in targets:
        for trial in (*(up for s in target.search for up in _chain(s)[:-1]), *_chain(target)):
            needed.setdefault(id(trial), trial)
    return list(needed.values())


def _chain(trial: Trial) -> Sequence[Trial]:
    return [trial] if trial.upstream is None else [*_chain(trial.upstream), trial]


def _filter(targets: list[Trial], trials: list[Trial], condition: str) -> list[Trial]:
    match = _CONDITION.match(condition)
    if match is None:
        raise UserError(f"--only: cannot read {condition!r}; write AXIS=VALUE, AXIS!=VALUE or data_fraction<=0.1")
    axis, sign, text = match.groups()
    if axis not in (*AXES, "seed"):
        raise UserError(unknown("axis", axis, (*AXES, "seed"), "--only"))
    if sign in _COMPARE:
        compare = _COMPARE[sign]
        numbers = [(t, _number(t, axis, condition)) for t in targets]
        return [t for t, n in numbers if n is not None and compare(n, _float(text, condition))]
    values = {_as_label(axis, v, condition) for v in text.split("|")}
    known = {_text(t, axis) for t in trials if t.role is Role.TARGET}
    for value in values - known:
        raise UserError(unknown(axis, value, known, "--only"))
    return [t for t in targets if (_text(t, axis) in values) == (sign == "=")]


def _text(trial: Trial, axis: str) -> str:
    return trial.seed.label if axis == "seed" else trial.cell.coordinates[axis]


def _as_label(axis: str, text: str, condition: str) -> str:
    if axis == "data_fraction" and re.fullmatch(r"[0-9.eE+-]+", text):
        return f"{_float(text, condition):g}"
    return text


def _number(trial: Trial, axis: str, condition: str) -> float | None:
    if axis == "seed":
        return float(trial.seed.subset)
    if axis == "data_fraction":
        amount = trial.cell.data_fraction
        return amount.value if amount.kind == "fraction" else None
    raise UserError(f"--only: {condition!r} compares {axis}, which has no order; use = or !=")


def _float(text: str, condition: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"--only: {text!r} in {condition!r} is not a number; write data_fraction<=0.1 or seed<3, and amounts that "
            "count something as data_fraction=images=500"
        ) from None
