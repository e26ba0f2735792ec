"""Rules of a study that say something of some cells: ``overrides``, ``execution.gangs``, ``execution.priorities``.

Of several that match a cell the last one counts. So a rule for fewer of the cells of an earlier one is an exception to
it; a later rule for at least the same cells leaves the earlier one without any effect, which nobody can have meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.exceptions import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is said of the cells that match.

    Attributes:
        where: Place in the study, such as ``overrides[1]``.
        when: Axis -> labels of which a cell must have one.
        says: What is set -> its value.
    """

    where: str
    when: Mapping[str, frozenset[str]]
    says: Mapping[str, Any]

    def matches(self, coordinates: Mapping[str, str]) -> bool:
        """Whether it is for a cell with these labels."""
        return all(coordinates[axis] in labels for axis, labels in self.when.items())

    def is_within(self, other: Rule) -> bool:
        """Whether all the cells that it can match, in whatever study, match the other one, too."""
        return all(axis in self.when and self.when[axis] <= labels for axis, labels in other.when.items())


def disagreements(rules: Sequence[Rule], cells: Iterable[Mapping[str, str]]) -> list[str]:
    """Where rules of one kind overlap and say different things, so that their order decides; one sentence per pair.

    Args:
        rules: In their order.
        cells: Labels of the cells of the study.

    Raises:
        UserError: Rules contradict each other: a later one is for all the cells of an earlier one and says something
            else. Names them all.
    """
    lost = [text for n, late in enumerate(rules) for early in rules[:n] if (text := _contradiction(early, late))]
    if lost:
        raise UserError("contradictory rules: " + "; ".join(lost))
    counts = Counter(pair for cell in cells for pair in _decided_by_order([r for r in rules if r.matches(cell)]))
    places = {rule.where: rule for rule in rules}
    return [
        f"{early} and {late} say different things ({_difference(places[early], places[late], names)}) of {count} "
        f"cells; the later one, {late}, counts there"
        for (early, late, names), count in counts.items()
    ]


def _contradiction(early: Rule, late: Rule) -> str:
    names = _different(early, late)
    if not names or not early.is_within(late):
        return ""
    cells = "the same cells" if late.is_within(early) else "all cells of it and more"
    hint = "drop one of them" if late.is_within(early) else "put the rule for fewer cells last"
    return f"{early.where} and {late.where} ({_difference(early, late, names)}): the later one is for {cells}; {hint}"


def _decided_by_order(matching: Sequence[Rule]) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Pairs of rules for one cell of which the later one decides, without being an exception to the earlier one."""
    for n, early in enumerate(matching):
        decides: dict[str, list[str]] = {}
        for name in early.says:
            last = next((rule for rule in reversed(matching[n + 1 :]) if name in rule.says), None)
            if last is not None and last.says[name] != early.says[name] and not last.is_within(early):
                decides.setdefault(last.where, []).append(name)
        yield from ((early.where, late, tuple(names)) for late, names in decides.items())


def _different(early: Rule, late: Rule) -> tuple[str, ...]:
    return tuple(name for name in early.says if name in late.says and early.says[name] != late.says[name])


def _difference(early: Rule, late: Rule, names: Iterable[str]) -> str:
    return ", ".join(f"{name}: {early.says[name]} or {late.says[name]}" for name in names)
