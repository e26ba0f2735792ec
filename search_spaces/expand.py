"""From a study to its cells, trials and exclusions.

``axes`` is one block or a list of blocks (their union; a cell named twice counts once). A block is the product of its
axes, each one value or a list. Axes that move together stand under ``zip`` as lists of one length::

    axes:
      - {model_scale: [a, b], pretraining_source: [random, natural], task: ham10000, data_fraction: [0.05, 1.0]}
      - {model_scale: a, pretraining_source: random, zip: {task: [lgg, chest], data_fraction: [{patients: 3}, 0.2]}}

Each entry of ``exclude`` maps axes to a value or list of values, plus a ``reason``; a cell that matches all is left
out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from search_spaces.amounts import Amount, Seed, expand_seeds
from search_spaces.exceptions import UserError, unknown
from search_spaces.models import describe
from search_spaces.names import AXES, Role
from search_spaces.protocol import Protocol, changed
from search_spaces.rules import Rule, disagreements
from search_spaces.source_specs import ByScaleSource, PartialSpec, RandomSource, Source, TransformSource, TrialSource
from search_spaces.study import GangSpec, Study
from search_spaces.tuning import Proposal

RANDOM = "random"
"""Source of random weights that every study knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid. Axis values are the study's names."""

    model_scale: str
    pretraining_source: str
    data_fraction: Amount
    task: str

    @property
    def label(self) -> str:
        """Short text: ``resnet20 · natural · 0.05 · ham10000``."""
        return " · ".join(self.coordinates.values())

    @property
    def coordinates(self) -> dict[str, str]:
        """Axis -> its value as text, in the order of AXES."""
        return {
            "model_scale": self.model_scale,
            "pretraining_source": self.pretraining_source,
            "data_fraction": self.data_fraction.label,
            "task": self.task,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A cell with a seed: the unit that is scheduled, resumed and recorded.

    Attributes:
        role: Target (asked for by the axes), upstream (needed by a source only) or search.
        upstream: The trial whose weights this one starts from.
        search: One search trial per search seed, without a proposal, if the protocol's values come from a search.
        proposal: The values; None while a search has not ended (or without one).
    """

    cell: Cell
    seed: Seed
    role: Role = Role.TARGET
    upstream: Trial | None = None
    search: tuple[Trial, ...] = ()
    proposal: Proposal | None = None

    @property
    def label(self) -> str:
        """Short text: the cell's label and the seed, of a search trial also its proposal."""
        text = f"{self.cell.label} · seed {self.seed.label}"
        if self.role is Role.SEARCH and self.proposal is not None:
            text += f" · proposal {self.proposal.number}"
        return text

    @property
    def stage(self) -> int:
        """Number of trials that must be done before this one, one after the other."""
        return 0 if self.upstream is None else self.upstream.stage + 1

    @property
    def is_open(self) -> bool:
        """Whether its values come from a search and are not known."""
        return self.proposal is None and (self.role is Role.SEARCH or bool(self.search))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A cell of the axes that is not run, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Everything a study asks for.

    Attributes:
        cells: Target cells, in the order of the axes.
        trials: Target trials (cells x seeds), then upstream trials that are no targets themselves. Trials of a
            search are not among them (their values are not known), but the upstream trials that those need are.
        exclusions: Cells left out.
        controls: Cells of random weights that the axes do not name (``controls`` of the study); among ``cells``.
        notes: What the user should know: rules of which the order decides.
    """

    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    exclusions: tuple[Exclusion, ...] = field(default=())
    controls: tuple[Cell, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def targets(self) -> tuple[Trial, ...]:
        """The trials that the axes ask for."""
        return tuple(t for t in self.trials if t.role is Role.TARGET)


def expand(study: Study) -> Expansion:
    """Cells, trials and exclusions of a study.

    Raises:
        UserError: An axis is unknown or missing, a value is not known, a zip has lists of different lengths, an
            exclusion or override matches nothing that could exist, an override sets what is searched, rules contradict
            each other, or no cell is left.
    """
    cells = list(
        dict.fromkeys(itertools.chain.from_iterable(_block(study, b, n) for n, b in enumerate(_blocks(study))))
    )
    possible = _controls(study, cells)
    rules = _exclusion_rules(study, [*cells, *possible])
    reasons = {cell: _why_not(study, rules, cell) for cell in (*cells, *possible)}
    compared = {_place(cell) for cell in cells if reasons[cell] is None}
    controls = [cell for cell in possible if _place(cell) in compared]
    cells = [*cells, *controls]
    kept = [cell for cell in cells if reasons[cell] is None]
    exclusions = [Exclusion(cell=cell, reason=why) for cell in cells if (why := reasons[cell]) is not None]
    _refuse_useless_sources(study, kept, exclusions)
    if not kept:
        raise UserError(
            f"study {study.name!r}: no cell is left after {len(exclusions)} exclusions; see exclude and sources"
        )
    _check_tuning(study, kept)
    trials = _trials(study, kept)
    reached = list(dict.fromkeys(t.cell for t in trials))
    labels = [cell.coordinates for cell in reached]
    return Expansion(
        cells=tuple(kept),
        trials=trials,
        exclusions=tuple(exclusions),
        controls=tuple(c for c in controls if c in kept),
        notes=tuple(note for several in _rules(study, cells, reached) for note in disagreements(several, labels)),
    )


def _rules(study: Study, cells: list[Cell], reached: list[Cell]) -> Iterable[list[Rule]]:
    """The rules of each kind, checked against the values that the axes have."""
    execution = study.execution
    kinds: list[tuple[str, list[Cell], list[tuple[dict[str, Any], dict[str, Any]]]]] = [
        ("overrides", [*cells, *reached], [(o.when, o.set) for o in study.overrides]),
        ("execution.gangs", reached, [(r.when, {"gang": _gang_text(r.gang)}) for r in execution.gangs]),
        ("execution.priorities", reached, [(r.when, {"priority": r.priority}) for r in execution.priorities]),
    ]
    for where, known, several in kinds:
        yield [
            Rule(where=f"{where}[{n}]", when=_matcher(when, known, f"{where}.when"), says=says)
            for n, (when, says) in enumerate(several)
        ]


def _gang_text(gang: GangSpec) -> str:
    return ", ".join(f"{name} {value}" for name, value in gang if value is not None)


def _controls(study: Study, cells: list[Cell]) -> list[Cell]:
    """A cell of random weights for each scale, amount and task with a cell of other weights and none of random ones.

    Those for places where no other cell is left in the end are of no use to anyone.
    A study that names random weights for such a place, even to leave them out by ``exclude``, has decided for itself.
    """
    if study.controls == "none":
        return []
    random = {name for name, source in study.sources.items() if isinstance(source, RandomSource)} | {RANDOM}
    if RANDOM in study.sources and not isinstance(study.sources[RANDOM], RandomSource):
        random.discard(RANDOM)
    has_control = {_place(c) for c in cells if c.pretraining_source in random}
    wanted = dict.fromkeys(_place(c) for c in cells if _place(c) not in has_control)
    control = RANDOM if RANDOM in random else next(iter(sorted(random)), None)
    if control is None:
        return []
    return [
        Cell(model_scale=scale, pretraining_source=control, data_fraction=amount, task=task)
        for scale, amount, task in wanted
    ]


def _place(cell: Cell) -> tuple[str, Amount, str]:
    return cell.model_scale, cell.data_fraction, cell.task


def gang_of(study: Study, cell: Cell) -> GangSpec:
    """The gang that trains a cell: the study's, or that of the last rule that matches."""
    several = [rule.gang for rule in study.execution.gangs if matches(rule.when, cell)]
    return several[-1] if several else study.execution.gang


def priority_of(study: Study, cell: Cell) -> int:
    """The priority of a cell: that of the last rule that matches, else 0."""
    several = [rule.priority for rule in study.execution.priorities if matches(rule.when, cell)]
    return several[-1] if several else 0


def protocol_of(study: Study, cell: Cell) -> Protocol:
    """The protocol of a cell: the study's, changed by every override that matches, in order.

    Raises:
        UserError: An override sets an impossible value.
    """
    changes = _overridden(study, cell)
    return changed(study.protocol, changes, f"overrides for {cell.label}") if changes else study.protocol


def _overridden(study: Study, cell: Cell) -> dict[str, Any]:
    """Protocol field -> value of every override that matches, the last one wins."""
    changes: dict[str, Any] = {}
    for override in study.overrides:
        if matches(override.when, cell):
            changes |= override.set
    return changes


def _check_tuning(study: Study, cells: list[Cell]) -> None:
    """A field is either set for a cell or searched, and every value fits what else is set for it."""
    if study.tuning is None or not study.overrides:
        return
    checked: list[dict[str, Any]] = []
    for cell in cells:
        changes = _overridden(study, cell)
        if changes in checked:
            continue
        checked.append(changes)
        for name in study.tuning.space:
            if name.partition(".")[0] in changes:
                raise UserError(
                    f"{name} is both searched (tuning.space) and set by overrides for {cell.label}; drop one of the two"
                )
        study.tuning.check_values(protocol_of(study, cell), f"overrides for {cell.label}")


def matches(when: Mapping[str, Any], cell: Cell) -> bool:
    """Whether a cell has one of the values that ``when`` lists for every axis it names."""
    return all(cell.coordinates[axis] in _labels(axis, values) for axis, values in when.items())


def _blocks(study: Study) -> list[dict[str, Any]]:
    return study.axes if isinstance(study.axes, list) else [study.axes]


def _block(study: Study, block: Mapping[str, Any], number: int) -> Iterable[Cell]:
    where = f"axes[{number}]" if isinstance(study.axes, list) else "axes"
    zipped = block.get("zip", {})
    if not isinstance(zipped, dict):
        raise UserError(f"{where}.zip maps axes to lists of one length, got {zipped!r}")
    for axis in [*block, *zipped]:
        if axis not in (*AXES, "zip"):
            raise UserError(unknown("axis", str(axis), (*AXES, "zip"), where))
    if missing := [a for a in AXES if a not in block and a not in zipped]:
        raise UserError(f"{where}: no values for {', '.join(missing)}; every block names {', '.join(AXES)}")
    if twice := [a for a in zipped if a in block]:
        raise UserError(f"{where}: {', '.join(twice)} stands both in the product and under zip")
    columns = {axis: [_value(study, axis, v, where) for v in _listed(values)] for axis, values in zipped.items()}
    if len({len(values) for values in columns.values()}) > 1:
        lengths = {axis: len(values) for axis, values in columns.items()}
        raise UserError(f"{where}.zip needs lists of one length, got {lengths}")
    together = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] or [{}]
    free = {a: [_value(study, a, v, where) for v in _listed(block[a])] for a in AXES if a in block}
    for row in together:
        for combination in itertools.product(*free.values()):
            yield Cell(**row, **dict(zip(free, combination, strict=True)))


