"""Reading what trials keep for comparing networks: activations, first filters, distances of weights.

These files stay in the storage, MLflow has none of them (docs/representations.md). In a notebook::

    from dashboards import load_representations

    kept = load_representations("my_study")
    kept.frame                                  # a row per trial, moment and layer
    kept["0123456789abcdef"].final.layer("layer2")   # (images, dimensions)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dashboards.load import load_results
from dashboards.statistics.predictions import FloatArray
from search_spaces.exceptions import DataError, TrackingError, UserError
from search_spaces.home import scalecurves_home
from search_spaces.names import AXES, WEIGHT_TABLE, Artifact, Moment
from search_spaces.uris import hide_password

Fetch = Callable[[str, str], Path]
"""(trial id, file below its folder) -> local path; raises FileNotFoundError where there is none."""

_FACTS = "scalecurves"
_FORMAT = 1


class KeptMoment:
    """One network at one moment, read layer by layer when asked for.

    Args:
        path: ``initial.safetensors`` or ``final.safetensors``.

    Attributes:
        layers: Names, bottom first.
        probe_hash: Equal for the same images in the same order.
        weights: sha256 of the network's tensors.
        key: Equal for equal weights that saw the same inputs.
        step: Optimiser steps done.
        positions: Places of a feature map that are kept; None for its mean.

    Raises:
        DataError: The file is none of representations, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="np") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})[_FACTS])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path.name} holds no representations: {error}") from error
        if facts["format"] != _FORMAT:
            raise DataError(f"{path.name} has format {facts['format']}; this version reads format {_FORMAT}")
        self.layers: tuple[str, ...] = tuple(facts["layers"])
        self.probe_hash, self.weights = str(facts["probe_hash"]), str(facts["weights"])
        self.key = f"{self.weights} {self.probe_hash} {json.dumps(facts['inputs'], sort_keys=True)}"
        self.step: int = facts["step"]
        self.positions: int | None = facts["positions"]
        self._exponents: dict[str, int] = facts["exponents"]
        self._has_filters = facts["filters"] is not None

    def layer(self, name: str) -> FloatArray:
        """(images, dimensions), or (images, places, dimensions), float64.

        Raises:
            DataError: There is no such layer.
        """
        return np.asarray(np.ldexp(self._half(name).astype(np.float64), self._exponents[name]))

    def content(self, name: str) -> str:
        """Equal for equal activations of a layer, such as those below a cut that two starts share.

        Raises:
            DataError: There is no such layer.
        """
        half = self._half(name)
        return hashlib.blake2b(half.tobytes(), salt=self._exponents[name].to_bytes(4, "big", signed=True)).hexdigest()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a layer, without reading it."""
        with safe_open(self._path, framework="np") as file:
            return tuple(file.get_slice(f"activations/{name}").get_shape())

    @property
    def filters(self) -> FloatArray | None:
        """(F, C, H, W) weights of the first convolution; None if they were not kept, or there is none."""
        return self._tensor("filters").astype(np.float64) if self._has_filters else None

    @property
    def images(self) -> tuple[str, ...]:
        """Keyed hashes of the images' ids, as in predictions."""
        return tuple(bytes(row).hex() for row in self._tensor("images"))

    def _half(self, name: str) -> NDArray[np.float16]:
        if name not in self._exponents:
            raise DataError(f"{self._path.name} holds no layer {name!r}; it holds {', '.join(self.layers)}")
        return np.asarray(self._tensor(f"activations/{name}"))

    def _tensor(self, name: str) -> Any:
        with safe_open(self._path, framework="np") as file:
            return file.get_tensor(name)


@dataclass(frozen=True, kw_only=True)
class TrialRepresentations:
    """What one trial kept.

    Attributes:
        initial: Before its first step.
        final: Of the weights that were evaluated.
        weights_path: Table of sums per parameter; None if it was not kept.
    """

    initial: KeptMoment
    final: KeptMoment
    weights_path: Path | None

    @cached_property
    def weights(self) -> pd.DataFrame:
        """A row per parameter, see ``trainables.representations.weight_table``; empty if it was not kept."""
        if self.weights_path is None:
            return pd.DataFrame()
        try:
            frame: pd.DataFrame = pq.read_table(self.weights_path).to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.weights_path.name} is no table of weights: {error}") from error
        return frame


