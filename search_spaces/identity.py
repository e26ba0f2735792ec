"""Trial identity: what must be equal for two trials to be the same, hashed.

The identity is an allow-list of inputs (docs/formats.md). Names, paths, evaluation sets, metrics, statistics,
execution, device, ranks and library versions are not in it; derived values (steps, parameter counts) follow from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.amounts import Amount, Seed
from search_spaces.names import SCHEMA_VERSION, SCIENCE_VERSION
from search_spaces.source_specs import CheckpointSource, GaborSpec, RandomSource, TimmSource
from search_spaces.trial import (
    MeanVarSource,
    PartialSource,
    ResolvedScale,
    ResolvedSource,
    ResolvedTask,
    ResolvedWeights,
    UpstreamSource,
)

SUBSET_RULE = "patient-prefix-1"
"""Name of the rule that draws subsets (trainables.subsets); changes when the rule does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleCard:
    """Facts about a scale that only ``trainables`` can know.

    Attributes:
        input_size: Native side in pixels; None if the model states none.
        factory_sha256: Hash of the file that holds a user's factory; None for timm and torchvision.
        normalise: Mean and standard deviation of timm's pretrained configuration; None if it has none.
        revision: What timm's pretrained weights of a tag are, tag -> ``name@revision`` (of local files their hash).
    """

    input_size: int | None
    factory_sha256: str | None = None
    normalise: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] | None = None
    revision: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCard:
    """Facts about a manifest.

    Attributes:
        manifest_hash: Content hash, image bytes included.
        kind: binary, multiclass, multilabel, ordinal or segmentation.
        labels: All its labels (classes) in order.
        importer: What made it; ``map NAME`` for the data set of that name.
        archives: Names, without suffix, of the npz files that hold its images, which tell the data set.
        image_area: Median of width times height of its images, in pixels; None if the manifest records no sizes.
    """

    manifest_hash: str
    kind: str
    labels: tuple[str, ...]
    importer: str = ""
    archives: tuple[str, ...] = ()
    image_area: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """The facts that identity needs.

    Attributes:
        scales: Scale name -> card.
        files: Checkpoint path as written in the study -> sha256.
        tasks: Manifest name -> card.
    """

    scales: Mapping[str, ScaleCard]
    files: Mapping[str, str]
    tasks: Mapping[str, TaskCard]


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, whole floats written as integers; equal values give equal text.

    Raises:
        ValueError: A non-finite number.
        TypeError: A type that JSON does not know.
    """
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _normal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _normal(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def digest(text: str) -> str:
    """First 16 hexadecimal digits of the sha256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell_key(*, scale: str, source: str, task: str, subset: str, protocol: str) -> str:
    """Canonical JSON of everything that defines a cell's science.

    Args:
        scale: ``canonical(scale_identity(...))``, and so on for the others; a study has few different ones and many
            cells, so each part is made canonical once.
        source: Likewise.
        task: Likewise.
        subset: Likewise.
        protocol: ``canonical(identity_fields(protocol))``.
    """
    return (
        f'{{"protocol":{protocol},"scale":{scale},"schema":{SCHEMA_VERSION},"science":{SCIENCE_VERSION},'
        f'"source":{source},"subset":{subset},"task":{task}}}'
    )


def trial_id(cell_key: str, seed: Seed) -> str:
    """The id of one trial: cell and both seeds."""
    return digest(f'{{"cell":{cell_key},"seeds":{{"init":{seed.init},"subset":{seed.subset}}}}}')


def scale_identity(scale: ResolvedScale) -> dict[str, Any]:
    """Factory, arguments, input size and the hash of a user's factory; not the scale's name or ladder."""
    return {
        "factory": scale.factory,
        "arguments": scale.arguments,
        "input_size": scale.input_size,
        "factory_sha256": scale.factory_sha256,
    }


def source_identity(source: ResolvedSource) -> dict[str, Any]:
    """Content hash and loader options; not the source's name, its catalogue entry, nor where the file lies."""
    return {"content": source.content, "normalise": source.normalise.model_dump(), **_loader(source.weights)}


def draws_weights(source: ResolvedSource) -> bool:
    """Whether numbers below the head are drawn from the init seed; a file, timm or a trial fills all of them."""
    return not isinstance(source.weights, CheckpointSource | TimmSource | UpstreamSource)


def _loader(weights: ResolvedWeights) -> dict[str, Any]:
    if isinstance(weights, RandomSource):
        return {"init": "random"}
    if isinstance(weights, MeanVarSource):
        drawn = {} if weights.draw == "gaussian" else {"draw": weights.draw}
        return {"transform": weights.transform, "norm": weights.norm, **drawn, "of": _loader(weights.of)}
    if isinstance(weights, PartialSource):
        return {"transform": weights.transform, "up_to": weights.up_to, "of": _loader(weights.of)}
    if isinstance(weights, GaborSpec):
        return weights.model_dump(mode="json", exclude={"normalise"})
    if isinstance(weights, CheckpointSource):
        return _file_loader(weights)
    if isinstance(weights, TimmSource):
        return {"timm": weights.timm}
    return {"upstream": weights.upstream_trial_id}


def _file_loader(weights: CheckpointSource) -> dict[str, Any]:
    """How a file is read. What was added later is left out where it says nothing, so that older ids stay."""
    prefixes = [weights.strip_prefix] if isinstance(weights.strip_prefix, str) else list(weights.strip_prefix)
    loader: dict[str, Any] = {"state_key": weights.state_key, "strip_prefix": prefixes, "drop": sorted(weights.drop)}
    if weights.keep is not None:
        loader["keep"] = weights.keep
    if weights.rename:
        loader["rename"] = [rule.model_dump() for rule in weights.rename]
    return loader


def task_identity(task: ResolvedTask) -> dict[str, Any]:
    """Manifest content, rows, held-out rows, labels, label policy and the metric that selects.

    ``blank`` and ``validation`` stand in it where they are not the default.
    """
    held_out = sorted(canonical(_rows(where)) for where in task.held_out)
    return {
        "manifest_hash": task.manifest_hash,
        "where": _rows(task.where),
        "held_out": held_out,
        "labels": list(task.labels),
        "label_policy": task.label_policy,
        "primary": task.primary,
        **({"blank": task.blank} if task.blank != "mask" else {}),
        **({"validation": task.validation} if task.validation != "fixed" else {}),
    }


def _rows(where: Mapping[str, Any]) -> dict[str, list[str]]:
    """One value and a list of one value are the same condition; order does not matter."""
    return {k: sorted(str(v) for v in (vs if isinstance(vs, list | tuple) else [vs])) for k, vs in where.items()}


def subset_identity(amount: Amount) -> dict[str, Any]:
    """Rule and amount."""
    return {"rule": SUBSET_RULE, "kind": amount.kind, "value": amount.value}