def _listed(values: Any) -> list[Any]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    if not listed:
        raise UserError("an axis needs at least one value, got an empty list")
    return listed


def _value(study: Study, axis: str, raw: Any, where: str) -> Any:
    if axis == "data_fraction":
        return _amount(raw, f"{where}.data_fraction")
    name = str(raw)
    if axis == "task" and name not in study.tasks:
        raise UserError(unknown("task", name, study.tasks, f"{where}.task"))
    if axis == "pretraining_source" and name not in (known := {*study.sources, "random"}):
        raise UserError(unknown("source", name, known, f"{where}.pretraining_source"))
    return name


def _amount(raw: Any, where: str) -> Amount:
    try:
        return Amount.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where} is not valid:\n{describe(error)}") from None


def _labels(axis: str, values: Any) -> frozenset[str]:
    if axis != "data_fraction":
        return frozenset(str(v) for v in _listed(values))
    return frozenset(_amount(v, axis).label for v in _listed(values))


def _matcher(rule: Mapping[str, Any], cells: list[Cell], where: str) -> dict[str, frozenset[str]]:
    """Axis -> allowed labels, checked against the values that the axes have."""
    matcher = {}
    for axis, values in rule.items():
        if axis not in AXES:
            raise UserError(unknown("axis", axis, AXES, where))
        known = {cell.coordinates[axis] for cell in cells}
        labels = _labels(axis, values)
        for label in labels - known:
            raise UserError(unknown(axis, label, known, where))
        matcher[axis] = labels
    return matcher