class KeptRepresentations(Mapping[str, TrialRepresentations]):
    """trial_id -> what it kept, read when asked for.

    Args:
        results: (Rows of) the frame that ``load_results`` gave.
        fetch: Gives the files.
    """

    def __init__(self, results: pd.DataFrame, fetch: Fetch) -> None:
        self._fetch = fetch
        self._rows = {str(row["trial_id"]): row for row in results.to_dict("records")}
        self._known: dict[str, TrialRepresentations | None] = {}
        self.problems: list[str] = []
        """Trials whose files cannot be used, found so far."""

    def __getitem__(self, trial_id: str) -> TrialRepresentations:
        found = self._read(trial_id) if trial_id in self._rows else None
        if found is None:
            raise KeyError(trial_id)
        return found

    def __iter__(self) -> Iterator[str]:
        return (trial_id for trial_id in self._rows if self._read(trial_id) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def frame(self) -> pd.DataFrame:
        """A row per trial, moment and layer: trial_id, the axes, seed, seed_subset, seed_init, moment, step, layer,
        depth (from 0), images, places, dimensions, probe_hash."""
        columns = ("trial_id", *AXES, "seed", "seed_subset", "seed_init")
        rows = []
        for trial_id, kept in self.items():
            identity = {name: self._rows[trial_id].get(name) for name in columns}
            for moment, of in ((Moment.INITIAL, kept.initial), (Moment.FINAL, kept.final)):
                for depth, layer in enumerate(of.layers):
                    shape = of.shape(layer)
                    rows.append(
                        identity
                        | {"moment": str(moment), "step": of.step, "layer": layer, "depth": depth}
                        | {"images": shape[0], "places": shape[1] if len(shape) == 3 else 1, "dimensions": shape[-1]}
                        | {"probe_hash": of.probe_hash}
                    )
        return pd.DataFrame(rows)

    def _read(self, trial_id: str) -> TrialRepresentations | None:
        if trial_id not in self._known:
            try:
                self._known[trial_id] = self._found(trial_id)
            except DataError as error:
                self._known[trial_id] = None
                self.problems.append(f"Representations of trial {trial_id} cannot be used: {error}")
        return self._known[trial_id]

    def _found(self, trial_id: str) -> TrialRepresentations | None:
        folder = Artifact.REPRESENTATIONS
        try:
            final = self._fetch(trial_id, f"{folder}/{Moment.FINAL.file_name}")
            initial = self._fetch(trial_id, f"{folder}/{Moment.INITIAL.file_name}")
        except FileNotFoundError:
            return None
        weights: Path | None = None
        with suppress(FileNotFoundError):
            weights = self._fetch(trial_id, f"{folder}/{WEIGHT_TABLE}")
        return TrialRepresentations(initial=KeptMoment(initial), final=KeptMoment(final), weights_path=weights)


def load_representations(
    study: str | pd.DataFrame, storage: str | Path | None = None, tracking_uri: str | None = None
) -> KeptRepresentations:
    """What the done trials of a study kept.

    Args:
        study: A study's name, or (rows of) the frame that ``load_results`` gave.
        storage: Path or URI given to ``--storage``; ``<home>/storage`` if not given.
        tracking_uri: As ``load_results``.

    Raises:
        UserError: As ``load_results``; a storage that cannot be opened.
        TrackingError: MLflow cannot be reached.
    """
    results = study if isinstance(study, pd.DataFrame) else load_results(study, tracking_uri)
    name = str(results.attrs.get("study", "")) if isinstance(study, pd.DataFrame) else study
    if not name:
        raise UserError("load_representations needs the frame of load_results, which knows its study")
    return KeptRepresentations(results, storage_files(name, storage))


def storage_files(study: str, storage: str | Path | None = None) -> Fetch:
    """Files of a study's trials in a storage.

    Args:
        study: Name of the study.
        storage: As for ``load_representations``.

    Raises:
        UserError: No file system for this URI.
    """
    place = str(storage or scalecurves_home() / "storage")
    filesystem, root = _file_system(place)
    copies = tempfile.TemporaryDirectory(prefix="scalecurves-kept-")

    def fetch(trial_id: str, name: str) -> Path:
        where = f"{root.rstrip('/')}/{study}/trials/{trial_id}/{name}"
        try:
            if filesystem.get_file_info(where).type != pafs.FileType.File:
                raise FileNotFoundError(where)
            if isinstance(filesystem, pafs.LocalFileSystem):
                return Path(where)
            local = Path(copies.name) / trial_id / name
            local.parent.mkdir(parents=True, exist_ok=True)
            pafs.copy_files(where, str(local), source_filesystem=filesystem)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise TrackingError(hide_password(f"storage {place} cannot be reached: {error}")) from error
        return local

    return fetch


def _file_system(place: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in place:
        return pafs.LocalFileSystem(), str(Path(place).expanduser().resolve())
    if place.startswith("file://"):
        return pafs.LocalFileSystem(), unquote(urlsplit(place.replace("?", "%3F").replace("#", "%23")).path)
    try:
        filesystem, root = pafs.FileSystem.from_uri(place.replace(" ", "%20"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(hide_password(f"storage {place} cannot be opened: {error}")) from None
    return filesystem, str(root)
