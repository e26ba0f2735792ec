"""What a user writes: one study file (docs/formats.md has a full example). Nothing here touches files or images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.amounts import Amount, expand_seeds
from search_spaces.exceptions import unknown
from search_spaces.label_maps import label_map_of
from search_spaces.label_policy import BlankPolicy, LabelPolicy
from search_spaces.models import StrictModel
from search_spaces.names import AXES, NO_AGGREGATION, Unit
from search_spaces.normalisation import NORMALISATIONS as NORMALISATIONS
from search_spaces.normalisation import Normalisation as Normalisation
from search_spaces.protocol import Protocol
from search_spaces.representations import RepresentationsSpec
from search_spaces.source_specs import ByScaleSource as ByScaleSource
from search_spaces.source_specs import CheckpointSource as CheckpointSource
from search_spaces.source_specs import GaborSpec, RandomSource, Source, TransformSource, TrialSource, source_form
from search_spaces.source_specs import TimmSource as TimmSource
from search_spaces.tuning import Tuning

Where = dict[str, Any]
"""Column name -> value or list of values. Equality only; nothing is evaluated."""


class ScaleSpec(StrictModel):
    """One rung of the model_scale axis.

    Attributes:
        factory: timm name (also ``timm:NAME``), ``torchvision:NAME``, or ``pkg.mod:function`` called with
            ``num_classes`` and ``arguments``. The key of the scale itself if not given.
        arguments: Further keyword arguments of the factory.
        input_size: Side in pixels of the square input; the model's native size if not given.
        ladder: Scales of one ladder may be joined by a line. If not given, that of ``search_spaces/ladders.yaml`` which
            holds the factory (families are never joined there), if one does and there are no arguments; ``none`` lets
            the scale stand alone.
    """

    factory: str | None = None
    arguments: dict[str, Any] = {}
    input_size: int | None = Field(default=None, ge=8)
    ladder: str | None = None


class EvaluationSetSpec(StrictModel):
    """Images that a trained trial is scored on.

    Attributes:
        manifest: Manifest of another (or the same) data set; then all its splits are used unless ``split`` says less.
            The task's own manifest if not given.
        where: Keeps only rows with these values.
        held_out: The rows (and every image of their patients) are taken out of training, validation and test, and all
            of them form this set. What is trained on is part of the identity: a set that is added like this later
            trains the trials of its task anew.
        label_map: This task's label -> the other manifest's label; labels not named are masked. Equal names if not
            given. Or the name of a shipped map, such as ``chexpert_to_chestxray14``: of it counts what both sides have.
        aggregate: What is scored: each ``image``, or all images of a ``study`` (examination) or ``patient`` as one.
            One is positive for a label if one of its images is; an ordinal one has its highest class.
        aggregate_by: Its probability: the ``mean`` over its images, or the largest (``max``).
        split: Splits to use; ``test`` if neither ``manifest`` nor ``held_out`` is given, else all.
    """

    manifest: str | None = None
    where: Where = {}
    held_out: bool = False
    label_map: str | dict[str, str] | None = None
    split: tuple[str, ...] | None = None
    aggregate: Unit = Unit.IMAGE
    aggregate_by: Literal["mean", "max"] = "mean"

    @property
    def aggregation(self) -> str:
        """Short text for predictions: ``none``, ``patient:mean``."""
        return NO_AGGREGATION if self.aggregate is Unit.IMAGE else f"{self.aggregate}:{self.aggregate_by}"

    @field_validator("label_map")
    @classmethod
    def _known_map(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, str):
            label_map_of(value)
        return value


class TaskSpec(StrictModel):
    """A manifest with what to learn from it.

    Attributes:
        manifest: Name of an imported manifest (``python -m orchestrator.tasks list``).
        primary: Metric that selects on validation and leads the report.
        data_sets: Other names of the data set, or of those that it is drawn from, to be compared with the ``contents``
            of sources; the manifest's and its importer's name are compared anyway.
        labels: The labels (classes) to learn, in this order; all of the manifest if not given.
        where: Keeps only rows with these values, in every split.
        label_policy: What an uncertain label is in training: masked (``ignore``), 1 (``ones``), 0 (``zeros``), or at
            each access a fresh draw from [0.55, 0.85] (``lsr_ones``) or [0, 0.3] (``lsr_zeros``). One for all labels,
            or label -> policy. Evaluation always masks.
        blank: What a blank label is in training: masked, or 0 (``zero``). Evaluation always masks. A data set that
            writes findings only where they are present is better imported with ``--blank-labels negative``
            (a table's ``--label-columns``) or the variant ``blank_negative``.
        validation: ``fixed``: all validation images at every amount. ``scaled``: the same share of them as of the
            training images, drawn by the same rule, so that few labels are few labels in all.
        evaluate: Evaluation sets by name; ``test`` is always among them.
        nsd_tolerance: Of segmentation tasks: distance in pixels of the original image up to which two outlines count as
            the same in the normalised surface Dice; without it that is not computed.
    """

    manifest: str
    primary: Literal["auc", "auc_macro", "accuracy", "balanced_accuracy", "nll", "kappa", "dice", "iou"]
    data_sets: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    where: Where = {}
    label_policy: LabelPolicy = "ignore"
    blank: BlankPolicy = "mask"
    validation: Literal["fixed", "scaled"] = "fixed"
    evaluate: dict[str, EvaluationSetSpec] = Field(default={}, validate_default=True)
    nsd_tolerance: float | None = Field(default=None, gt=0)

    @field_validator("evaluate")
    @classmethod
    def _test_and_names(cls, sets: dict[str, EvaluationSetSpec]) -> dict[str, EvaluationSetSpec]:
        for name in sets:
            if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name in ("train", "val", "time", "sys", "data"):
                raise ValueError(
                    f"evaluation set name {name!r}: letters, digits and _ only; train, val, time, sys, data are taken"
                )
        return {"test": EvaluationSetSpec(), **sets}


class StatisticsSpec(StrictModel):
    """How results are compared.

    Attributes:
        baseline: Source that every other is compared with.
        primary_fractions: Amounts at which the study's primary family of contrasts is tested; the smallest and the
            largest of each task if not given.
        delta: Differences below this are of no practical meaning (unit of the primary metric).
        family: Holm's correction runs over the whole study.
        groups: Manifest columns for subgroup results (``sex``, ``age_band``, ``site`` or a group column).
        alpha: Two-sided error level.
        primary_sets: Evaluation sets whose contrasts belong to the primary family; those on other sets are exploratory.
        price_per_label: Money that one labelled image costs, for the price of labels saved; in any currency.
    """

    baseline: str = "random"
    primary_fractions: tuple[Amount, ...] | None = None
    primary_sets: tuple[str, ...] = Field(default=("test",), min_length=1)
    price_per_label: float | None = Field(default=None, gt=0)
    delta: float = Field(default=0.01, ge=0)
    family: Literal["study"] = "study"
    groups: tuple[str, ...] = ()
    alpha: float = Field(default=0.05, gt=0, lt=1)


class GangSpec(StrictModel):
    """Shape of the group of ranks that trains one trial.

    Attributes:
        ranks: Processes that share a trial. One rank trains inside a reused Tune worker; more form a warm gang.
        cpus_per_rank: CPUs (and torch threads) of a rank.
        gpus_per_rank: GPUs of a rank; fractions only with one rank. If not given: 1 where the cluster has GPUs, else 0.
        accelerator: Ray's name of the type that the GPUs must be, such as ``A100`` or ``H100``; any if not given.
        backend: Collectives of two and more ranks: ``nccl``, ``gloo``, or ``auto``: nccl on GPUs, else gloo.
    """

    ranks: int = Field(default=1, ge=1)
    cpus_per_rank: int = Field(default=1, ge=1)
    gpus_per_rank: float | None = Field(default=None, ge=0)
    accelerator: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    backend: Literal["auto", "nccl", "gloo"] = "auto"

    @model_validator(mode="after")
    def _whole_gpus(self) -> GangSpec:
        gpus = self.gpus_per_rank
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"more than one GPU per rank are whole GPUs, got {gpus}")
        if gpus == 0 and self.accelerator:
            raise ValueError(f"accelerator: {self.accelerator} without GPUs; leave out one of the two")
        if gpus == 0 and self.backend == "nccl":
            raise ValueError("backend: nccl needs GPUs; use gloo (or auto) on CPUs")
        if self.ranks > 1 and gpus is not None and gpus != int(gpus):
            raise ValueError(f"gangs of two and more ranks need whole GPUs (two ranks may share none), got {gpus}")
        return self


class GangRule(StrictModel):
    """Another gang for the cells that match.

    Attributes:
        when: Axis -> value or list of values; all must match.
        gang: Their ranks per trial.
    """

    when: dict[str, Any] = Field(min_length=1)
    gang: GangSpec


class PriorityRule(StrictModel):
    """Another priority for the cells that match.

    Attributes:
        when: Axis -> value or list of values; all must match.
        priority: Trials of a higher one start first; 0 if no rule says otherwise.
    """

    when: dict[str, Any] = Field(min_length=1)
    priority: int


class ExecutionSpec(StrictModel):
    """Where and how trials run. Never part of a trial's identity.

    Attributes:
        gang: Ranks per trial.
        gangs: Other gangs for some cells; of several rules that match the last one counts. A later one for all the
            cells of an earlier one that says something else is refused, here as in priorities and overrides.
        priorities: What should start first; of several rules that match the last one counts.
        keep_weights: Which weights stay in the storage: of the best validation, of the last step, or none (upstream
            trials always keep theirs).
        checkpoint_every_s: Least seconds between two checkpoints of a running trial, written at evaluations.
        max_concurrent: Most trials at a time; None is as many as fit the cluster.
        report_deadline_s: Longest silence of a trial (one evaluation interval, or scoring at the end); then its ranks,
            or its one process, are taken for stuck and it is tried again.
        device_cache_gib: Image sets up to this size are kept on the GPU of a rank, if they take at most a quarter of
            its free memory; others are read from the image store batch by batch. 0 keeps none.
    """

    gang: GangSpec = GangSpec()
    gangs: list[GangRule] = []
    priorities: list[PriorityRule] = []
    keep_weights: Literal["best", "final", "none"] = "best"
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    report_deadline_s: float = Field(default=1800.0, gt=0)
    device_cache_gib: float = Field(default=4.0, ge=0)


class Override(StrictModel):
    """Changes the protocol of the cells that match.

    Attributes:
        when: Axis -> value or list of values; all must match.
        set: Protocol fields (nested ones as mappings, replaced whole).
    """

    when: dict[str, Any]
    set: dict[str, Any]


class Study(StrictModel):
    """A whole study. See the attributes' classes; ``axes`` and ``exclude`` are explained in search_spaces.expand."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    axes: dict[str, Any] | list[dict[str, Any]]
    seeds: Any = 5
    controls: Literal["random", "none"] = "random"
    """``random``: every scale, amount and task that has a cell also gets one of random weights, without which no gain
    can be told; ``none``: only what the axes name."""
    exclude: list[dict[str, Any]] = []
    overrides: list[Override] = []
    scales: dict[str, ScaleSpec] = {}
    sources: dict[str, Source] = {}
    tasks: dict[str, TaskSpec]
    protocol: Protocol = Protocol()
    tuning: Tuning | None = None
    statistics: StatisticsSpec = StatisticsSpec()
    execution: ExecutionSpec = ExecutionSpec()
    representations: RepresentationsSpec | None = None
    """What trials keep for comparing networks layer by layer; nothing if not given. Never part of an identity."""

    @field_validator("sources", mode="before")
    @classmethod
    def _sources_by_form(cls, raw: Any) -> Any:
        return {k: source_form(v) for k, v in raw.items()} if isinstance(raw, dict) else raw

    @field_validator("seeds")
    @classmethod
    def _seeds_are_known(cls, raw: Any) -> Any:
        expand_seeds(raw)
        return raw

    @model_validator(mode="after")
    def _names_resolve(self) -> Study:
        known = {*self.sources, "random"}
        for name, source in self.sources.items():
            self._check_source(name, source, known)
        rules: dict[str, Sequence[Override | GangRule | PriorityRule]] = {
            "overrides": self.overrides,
            "execution.gangs": self.execution.gangs,
            "execution.priorities": self.execution.priorities,
        }
        for where, several in rules.items():
            for axis in (axis for rule in several for axis in rule.when):
                if axis not in AXES:
                    raise ValueError(unknown("axis", axis, AXES, f"{where}.when"))
        for override in self.overrides:
            for field in override.set:
                if field not in Protocol.model_fields:
                    raise ValueError(unknown("protocol field", field, Protocol.model_fields, "overrides.set"))
        if self.tuning is not None:
            self.tuning.check_seeds(expand_seeds(self.seeds))
            self.tuning.check_values(self.protocol, "protocol")
        self._check_representations()
        sets = dict.fromkeys(name for task in self.tasks.values() for name in task.evaluate)
        for name in self.statistics.primary_sets:
            if name not in sets:
                raise ValueError(unknown("evaluation set", name, sets, "statistics.primary_sets"))
        if self.statistics.baseline not in known:
            raise ValueError(unknown("source", self.statistics.baseline, known, "statistics.baseline"))
        return self

    def _check_source(self, name: str, source: Source, known: set[str]) -> None:
        if isinstance(source, TransformSource):
            if source.of not in known:
                raise ValueError(unknown("source", source.of, known, f"sources.{name}.of"))
            of = self.source(source.of)
            if isinstance(of, RandomSource | TransformSource | GaborSpec):
                what = "random weights" if isinstance(of, RandomSource) else "a transform"
                raise ValueError(f"sources.{name}: {_transform(source)} of {what}; give a trained source")
        if isinstance(source, TrialSource):
            if source.trial.task not in self.tasks:
                raise ValueError(unknown("task", source.trial.task, self.tasks, f"sources.{name}.trial.task"))
            upstream = source.trial.pretraining_source
            if upstream not in known:
                raise ValueError(unknown("source", upstream, known, f"sources.{name}.trial.pretraining_source"))

    def _check_representations(self) -> None:
        asked = self.representations
        if asked is None:
            return
        labels = [seed.label for seed in expand_seeds(self.seeds)]
        for label in asked.seed_labels or ():
            if label not in labels:
                raise ValueError(unknown("seed", label, labels, "representations.seeds"))
        sets = {"val", *(name for task in self.tasks.values() for name in task.evaluate)}
        for name in asked.probe.sets:
            if name not in sets:
                raise ValueError(unknown("set", name, sets, "representations.probe.sets"))

    def source(self, name: str) -> Source:
        """The source of that name; ``random`` needs no entry.

        Raises:
            KeyError: No such source.
        """
        return RandomSource() if name == "random" and name not in self.sources else self.sources[name]

    def scale(self, name: str) -> ScaleSpec:
        """The scale of that name, with its factory filled in; a name without an entry is its own factory."""
        scale = self.scales.get(name, ScaleSpec())
        return scale if scale.factory else scale.model_copy(update={"factory": name})


def _transform(source: TransformSource) -> str:
    return str(getattr(source, "transform", "a transform"))