def _matches(matcher: Mapping[str, frozenset[str]], cell: Cell) -> bool:
    coordinates = cell.coordinates
    return all(coordinates[axis] in labels for axis, labels in matcher.items())


def _why_not(study: Study, rules: Iterable[tuple[dict[str, frozenset[str]], str]], cell: Cell) -> str | None:
    """Why a cell is left out; None if it is not."""
    missing = _missing_weights(study, cell.pretraining_source, cell.model_scale)
    return missing or next((why for rule, why in rules if _matches(rule, cell)), None)


def _exclusion_rules(study: Study, cells: list[Cell]) -> list[tuple[dict[str, frozenset[str]], str]]:
    rules = []
    for number, entry in enumerate(study.exclude):
        where = f"exclude[{number}]"
        rule = {axis: v for axis, v in entry.items() if axis != "reason"}
        if not rule:
            raise UserError(f"{where} names no axis; it would exclude everything")
        rules.append((_matcher(rule, cells, where), str(entry.get("reason", "excluded by the study"))))
    return rules


def _missing_weights(study: Study, source_name: str, scale: str, trail: tuple[str, ...] = ()) -> str | None:
    """Why a source has no weights for a scale, following transforms and upstream trials; None if it has."""
    if source_name in trail:
        raise UserError(f"sources form a circle: {' <- '.join((*trail, source_name))}")
    trail = (*trail, source_name)
    source: Source = study.source(source_name)
    if isinstance(source, ByScaleSource) and scale not in source.by_scale:
        return f"source {source_name!r} has no weights for scale {scale!r} (sources.{source_name}.by_scale)"
    if isinstance(source, PartialSpec) and source.cut(scale) is None:
        return f"source {source_name!r} has no cut point for scale {scale!r} (sources.{source_name}.up_to)"
    if isinstance(source, TransformSource):
        return _missing_weights(study, source.of, scale, trail)
    if isinstance(source, TrialSource):
        upstream = source.trial
        return _missing_weights(study, upstream.pretraining_source, _same(upstream.model_scale, scale), trail)
    return None


