"""What a run would do: cells, trials, exclusions, stages and every problem, found before anything is trained.

Making a plan reads manifests, hashes images and checkpoints, draws every subset, and loads each checkpoint that is
still to be trained from into its network once; it touches no GPU and trains nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator.known_models import KnownModels
from orchestrator.plan_costs import count_budgets, note_unets
from orchestrator.plan_data import Drawn, Findings, PlanData, read_data
from orchestrator.plan_files import file_hashes
from orchestrator.plan_leaks import find_leaks, note_contents
from orchestrator.plan_probes import SharedPasses, refuse_untrained_upstream
from orchestrator.plan_recipes import (
    note_image_sizes,
    note_regimes,
    refuse_warmup_alone,
    refuse_without_compiler,
)
from orchestrator.plan_representations import KeptBytes, check_representations
from orchestrator.plan_stores import check_stores
from orchestrator.plan_weights import Note, Sizes, Trained, check_scales, check_weights
from search_spaces.amounts import Amount
from search_spaces.expand import Cell, Exclusion, Expansion, Trial, expand, gang_of, priority_of
from search_spaces.files import LoadedStudy
from search_spaces.identity import Cards, ScaleCard, TaskCard
from search_spaces.names import Role
from search_spaces.resolve import Resolver
from search_spaces.selection import select
from search_spaces.study import GangSpec, Study
from search_spaces.trial import ResolvedTask
from trainables.evaluation_sets import TaskRows
from trainables.library import TaskLibrary
from trainables.steps import FORWARD_PASSES, evaluation_stops, total_steps

if TYPE_CHECKING:
    from orchestrator.estimate import Estimate

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """A trial with its identity.

    Attributes:
        trial: The trial.
        trial_id: 16 hexadecimal digits.
        upstream_id: Id of the trial whose weights it starts from.
        images: Training images seen, plus a third of the images it is evaluated on, which are passed forward alone.
        cost: Expected work in arbitrary units: those images x pixels x parameters.
        parameters: Numbers of its model; 0 if the plan was made without loading weights.
        gang: What trains it.
        priority: A higher one starts first.
        search_id: The search that gives it its values, if one does. Until that has ended ``trial_id`` is provisional,
            and images and cost are those of the protocol before the search.
    """

    trial: Trial
    trial_id: str
    upstream_id: str | None
    images: float
    cost: float
    parameters: int
    gang: GangSpec
    priority: int = 0
    search_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSearch:
    """The hyper-parameter search of one cell.

    Attributes:
        search_id: See ``Resolver.search_id``.
        trials: What each proposal costs: one trial per search seed, values not known, ids provisional.
    """

    search_id: str
    trials: tuple[PlannedTrial, ...]

    @property
    def cell(self) -> Cell:
        """The cell that is searched."""
        return self.trials[0].trial.cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run would do.

    Attributes:
        loaded: The study and where it came from.
        expansion: All cells of the study, selected or not.
        trials: Selected trials; upstream ones come before those that need them. Two names of one science appear once.
        exclusions: Cells left out by rule, or because their subset cannot be drawn.
        problems: What the user must change; a run refuses while there is one.
        notes: What the user should know.
        resolver: Resolves trials; None while there are problems.
        images: Task -> (training, validation) images and per evaluation set.
        subsets: (task, amount) -> what each subset seed draws.
        rows: Task -> the rows of its sets.
        searches: Searches that give the targets their values.
        kept_bytes: Of the activations that a trial keeps; empty if none does, or the plan was made without weights.
        gangs: Different gangs of the selected trials, also while there are problems.
        only: What selected the trials; None if they are those of the whole study.
        estimate: What it will cost; only if that was asked for (``orchestrator.costing``) and nothing is wrong.
    """

    loaded: LoadedStudy
    expansion: Expansion | None
    trials: tuple[PlannedTrial, ...]
    exclusions: tuple[Exclusion, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    resolver: Resolver | None
    images: dict[str, dict[str, int]]
    searches: tuple[PlannedSearch, ...] = ()
    subsets: dict[tuple[str, Amount], dict[int, Drawn]] = field(default_factory=dict)
    rows: dict[str, TaskRows] = field(default_factory=dict)
    kept_bytes: KeptBytes = field(default_factory=dict)
    gangs: tuple[GangSpec, ...] = ()
    only: str | None = None
    estimate: Estimate | None = None

    @property
    def open_searches(self) -> tuple[PlannedSearch, ...]:
        """Searches of which a target still waits for its values."""
        waiting = {t.search_id for t in self.trials if t.trial.is_open}
        return tuple(search for search in self.searches if search.search_id in waiting)

    @property
    def study(self) -> Study:
        """The study."""
        return self.loaded.study

    @property
    def targets(self) -> tuple[PlannedTrial, ...]:
        """Trials that the axes ask for."""
        return tuple(t for t in self.trials if t.trial.role is Role.TARGET)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Different cells of the targets."""
        return tuple(dict.fromkeys(t.trial.cell for t in self.targets))

    def narrowed(self, target_ids: Collection[str]) -> Plan:
        """The plan of these targets alone, with what they start from."""
        needed: set[str | None] = set(target_ids)
        kept: list[PlannedTrial] = []
        for planned in reversed(self.trials):
            if planned.trial_id in needed:
                kept.append(planned)
                needed.add(planned.upstream_id)
        return replace(self, trials=tuple(reversed(kept)))

    def stages(self) -> Iterator[list[PlannedTrial]]:
        """Trials that may run at the same time, stage after stage, most work first."""
        for stage in sorted({t.trial.stage for t in self.trials}):
            here = [t for t in self.trials if t.trial.stage == stage]
            yield sorted(here, key=lambda t: -t.cost)


def make_plan(
    loaded: LoadedStudy,
    library: TaskLibrary,
    only: str | None = None,
    note: Note = lambda _: None,
    load_weights: bool = True,
    trained: Trained = dict,
    to_be_run: bool = True,
) -> Plan:
    """Plan a study.

    Args:
        loaded: The study.
        library: Imported tasks.
        only: See ``search_spaces.selection.select``.
        note: Told what is being looked at; planning large studies takes a while.
        load_weights: Build every scale, load every source into it, and compare images of evaluation sets with those of
            upstream tasks; without, plans are quick and costs unknown.
        trained: Finished trials of the record; networks that only they need are not built. Asked if there are any
            that were not built before.
        to_be_run: Whether the image stores of all trials have to be there at once.

    Raises:
        UserError: The study cannot be expanded, or ``only`` selects nothing.
    """
    study = loaded.study
    expansion = expand(study)
    chosen = select(expansion.trials, only)
    found = Findings()
    models = KnownModels(library.home)
    resolver = Resolver(study, _cards(loaded, chosen, library, models, found, note))
    tasks = {} if found.problems else _tasks(resolver, chosen, found)
    if not found.problems:
        count_budgets(resolver, [*chosen, *_templates(chosen)], models, import_paths(loaded), found)
    data = PlanData()
    if not found.problems:
        note("drawing subsets")
        data = read_data(tasks, [*chosen, *_templates(chosen)], library, found)
        chosen = data.drawable(chosen)
        _check_data(resolver, chosen, data, library, to_be_run, load_weights, found, note)
    sizes, kept_bytes = (
        _check_networks(loaded, resolver, chosen, data, models, trained, found, note) if load_weights else ({}, {})
    )
    models.save()
    _note_idle_ranks(study, resolver, chosen, found)
    _note_controls(expansion, chosen, found)
    found.notes += expansion.notes
    _check_protocols(resolver, chosen, data, found)
    trials = () if found.problems else _planned(study, resolver, chosen, sizes, data)
    return Plan(
        loaded=loaded,
        expansion=expansion,
        trials=trials,
        exclusions=(*expansion.exclusions, *data.exclusions),
        problems=tuple(found.problems),
        notes=tuple(found.notes),
        resolver=None if found.problems else resolver,
        images=data.images,
        subsets=data.subsets,
        rows=data.rows,
        searches=() if found.problems else _searches(study, resolver, chosen, sizes, data),
        kept_bytes=kept_bytes,
        gangs=tuple(dict.fromkeys(gang_of(study, t.cell) for t in chosen)),
        only=only or None,
    )


def _check_data(
    resolver: Resolver,
    chosen: Sequence[Trial],
    data: PlanData,
    library: TaskLibrary,
    stores_too: bool,
    images_too: bool,
    found: Findings,
    note: Note,
) -> None:
    """Stores, if they are to be made; and if images are looked at, those of evaluation sets in what weights were
    trained on."""
    if stores_too:
        found.attempt(check_stores, _stores_of(resolver, (t.cell for t in chosen)), library)
    if images_too:
        note("looking for images of evaluation sets in upstream tasks")
        seen = find_leaks(data, chosen, library, found)
        resolver.alike, resolver.apart, resolver.near_copies = seen.alike, seen.apart, seen.near
        note_contents(resolver, chosen, found)


def _check_networks(
    loaded: LoadedStudy,
    resolver: Resolver,
    chosen: Sequence[Trial],
    data: PlanData,
    models: KnownModels,
    trained: Trained,
    found: Findings,
    note: Note,
) -> tuple[Sizes, KeptBytes]:
    """Builds every scale and loads every source into it; after other problems scales alone."""
    study, paths = loaded.study, import_paths(loaded)
    if found.problems:
        check_scales(study, chosen, models, paths, found)
        return {}, {}
    sizes = check_weights(resolver, chosen, models, trained, paths, found, note)
    if found.problems:
        return sizes, {}
    note_unets(resolver, chosen, models, paths, found)
    return sizes, check_representations(study, resolver, chosen, models, data, paths, found)


def _check_protocols(resolver: Resolver, chosen: Sequence[Trial], data: PlanData, found: Findings) -> None:
    cells = dict.fromkeys(t.cell for t in chosen)
    note_regimes(resolver, cells, data, found)
    refuse_warmup_alone(resolver, cells, data, found)
    refuse_untrained_upstream(resolver, chosen, found)
    refuse_without_compiler(resolver, cells, found)
    if not found.problems:
        note_image_sizes(resolver, cells, found)


def import_paths(loaded: LoadedStudy) -> tuple[str, ...]:
    """Folders where a study's own factories are looked up: the study file's, then the current one."""
    return tuple(dict.fromkeys((str(loaded.folder), str(Path.cwd()))))


def stores_needed(resolver: Resolver, trials: Iterable[PlannedTrial]) -> list[tuple[str, int, int]]:
    """Image stores that trials read: manifest, storage size, working side."""
    return _stores_of(resolver, (t.trial.cell for t in trials))


def _stores_of(resolver: Resolver, cells: Iterable[Cell]) -> list[tuple[str, int, int]]:
    from trainables.task_data import worked_side

    wanted: dict[tuple[str, int, int], None] = {}
    for cell in dict.fromkeys(cells):
        task, protocol = resolver.task(cell.task), resolver.protocol(cell)
        side = worked_side(protocol, resolver.scale(cell).input_size)
        manifests = [task.manifest, *(s.manifest for s in task.evaluate.values() if s.manifest)]
        sides = {side, protocol.storage_size} if task.is_dense else {side}  # masks are scored at the full size
        wanted |= {(name, protocol.storage_size, each): None for name in manifests for each in sorted(sides)}
    return list(wanted)


def _cards(
    loaded: LoadedStudy,
    trials: Sequence[Trial],
    library: TaskLibrary,
    models: KnownModels,
    found: Findings,
    note: Note,
) -> Cards:
    study = loaded.study
    paths = import_paths(loaded)
    manifests = sorted({study.tasks[t.cell.task].manifest for t in trials} | _evaluation_manifests(study, trials))
    found.attempt(_make_phantoms, library, manifests, note)
    tasks: dict[str, TaskCard] = {}
    for name in manifests:
        note(f"hashing the images of {name}")
        _keep(tasks, name, found.attempt(library.card, name))
    scales: dict[str, ScaleCard] = {}
    for name in dict.fromkeys(t.cell.model_scale for t in trials):
        _keep(scales, name, found.attempt(models.scale_card, str(study.scale(name).factory), paths))
    return Cards(scales=scales, files=file_hashes(study, trials, found), tasks=tasks)


def _make_phantoms(library: TaskLibrary, manifests: Iterable[str], note: Note) -> None:
    """Make the phantom data sets that are asked for and not there yet; they ship as code, not as images."""
    absent = set(manifests) - set(library.names())
    if absent:
        from trainables.phantoms import PHANTOMS, make_phantoms

        if absent & set(PHANTOMS):
            note("making phantom images")
            make_phantoms(library, sorted(absent & set(PHANTOMS)))


def _keep(mapping: dict[str, Made], key: str, value: Made | None) -> None:
    if value is not None:
        mapping[key] = value


def _evaluation_manifests(study: Study, trials: Iterable[Trial]) -> set[str]:
    tasks = {t.cell.task for t in trials}
    return {s.manifest for task in tasks for s in study.tasks[task].evaluate.values() if s.manifest}


def _tasks(resolver: Resolver, trials: Iterable[Trial], found: Findings) -> dict[str, ResolvedTask]:
    tasks: dict[str, ResolvedTask] = {}
    for name in dict.fromkeys(t.cell.task for t in trials):
        _keep(tasks, name, found.attempt(resolver.task, name))
    for cell in dict.fromkeys(t.cell for t in trials):
        found.attempt(_check_sizes, resolver, cell)
        if cell.task in tasks:
            found.attempt(resolver.check_protocol, cell)
    return tasks


def _check_sizes(resolver: Resolver, cell: Cell) -> None:
    from trainables.task_data import worked_side

    worked_side(resolver.protocol(cell), resolver.scale(cell).input_size)


def _note_idle_ranks(study: Study, resolver: Resolver, trials: Iterable[Trial], found: Findings) -> None:
    cells = {t.cell for t in trials if resolver.written_protocol(t.cell).trains}
    shares = {(gang_of(study, c).ranks, resolver.written_protocol(c).ghost_batches) for c in cells}
    for ranks, ghosts in sorted(share for share in shares if share[1] < share[0]):
        found.notes.append(
            f"{ranks} ranks share {ghosts} ghost batch(es) per step, so {ranks - ghosts} idle: lower "
            "protocol.ghost_batch_size (which makes another trial of it) or the ranks in execution.gang"
        )


def _note_controls(expansion: Expansion, trials: Iterable[Trial], found: Findings) -> None:
    chosen = {t.cell for t in trials}
    added = [cell for cell in expansion.controls if cell in chosen]
    if added:
        scales = dict.fromkeys(cell.model_scale for cell in added)
        found.notes.append(
            f"{len(added)} cells of random weights are added as controls ({', '.join(scales)}): the axes have none, "
            "and without them no gain can be told; controls: none in the study declines"
        )


def _templates(trials: Iterable[Trial]) -> list[Trial]:
    """The search trials, values not known, of the searches of these trials."""
    return list(dict.fromkeys(template for trial in trials for template in trial.search))


def _searches(
    study: Study, resolver: Resolver, trials: Iterable[Trial], sizes: Sizes, data: PlanData
) -> tuple[PlannedSearch, ...]:
    searches = {resolver.search_id(trial): trial.search for trial in trials if trial.search}
    return tuple(
        PlannedSearch(search_id=str(search_id), trials=_planned(study, resolver, templates, sizes, data))
        for search_id, templates in searches.items()
    )


def _planned(
    study: Study,
    resolver: Resolver,
    trials: Iterable[Trial],
    sizes: Sizes,
    data: PlanData,
) -> tuple[PlannedTrial, ...]:
    planned: dict[str, PlannedTrial] = {}
    images = data.images
    trials = list(trials)
    passes = SharedPasses(resolver, trials)
    for trial in trials:
        identity, cell = resolver.trial_id(trial), trial.cell
        drawn = data.size(cell.task, cell.data_fraction)
        of_task = images.get(cell.task, {}) | ({"val": drawn.val_images} if drawn else {})
        if resolver.protocol_of(trial).trains:
            seen = _images_seen(resolver, trial, of_task, drawn.images if drawn else 0)
        else:
            seen = passes.images(trial, images.get(cell.task, {})) / FORWARD_PASSES
        parameters = sizes.get((cell.model_scale, resolver.task(cell.task).is_dense), 0)
        pixels = resolver.scale(cell).input_size ** 2
        entry = PlannedTrial(
            trial=trial,
            trial_id=identity,
            upstream_id=resolver.trial_id(trial.upstream) if trial.upstream else None,
            images=seen,
            cost=seen * pixels * max(1, parameters),
            parameters=parameters,
            gang=gang_of(study, cell),
            priority=priority_of(study, cell),
            search_id=resolver.search_id(trial),
        )
        planned.setdefault(identity, entry)
    return tuple(planned.values())


def _images_seen(resolver: Resolver, trial: Trial, of_task: dict[str, int], subset: int) -> float:
    protocol = resolver.protocol_of(trial)
    gflops = resolver.scale(trial.cell).gflops
    steps = total_steps(protocol.budget, subset, protocol.global_batch_size, gflops)
    scored = trial.role is not Role.SEARCH
    of_sets = sum(n for name, n in of_task.items() if scored and name not in ("train", "val"))
    evaluated = len(evaluation_stops(protocol, max(1, subset), steps)) * of_task.get("val", 0) + of_sets
    return steps * protocol.global_batch_size + evaluated / FORWARD_PASSES
