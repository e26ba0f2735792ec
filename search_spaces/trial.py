"""A trial, resolved: everything a rank needs to train it, as plain data that travels to any process.

``ResolvedTrial`` is built by ``search_spaces.resolve`` from the study and the cards, crosses process borders as
``model_dump(mode="json")``, and is the only thing a rank is told.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from search_spaces.amounts import Amount, Seed
from search_spaces.contents import Overlap
from search_spaces.label_policy import BlankPolicy, LabelPolicy
from search_spaces.models import StrictModel, as_kept
from search_spaces.names import Kind, Role
from search_spaces.normalisation import Normalisation
from search_spaces.protocol import Protocol
from search_spaces.representations import KeptRepresentations
from search_spaces.source_specs import CheckpointSource, GaborSpec, RandomSource, TimmSource
from search_spaces.study import EvaluationSetSpec, Where


class ResolvedScale(StrictModel):
    """A model to build.

    Attributes:
        name: The study's name of the scale.
        factory: See ScaleSpec.
        arguments: Further keyword arguments of the factory.
        input_size: Side in pixels.
        ladder: Ladder of the scale, if any.
        factory_sha256: Hash of the file of a user's factory; None for timm and torchvision.
        gflops: 1e9 operations of one image's forward pass, where the protocol's budget is in operations. Derived, no
            part of the identity.
    """

    name: str
    factory: str
    arguments: dict[str, Any] = {}
    input_size: int
    ladder: str | None = None
    factory_sha256: str | None = None
    gflops: float | None = None


class UpstreamSource(StrictModel):
    """Weights of another trial, found in the storage by its id."""

    upstream_trial_id: str


class UpstreamNet(StrictModel):
    """The network of a trial whose weights another one starts from.

    Attributes:
        scale: Its scale.
        num_outputs: Its outputs.
        dense: Whether it predicts each pixel.
    """

    scale: ResolvedScale
    num_outputs: int
    dense: bool

    def is_net_of(self, scale: ResolvedScale, dense: bool) -> bool:
        """Whether a network has the same tensors, the head apart.

        Args:
            scale: Of the network.
            dense: Whether it predicts each pixel.
        """
        alike = ("factory", "arguments", "input_size")
        return dense == self.dense and all(getattr(scale, name) == getattr(self.scale, name) for name in alike)


TrainedWeights = CheckpointSource | TimmSource | UpstreamSource


class MeanVarSource(StrictModel):
    """Weights drawn anew, tensor by tensor, from those of another source; see ``MeanVarSpec``."""

    transform: Literal["mean_var"]
    norm: Literal["reset", "resample", "keep"]
    draw: Literal["gaussian", "permutation", "resampling"] = "gaussian"
    of: TrainedWeights


class PartialSource(StrictModel):
    """Weights of another source up to a cut, random ones above; see ``PartialSpec``."""

    transform: Literal["partial", "slim"]
    up_to: str
    of: TrainedWeights


ResolvedWeights = (
    RandomSource | CheckpointSource | TimmSource | UpstreamSource | MeanVarSource | PartialSource | GaborSpec
)


class ResolvedSource(StrictModel):
    """Initial weights.

    Attributes:
        name: The study's name of the source.
        weights: Where they come from.
        content: sha256 of the file, ``name@revision``, or the upstream trial's id; None for random weights.
        normalise: Input scaling that travels with the weights.
    """

    name: str
    weights: ResolvedWeights
    content: str | None = None
    normalise: Normalisation


class ResolvedTask(StrictModel):
    """What to learn and what to score.

    Attributes:
        name: The study's name of the task.
        manifest: Name of the manifest.
        manifest_hash: Content hash of the manifest, image bytes included.
        kind: binary, multiclass, multilabel, ordinal or segmentation.
        labels: Labels (classes) to learn, in the order of the model's outputs.
        where: Rows kept.
        held_out: ``where`` of every held-out evaluation set; their patients are never trained on.
        label_policy: What an uncertain label is in training; every label named, or one policy for all.
        blank: What a blank label is in training.
        validation: Whether validation is all of it or shrinks with the amount.
        primary: Metric that selects on validation.
        evaluate: Evaluation sets; not part of the identity.
        groups: Manifest columns that predictions carry for subgroup results; not part of the identity.
        nsd_tolerance: See ``TaskSpec``; not part of the identity.
    """

    name: str
    manifest: str
    manifest_hash: str
    kind: str
    labels: tuple[str, ...]
    where: Where = {}
    held_out: tuple[Where, ...] = ()
    label_policy: LabelPolicy = "ignore"
    blank: BlankPolicy = "mask"
    validation: Literal["fixed", "scaled"] = "fixed"
    primary: str
    evaluate: dict[str, EvaluationSetSpec] = {}
    groups: tuple[str, ...] = ()
    nsd_tolerance: float | None = None

    @property
    def is_dense(self) -> bool:
        """Whether each pixel is predicted, not the image."""
        return self.kind == Kind.SEGMENTATION


class Workspace(StrictModel):
    """Where a rank finds manifests and leaves results. Never part of the identity.

    Attributes:
        home: Folder of imported tasks and image stores (``SCALECURVES_HOME``).
        storage: URI (any pyarrow file system) or path of the record's files.
        import_paths: Folders put on ``sys.path`` so that a user's factory imports.
        keep_weights: best, final or none.
        checkpoint_every_s: Least seconds between two checkpoints.
        save_memory: Compute activations twice instead of keeping them, because memory ran out before.
        device_cache_gib: Image sets up to this size are kept on the GPU.
        representations: What is kept for comparing networks; None for nothing.
    """

    home: str
    storage: str
    import_paths: tuple[str, ...] = ()
    keep_weights: Literal["best", "final", "none"] = "best"
    checkpoint_every_s: float = 30.0
    save_memory: bool = False
    device_cache_gib: float = 4.0
    representations: KeptRepresentations | None = None


class SearchFacts(StrictModel):
    """Where the values of a tuned protocol come from. Never part of the identity: the values themselves are.

    Attributes:
        search_id: Equal for all trials of one search and for the final trials that use it.
        number: Of the proposal.
        values: Protocol field -> value, as proposed.
        trial_ids: The search trials of this proposal, one per search seed.
    """

    search_id: str
    number: int
    values: dict[str, Any]
    trial_ids: tuple[str, ...]


class LeakageFacts(StrictModel):
    """What is known of images on both sides of an evaluation. Never part of the identity.

    Attributes:
        upstream_overlap: Evaluation set -> whether the initial weights were trained on its images: ``no``, ``possible``
            (the same data set, or one drawn from it, by the names that sources declare); ``yes`` is refused by a plan.
            None where a source declares nothing.
        near_copies: Evaluation set -> images that are copies or near copies of training or validation images. None
            where nobody looked (``tasks check`` does).
    """

    upstream_overlap: dict[str, Overlap | None] = {}
    near_copies: dict[str, int | None] = {}


class ResolvedTrial(StrictModel):
    """One trial, ready to train.

    Attributes:
        trial_id: 16 hexadecimal digits (search_spaces.identity).
        cell_id: The same without the seed.
        attempt_id: One try at this trial; new for each start.
        study: Name of the study.
        role: target, upstream or search.
        axes: Axis -> value as text, for tags.
        search: Where the tuned values of the protocol come from; None if it was not tuned.
        leakage: What the plan found on both sides; None for search trials, which are not scored.
    """

    trial_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    cell_id: str
    attempt_id: str
    study: str
    role: Role
    axes: dict[str, str]
    seed: Seed
    scale: ResolvedScale
    source: ResolvedSource
    task: ResolvedTask
    amount: Amount
    protocol: Protocol
    workspace: Workspace
    search: SearchFacts | None = None
    leakage: LeakageFacts | None = None

    @field_validator("protocol", mode="before")
    @classmethod
    def _of_earlier_versions(cls, raw: Any) -> Any:
        return as_kept(Protocol, raw)