def _same(value: str, scale: str) -> str:
    return scale if value == "same" else value


def _refuse_useless_sources(study: Study, kept: list[Cell], exclusions: list[Exclusion]) -> None:
    """A source that no scale can use, or weights for a scale that the study lacks, are mistakes, not exclusions."""
    used = {cell.pretraining_source for cell in kept}
    for exclusion in exclusions:
        name = exclusion.cell.pretraining_source
        if name not in used and _missing_weights(study, name, exclusion.cell.model_scale):
            raise UserError(f"{exclusion.reason}, nor for any other scale of the study")
    scales = {c.model_scale for c in kept} | {e.cell.model_scale for e in exclusions} | set(study.scales)
    scales |= {s.trial.model_scale for s in study.sources.values() if isinstance(s, TrialSource)}
    for name, source in study.sources.items():
        given: Iterable[str] = ()
        where = f"sources.{name}.by_scale"
        if isinstance(source, ByScaleSource):
            given = source.by_scale
        elif isinstance(source, PartialSpec) and not isinstance(source.up_to, str):
            given, where = source.up_to, f"sources.{name}.up_to"
        for scale in given:
            if scale not in scales:
                raise UserError(unknown("scale", scale, scales - {"same"}, where))


def _trials(study: Study, cells: list[Cell]) -> tuple[Trial, ...]:
    seeds = expand_seeds(study.seeds)
    targets = {(c, s) for c in cells for s in seeds}
    trials: dict[tuple[Cell, Seed, Role], Trial] = {}

    def build(cell: Cell, seed: Seed, role: Role, trail: tuple[Cell, ...] = ()) -> Trial:
        # A target is what others start from, too, unless it is tuned: upstream trials keep the study's protocol.
        if role is Role.UPSTREAM and study.tuning is None and (cell, seed) in targets:
            role = Role.TARGET
        if (cell, seed, role) in trials:
            return trials[cell, seed, role]
        if cell in trail:
            raise UserError(f"sources form a circle of trials: {' <- '.join(c.label for c in (*trail, cell))}")
        upstream = start(cell, seed, trail)
        search = search_of(cell) if role is Role.TARGET else ()
        trial = Trial(cell=cell, seed=seed, role=role, upstream=upstream, search=search)
        trials[cell, seed, role] = trial
        return trial

    def start(cell: Cell, seed: Seed, trail: tuple[Cell, ...] = ()) -> Trial | None:
        needed = upstream_of(study, cell, seed)
        return build(*needed, Role.UPSTREAM, (*trail, cell)) if needed else None

    @cache
    def search_of(cell: Cell) -> tuple[Trial, ...]:
        search_seeds = study.tuning.seeds if study.tuning else ()
        return tuple(Trial(cell=cell, seed=s, role=Role.SEARCH, upstream=start(cell, s)) for s in search_seeds)

    for cell in cells:
        for seed in seeds:
            build(cell, seed, Role.TARGET)
    ordered = sorted(trials.values(), key=lambda t: t.role is Role.UPSTREAM)
    return tuple(ordered)


def upstream_of(study: Study, cell: Cell, seed: Seed) -> tuple[Cell, Seed] | None:
    """Cell and seed of the trial that a trial starts from; None if its source needs none."""
    source = study.source(cell.pretraining_source)
    while isinstance(source, TransformSource):
        source = study.source(source.of)
    if not isinstance(source, TrialSource):
        return None
    spec = source.trial
    scale = _same(spec.model_scale, cell.model_scale)
    upstream = Cell(
        model_scale=scale,
        pretraining_source=spec.pretraining_source,
        data_fraction=spec.data_fraction,
        task=spec.task,
    )
    return upstream, seed if spec.seed == "same" else spec.seed
