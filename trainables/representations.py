"""What a trial keeps for comparing networks: activations at two moments, first filters, distances of weights.

Files in a trial's folder ``representations`` (docs/representations.md): ``initial.safetensors`` and
``final.safetensors`` hold ``activations/<layer>`` in float16, ``filters`` in float32 and ``images``, the keyed ids of
the probe; ``weights.parquet`` holds a row per parameter. Rank 0 alone makes and writes them; nothing of a trial's
result depends on them.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.names import WEIGHT_TABLE, Moment
from search_spaces.representations import KeptRepresentations
from search_spaces.trial import ResolvedTrial
from trainables.activations import activations, layer_names
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.evaluation import evaluation_batch_size
from trainables.gabor import first_convolution
from trainables.groups import Group
from trainables.mean_var import norm_tensors
from trainables.models import BuiltModel
from trainables.module_setup import is_channels_last, prepare
from trainables.parts import parts_of
from trainables.probe import Probe, draw_probe
from trainables.sources import tensors_sha256
from trainables.storage import Storage
from trainables.task_data import TaskData

FORMAT = 1
LARGEST_EXPONENT = 15
"""float16 holds numbers below 2^16."""

_log = logging.getLogger(__name__)

Parameters = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialState:
    """A network before its first step.

    Attributes:
        file: ``initial.safetensors``.
        parameters: Copies of its parameters on the CPU; None if those that training started from cannot be had.
    """

    file: bytes
    parameters: Parameters | None


class Representations:
    """Keeps those of one trial, on rank 0.

    Args:
        trial: The trial.
        kept: What it keeps.
        data: Its images.
        storage: Where what was kept before the first step waits for the end.
        group: This rank's place.
    """

    def __init__(
        self, trial: ResolvedTrial, kept: KeptRepresentations, data: TaskData, storage: Storage, group: Group
    ) -> None:
        self._trial, self._kept, self._storage, self._group = trial, kept, storage, group
        self._data = data
        self._drawn: Probe | None = None
        self._fresh: InitialState | None = None
        self._earlier: bytes | None = None
        self._files: dict[str, bytes] = {}

    @classmethod
    def of(cls, trial: ResolvedTrial, data: TaskData, storage: Storage, group: Group) -> Representations | None:
        """Those of a trial; None if it keeps none, or on another rank than 0."""
        kept = trial.workspace.representations
        return None if kept is None or group.rank else cls(trial, kept, data, storage, group)

    def before_training(self, built: BuiltModel) -> None:
        """Keep the initialisation, before any step and before any checkpoint is read.

        A trial that goes on from a checkpoint keeps what its first attempt has written. A storage that is away costs no
        training: what is remembered here is written at the end.
        """
        self.remember(built)
        assert self._fresh is not None
        trial_id = self._trial.trial_id
        try:
            self._earlier = self._storage.get_initial(trial_id) if self._storage.has_checkpoint(trial_id) else None
            if self._earlier is None:
                self._storage.put_initial(trial_id, self._fresh.file)
        except (OSError, pa.ArrowException) as error:
            _log.warning("representations of trial %s could not be written yet: %s", trial_id, error)

    def remember(self, built: BuiltModel) -> None:
        """Take the initialisation, which ``built`` holds."""
        prepare(built.module, self._trial.scale.input_size, self._group.device)
        file = self._file(built, Moment.INITIAL, 0)
        self._fresh = InitialState(file=file, parameters=_copies(built.module) if self._kept.weight_distance else None)

    def after_training(self, built: BuiltModel, *, step: int, resumed_from: int = 0) -> None:
        """Take the end.

        Args:
            built: Holds the weights that are evaluated, on the group's device.
            step: Of those weights.
            resumed_from: Step that this attempt started at; 0 if from the start.
        """
        assert self._fresh is not None, "the initialisation was not taken"
        start = self._fresh
        if resumed_from and self._earlier is not None:
            start = _continued(start, self._earlier)
        self._files = {Moment.INITIAL.file_name: start.file}
        if start.parameters is not None:
            buffer = io.BytesIO()
            pq.write_table(weight_table(start.parameters, built.module, built.head), buffer)
            self._files[WEIGHT_TABLE] = buffer.getvalue()
        self._files[Moment.FINAL.file_name] = self._file(built, Moment.FINAL, step)

    def write(self, folder: Path) -> None:
        """Write what was taken to files of this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._files.items():
            (folder / name).write_bytes(data)

    def forget_initial(self) -> None:
        """Remove what waited for the end of the trial."""
        self._storage.delete_initial(self._trial.trial_id)

    @property
    def _probe(self) -> Probe:
        if self._drawn is None:
            self._drawn = draw_probe(self._kept.probe, self._data, self._trial.task)
        return self._drawn

    def _file(self, built: BuiltModel, moment: Moment, step: int) -> bytes:
        where = f"representations of scale {self._trial.scale.name!r}"
        layers = layer_names(built.module, built.head, self._kept.layers, where)
        seed = self._kept.probe.seed
        found = activations(
            built.module, layers, self._inputs(built.module), positions=self._kept.positions, seed=seed, where=where
        )
        tensors: dict[str, NDArray[Any]] = {"images": self._probe.packed_ids}
        exponents: dict[str, int] = {}
        for name, values in found.items():
            tensors[f"activations/{name}"], exponents[name] = as_half(values)
        first = first_convolution(built.module) if self._kept.filters else None
        if first is not None:
            tensors["filters"] = first[1].weight.detach().float().cpu().contiguous().numpy()
        metadata = {
            "format": FORMAT,
            "trial_id": self._trial.trial_id,
            "moment": moment,
            "step": step,
            "layers": list(found),
            "exponents": exponents,
            "filters": first[0] if first else None,
            "probe": self._kept.probe.model_dump(mode="json"),
            "probe_hash": self._probe.hash,
            "positions": self._kept.positions,
            "weights": tensors_sha256(built.module.state_dict()),
            "inputs": {
                "normalise": self._trial.source.normalise.model_dump(mode="json"),
                "size": self._trial.scale.input_size,
                "crop": self._trial.protocol.evaluation_crop,
            },
        }
        return safetensors.numpy.save(tensors, {"scalecurves": json.dumps(metadata)})

    def _inputs(self, module: nn.Module) -> Iterator[Tensor]:
        trial, device = self._trial, self._group.device
        dtype = next(module.parameters()).dtype
        form = (trial.source.normalise, device, dtype, is_channels_last(module))
        transform = EvaluationTransform(trial.scale.input_size, *form, crop=trial.protocol.evaluation_crop)
        for part in self._probe.parts:
            feed = ImageFeed(part, device, dtype, resident_bytes=0)
            size = evaluation_batch_size(feed, trial.protocol.ghost_batch_size)
            for first in range(0, len(feed), size):
                images, _ = feed.batch(np.arange(first, min(first + size, len(feed))))
                yield transform(images)


