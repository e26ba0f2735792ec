"""From trials of a study and the cards to trial ids and resolved trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from search_spaces.amounts import Seed
from search_spaces.contents import Overlap
from search_spaces.exceptions import UserError, unknown
from search_spaces.expand import Cell, Trial, matches, protocol_of
from search_spaces.identity import (
    Cards,
    canonical,
    cell_key,
    digest,
    scale_identity,
    source_identity,
    subset_identity,
    task_identity,
    trial_id,
)
from search_spaces.image_sizes import input_size, with_sizes
from search_spaces.label_policy import settled_policy
from search_spaces.ladders import ladder
from search_spaces.models import identity_fields
from search_spaces.names import Kind, Role
from search_spaces.normalisation import Normalisation
from search_spaces.protocol import Protocol, changed
from search_spaces.seen import SetOverlap, set_overlaps
from search_spaces.segmentation import OVERLAP_METRICS, misfit, task_misfit
from search_spaces.source_specs import (
    ByScaleSource,
    CheckpointSource,
    GaborSpec,
    MeanVarSpec,
    PartialSpec,
    RandomSource,
    TimmSource,
    TransformSource,
    TrialSource,
)
from search_spaces.study import Study
from search_spaces.trial import (
    LeakageFacts,
    MeanVarSource,
    PartialSource,
    ResolvedScale,
    ResolvedSource,
    ResolvedTask,
    ResolvedTrial,
    ResolvedWeights,
    SearchFacts,
    UpstreamSource,
    Workspace,
)

_PRIMARY_BY_KIND = {
    Kind.BINARY: {"auc", "accuracy", "balanced_accuracy", "nll"},
    Kind.MULTICLASS: {"auc_macro", "accuracy", "balanced_accuracy", "nll"},
    Kind.MULTILABEL: {"auc_macro", "nll"},
    Kind.ORDINAL: {"auc_macro", "accuracy", "balanced_accuracy", "nll", "kappa"},
    Kind.SEGMENTATION: set(OVERLAP_METRICS),
}


class Resolver:
    """Resolves the trials of one study. Pure: facts come from the cards.

    Args:
        study: The study.
        cards: Facts about its scales, checkpoint files and manifests.
    """

    def __init__(self, study: Study, cards: Cards) -> None:
        self._study = study
        self._cards = cards
        self._scales: dict[tuple[str, int, float | None], ResolvedScale] = {}
        self._tasks: dict[str, ResolvedTask] = {}
        self._sources: dict[tuple[str, str, str | None], ResolvedSource] = {}
        self._written: dict[tuple[bool, ...], Protocol] = {}
        self._protocols: dict[tuple[Any, ...], Protocol] = {}
        self._tuned: dict[tuple[tuple[Any, ...], str], Protocol] = {}
        self._keys: dict[tuple[Cell, str | None, str], str] = {}
        self._texts: dict[tuple[Any, ...], str] = {}
        self._ids: dict[tuple[Cell, Seed, str], str] = {}
        self.alike: set[tuple[str, str, str]] = set()
        """(task, evaluation set, upstream task) that hold images of equal bytes; found by a plan."""
        self.apart: set[tuple[str, str, str]] = set()
        """(task, evaluation set, upstream task) of two manifests whose patients were compared and differ; found by a
        plan."""
        self.near_copies: dict[str, dict[str, int]] = {}
        """Task -> evaluation set -> images that training or validation has a near copy of; found by a plan."""
        self.gflops: dict[tuple[str, int, int], float] = {}
        """(scale, input size, ``pixel_outputs``) -> 1e9 operations of one image's forward pass, for budgets in
        operations; found by a plan."""

    def trial_id(self, trial: Trial) -> str:
        """The trial's id (16 hexadecimal digits).

        A trial whose values are to be found by a search has a provisional id that stands for the search; nothing is
        ever trained or recorded under it.
        """
        index = (trial.cell, trial.seed, _variant(trial))
        known = self._ids.get(index)
        if known is None:
            known = self._ids[index] = trial_id(self._cell_key(trial), trial.seed)
        return known

    def search_id(self, trial: Trial) -> str | None:
        """Id of the search that gives a trial its values: a function of the cell, the space, budget and seeds alone."""
        templates = [self.trial_id(template) for template in trial.search]
        return digest("search:" + "|".join(templates)) if templates else None

    def cell_id(self, trial: Trial) -> str:
        """Id of the trial's cell: equal for all seeds, upstream seeds of a ``same`` source included."""
        return digest("cell:" + "|".join(trial.cell.coordinates.values()) + self._cell_key(trial, of_cell=True))

    def resolved(self, trial: Trial, attempt_id: str, workspace: Workspace) -> ResolvedTrial:
        """Everything a rank needs to train ``trial``."""
        cell, task = trial.cell, self.task(trial.cell.task)
        if trial.role is Role.SEARCH:  # nobody can select on a test set that is not scored
            task = task.model_copy(update={"evaluate": {}})
        return ResolvedTrial(
            trial_id=self.trial_id(trial),
            cell_id=self.cell_id(trial),
            attempt_id=attempt_id,
            study=self._study.name,
            role=trial.role,
            axes=cell.coordinates,
            seed=trial.seed,
            scale=self.scale(cell),
            source=self._source_of(trial),
            task=task,
            amount=cell.data_fraction,
            protocol=self.protocol_of(trial),
            workspace=workspace,
            search=self._search_facts(trial),
            leakage=None if trial.role is Role.SEARCH else self._leakage(trial),
        )

    def overlaps(self, trial: Trial) -> dict[str, SetOverlap]:
        """Evaluation set -> whether the trial's initial weights may have seen its images."""
        found = set_overlaps(self._study, self._cards, trial, self.apart)
        link = trial.upstream
        while link is not None:
            for name, overlap in found.items():
                upstream = link.cell.task
                if overlap.overlap is not Overlap.POSSIBLE and (trial.cell.task, name, upstream) in self.alike:
                    reason = f"task {upstream!r}, which it comes from, holds images of equal bytes"
                    found[name] = SetOverlap(Overlap.POSSIBLE, reason)
            link = link.upstream
        return found

    def _leakage(self, trial: Trial) -> LeakageFacts:
        near = self.near_copies.get(trial.cell.task, {})
        overlaps = self.overlaps(trial)
        return LeakageFacts(
            upstream_overlap={name: found.overlap for name, found in overlaps.items()},
            near_copies={name: near.get(name) for name in overlaps},
        )

    def protocol_of(self, trial: Trial) -> Protocol:
        """The trial's protocol: overrides applied, and the values of its search once they are known."""
        if trial.proposal is None:
            return self.protocol(trial.cell)
        key = (self._protocol_key(trial.cell), trial.proposal.text)
        if key not in self._tuned:
            self._tuned[key] = changed(
                self.protocol(trial.cell), trial.proposal.values, f"proposal {trial.proposal.number} of the search"
            )
        return self._tuned[key]

    def protocol(self, cell: Cell) -> Protocol:
        """The cell's protocol before any search: overrides applied, image sizes of a rule as numbers.

        Raises:
            UserError: See ``image_sizes.rule_sizes``.
        """
        key = self._protocol_key(cell)
        if key not in self._protocols:
            scale, manifest = self._study.scale(cell.model_scale), self._study.tasks[cell.task].manifest
            card = self._cards.tasks.get(manifest)
            self._protocols[key] = with_sizes(self.written_protocol(cell), scale, manifest, card)
        return self._protocols[key]

    def written_protocol(self, cell: Cell) -> Protocol:
        """The cell's protocol with its overrides, rules by their names."""
        return self._written_protocol(cell, self._matching(cell))

    def _written_protocol(self, cell: Cell, matching: tuple[bool, ...]) -> Protocol:
        if matching not in self._written:
            self._written[matching] = protocol_of(self._study, cell)
        return self._written[matching]

    def scale(self, cell: Cell) -> ResolvedScale:
        """The cell's scale with its input size and factory hash.

        Raises:
            UserError: See ``image_sizes.input_size`` and ``image_sizes.rule_sizes``.
        """
        return self.scale_under(cell.model_scale, self.protocol(cell), self.pixel_outputs(cell) if self.gflops else 0)

    def pixel_outputs(self, cell: Cell) -> int:
        """Outputs per pixel of a cell's models: the labels of masks; 0 where images have labels.

        Raises:
            UserError: See ``task``.
        """
        task = self.task(cell.task)
        return len(task.labels) if task.is_dense else 0

    def scale_under(self, name: str, protocol: Protocol, pixel_outputs: int = 0) -> ResolvedScale:
        """The scale of that name as a protocol uses it, whose image sizes are numbers.

        Args:
            name: Of the study.
            protocol: The recipe.
            pixel_outputs: Of the model, see ``pixel_outputs``; its operations depend on it.

        Raises:
            UserError: See ``image_sizes.input_size``.
        """
        spec, card = self._study.scale(name), self._cards.scales[name]
        size = input_size(name, spec, card, protocol)
        gflops = self.gflops.get((name, size, pixel_outputs))
        key = (name, size, gflops)
        if key not in self._scales:
            self._scales[key] = ResolvedScale(
                name=name,
                factory=str(spec.factory),
                arguments=spec.arguments,
                input_size=size,
                ladder=ladder(spec.ladder, str(spec.factory), spec.arguments),
                factory_sha256=card.factory_sha256,
                gflops=gflops,
            )
        return self._scales[key]

    def task(self, name: str) -> ResolvedTask:
        """The task with its manifest's hash, kind and labels.

        Raises:
            UserError: A label the manifest lacks, or a primary metric, a policy or a set that does not fit the kind.
        """
        if name not in self._tasks:
            spec = self._study.tasks[name]
            card = self._cards.tasks[spec.manifest]
            for label in spec.labels or ():
                if label not in card.labels:
                    raise UserError(unknown("label", label, card.labels, f"tasks.{name}.labels"))
            kind, labels = Kind(card.kind), spec.labels or card.labels
            if problem := task_misfit(spec, kind):
                raise UserError(
                    f"tasks.{name}.{problem}" if problem.startswith("evaluate") else f"tasks.{name}: {problem}"
                )
            if spec.primary not in _PRIMARY_BY_KIND[kind]:
                raise UserError(
                    unknown(f"primary metric of a {kind} task", spec.primary, _PRIMARY_BY_KIND[kind], f"tasks.{name}")
                )
            self._tasks[name] = ResolvedTask(
                name=name,
                manifest=spec.manifest,
                manifest_hash=card.manifest_hash,
                kind=card.kind,
                labels=labels,
                where=spec.where,
                held_out=tuple(s.where for s in spec.evaluate.values() if s.held_out),
                label_policy=settled_policy(spec.label_policy, spec.blank, labels, kind, f"tasks.{name}"),
                blank=spec.blank,
                validation=spec.validation,
                primary=spec.primary,
                evaluate=spec.evaluate,
                groups=self._study.statistics.groups,
                nsd_tolerance=spec.nsd_tolerance,
            )
        return self._tasks[name]

    def check_protocol(self, cell: Cell) -> None:
        """Refuse a protocol that cannot train the cell's task.

        Raises:
            UserError: A recipe or a field for labels with a task of masks, or the other way round.
        """
        task = self.task(cell.task)
        if problem := misfit(Kind(task.kind), self.protocol(cell)):
            raise UserError(
                f"task {task.name!r} ({task.kind}) cannot be trained with its protocol: {problem} "
                f"(overrides: [{{when: {{task: {task.name}}}, set: {{...}}}}] changes it for this task alone)"
            )

    def source(self, name: str, scale: str, upstream: str | None = None) -> ResolvedSource:
        """The initial weights that a source gives a scale.

        Args:
            name: The study's name of the source.
            scale: The study's name of the scale.
            upstream: Id of the trial that the weights come from, where they come from one.
        """
        return self._source(name, scale, upstream)

    def _cell_key(self, trial: Trial, of_cell: bool = False) -> str:
        upstream = None
        if trial.upstream is not None:
            upstream = self.cell_id(trial.upstream) if of_cell else self.trial_id(trial.upstream)
        index = (trial.cell, upstream, _variant(trial))
        if index not in self._keys:
            cell = trial.cell
            scale = self.scale(cell)
            source = (cell.pretraining_source, cell.model_scale, upstream)
            self._keys[index] = cell_key(
                scale=self._text(("scale", scale.name, scale.input_size), lambda: scale_identity(scale)),
                source=self._text(("source", source), lambda: source_identity(self._source(*source))),
                task=self._text(("task", cell.task), lambda: task_identity(self.task(cell.task))),
                subset=canonical(subset_identity(cell.data_fraction)),
                protocol=self._text(
                    ("protocol", self._protocol_key(cell), _variant(trial)), lambda: self._protocol_identity(trial)
                ),
            )
        return self._keys[index]

    def _protocol_identity(self, trial: Trial) -> dict[str, Any]:
        written = identity_fields(self.protocol_of(trial))
        if trial.is_open and self._study.tuning is not None:
            return {"base": written, "tuning": self._study.tuning.model_dump()}
        return written

    def _search_facts(self, trial: Trial) -> SearchFacts | None:
        search_id, proposal = self.search_id(trial), trial.proposal
        if search_id is None or proposal is None:
            return None
        tried = (replace(template, proposal=proposal) for template in trial.search)
        return SearchFacts(
            search_id=search_id,
            number=proposal.number,
            values=proposal.values,
            trial_ids=tuple(self.trial_id(t) for t in tried),
        )

    def _text(self, key: tuple[Any, ...], identity: Callable[[], dict[str, Any]]) -> str:
        if key not in self._texts:
            self._texts[key] = canonical(identity())
        return self._texts[key]

    def _protocol_key(self, cell: Cell) -> tuple[Any, ...]:
        """Which overrides match, and of a rule by images the cell's scale and task; equal keys are one protocol."""
        matching = self._matching(cell)
        ruled = self._written_protocol(cell, matching).image_size == "hyperrule"
        return (*matching, cell.model_scale, cell.task) if ruled else matching

    def _matching(self, cell: Cell) -> tuple[bool, ...]:
        """Which overrides match."""
        return tuple(matches(o.when, cell) for o in self._study.overrides)

    def _source_of(self, trial: Trial) -> ResolvedSource:
        upstream = self.trial_id(trial.upstream) if trial.upstream else None
        return self._source(trial.cell.pretraining_source, trial.cell.model_scale, upstream)

    def _source(self, name: str, scale: str, upstream: str | None) -> ResolvedSource:
        index = (name, scale, upstream)
        if index not in self._sources:
            weights, content, normalise = self._weights(name, scale, upstream)
            self._sources[index] = ResolvedSource(name=name, weights=weights, content=content, normalise=normalise)
        return self._sources[index]

    def _weights(self, name: str, scale: str, upstream: str | None) -> tuple[Any, str | None, Normalisation]:
        source = self._study.source(name)
        if isinstance(source, ByScaleSource):
            source = source.by_scale[scale]
        if isinstance(source, RandomSource | GaborSpec):
            return source, None, source.normalise
        if isinstance(source, CheckpointSource):
            return source, self._cards.files[source.file], source.normalise
        if isinstance(source, TimmSource):
            return self._timm(source, scale)
        if isinstance(source, TransformSource):
            weights, content, normalise = self._weights(source.of, scale, upstream)
            return _transformed(source, scale, weights), content, normalise
        assert isinstance(source, TrialSource)
        return UpstreamSource(upstream_trial_id=str(upstream)), upstream, self._upstream_normalisation(source, scale)

    def _timm(self, source: TimmSource, scale: str) -> tuple[TimmSource, str, Normalisation]:
        card = self._cards.scales[scale]
        if card.revision is None or source.timm not in card.revision:
            known = sorted(card.revision or ())
            raise UserError(
                f"scale {scale!r} has no pretrained weights {source.timm!r} in timm; known: {known or 'none'}"
            )
        normalise = source.normalise
        if normalise is None:
            mean, std = (card.normalise or {})[source.timm]
            normalise = Normalisation.model_validate({"mean": mean, "std": std})
        return source, card.revision[source.timm], normalise

    def _upstream_normalisation(self, source: TrialSource, scale: str) -> Normalisation:
        if source.normalise is not None:
            return source.normalise
        scale = scale if source.trial.model_scale == "same" else source.trial.model_scale
        return self._weights(source.trial.pretraining_source, scale, None)[2]


def _transformed(source: TransformSource, scale: str, of: Any) -> ResolvedWeights:
    if isinstance(source, MeanVarSpec):
        return MeanVarSource(transform=source.transform, norm=source.norm, draw=source.draw, of=of)
    assert isinstance(source, PartialSpec)
    return PartialSource(transform=source.transform, up_to=str(source.cut(scale)), of=of)


def _variant(trial: Trial) -> str:
    """What sets the protocol of a trial apart from others of its cell: nothing, an open search, or its values."""
    if trial.proposal is not None:
        return trial.proposal.text
    return "open" if trial.is_open else ""


def resolve_ids(study: Study, trials: Iterable[Trial], cards: Cards) -> dict[str, Trial]:
    """Trial id -> trial, in the order given; trials that are one science under two names appear once."""
    resolver = Resolver(study, cards)
    ids: dict[str, Trial] = {}
    for trial in trials:
        ids.setdefault(resolver.trial_id(trial), trial)
    return ids