def as_half(values: NDArray[np.float32]) -> tuple[NDArray[np.float16], int]:
    """Numbers in float16 and the exponent e of the power of two they were divided by: ``values = half * 2^e``.

    The largest number lands in [2^14, 2^15), so that none overflows and small ones keep their digits. Values that are
    not finite stay so.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    exponent = int(np.frexp(largest)[1]) - LARGEST_EXPONENT if largest > 0 else 0
    return np.ldexp(values, -exponent).astype(np.float16), exponent


def file_facts(file: bytes) -> dict[str, Any]:
    """What a file of representations says of itself.

    Raises:
        ValueError: It is none.
    """
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["scalecurves"])
    return facts


def weight_table(start: Mapping[str, Tensor], module: nn.Module, head: tuple[str, ...]) -> pa.Table:
    """Sums that distances follow from, a row per parameter, in float64.

    Every parameter is in it, frozen ones included. Buffers (running means and variances of normalisation layers) are
    none: they follow the images, not the gradient.

    Args:
        start: Parameter -> its value at initialisation.
        module: Holds the values at the end.
        head: Names of the head's tensors.

    Returns:
        Columns ``parameter``, ``part`` (cut point, or ``head``), ``normalisation`` (whether it is the affine part of a
        normalisation layer), ``trained``, ``numbers``, ``squared_distance`` (sum of (end - start)^2),
        ``squared_start``, ``squared_end``, ``product`` (sum of start * end).
    """
    part_of = {name: part.name for part in parts_of(module, head) for name in part.tensors}
    of_norms = norm_tensors(module)
    rows = []
    for name, parameter in module.named_parameters():
        before, after = start[name].double(), parameter.detach().cpu().double()
        rows.append(
            {
                "parameter": name,
                "part": "head" if name in head else part_of.get(name, name),
                "normalisation": name in of_norms,
                "trained": parameter.requires_grad,
                "numbers": parameter.numel(),
                "squared_distance": float((after - before).square().sum()),
                "squared_start": float(before.square().sum()),
                "squared_end": float(after.square().sum()),
                "product": float((before * after).sum()),
            }
        )
    return pa.Table.from_pylist(rows)


def _copies(module: nn.Module) -> Parameters:
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.named_parameters()}


def _continued(fresh: InitialState, earlier: bytes) -> InitialState:
    """The initialisation of a training that goes on: as its first attempt kept it.

    The initial weights are drawn or loaded again at each attempt. Where that gave others (an upstream trial that was
    trained again meanwhile), distances from the true ones cannot be had.
    """
    try:
        known = file_facts(earlier)
    except (ValueError, KeyError):
        return fresh  # damaged
    now = file_facts(fresh.file)
    asked = ("probe_hash", "layers", "positions", "filters")
    if any(known.get(name) != now[name] for name in asked):
        return fresh if known.get("weights") == now["weights"] else replace(fresh, parameters=None)
    same = known["weights"] == now["weights"]
    return InitialState(file=earlier, parameters=fresh.parameters if same else None)
