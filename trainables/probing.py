"""A trial whose network stays fixed: features from the store, a classifier on them, chosen on validation.

All amounts, seeds and settings of one scale, source and task share the features; a trial that finds them builds no
network. Only rank 0 fits: the ranks share the pass over the images, which is what takes time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from search_spaces.exceptions import DataError, DivergenceError, MemoryLimitError, UserError
from search_spaces.names import Artifact, State
from search_spaces.results import Order, Timing, TrialResult
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.environment import environment
from trainables.evaluation import LEAST_BATCH_SIZE, predict
from trainables.feature_layer import FeatureLayer
from trainables.features import Features, FeatureStore, built_features, wanted_features
from trainables.fitting import Stopped, Tell
from trainables.groups import broadcast_object
from trainables.kept_weights import load_kept_weights
from trainables.logistic import fit_logistic
from trainables.models import model_facts
from trainables.module_setup import Weights, is_channels_last, prepare
from trainables.neighbours import neighbour_logits
from trainables.shards import ImageStack
from trainables.sources import Receipt, initialise
from trainables.task_data import LabelledSet, TaskData
from trainables.telemetry import DeviceUse
from trainables.tensor_files import system_errors
from trainables.trial_run import Tables, TrialRun
from trainables.validation_metrics import is_better, validation_value

CHUNK = 1024
"""Images per rank between two reports of the pass over the images."""

WEIGHT, BIAS, COUNT = "probe.weight", "probe.bias", "probe.neighbours"
"""Tensors of kept weights: (K, D) and (K,) of a linear probe; the number of neighbours of kNN."""


Stores = dict[str, FeatureStore]
"""Folder name of an image store -> features of images in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Candidates that validation chooses from, P of them.

    Attributes:
        val_logits: (P, N, K) of the validation images.
        facts: What is recorded of each candidate.
        losses: Mean training loss of each; None where there is none.
        converged: Whether the solver of each reached its tolerance.
        weights: Tensors to be kept of each.
    """

    val_logits: NDArray[np.float64]
    facts: list[dict[str, Any]]
    losses: list[float | None]
    converged: list[bool]
    weights: list[Weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Images without labels, as ``trainables.batches.ImageSet``."""

    images: ImageStack
    positions: NDArray[np.int64]

    @property
    def targets(self) -> NDArray[np.int64]:
        """Nothing asks for them."""
        return np.zeros(len(self.positions), np.int64)


@dataclass(slots=True)
class _Pass:
    """What computing features took, for the record."""

    seconds: float = 0.0
    images: int = 0
    stores: list[str] = field(default_factory=list)


class Probing(TrialRun):
    """A linear probe or kNN, on one rank."""

    def finish(self, tell: Tell) -> TrialResult | None:
        """Get the features, fit, choose, score, publish.

        Raises:
            DataError: A validation metric that chooses is not defined; an outcome does not occur in the subset.
            DivergenceError: Features are not finite.
            UserError: A segmentation task.
            Stopped: ``tell`` answered stop; a pass over the images that was not over begins anew.
        """
        if self.trial.task.is_dense:
            raise UserError(f"task {self.trial.task.name!r} has masks; method {self.trial.protocol.method} has labels")
        data = self.load_data()
        use = DeviceUse(self.group.device)
        done = _Pass()
        # Apart, so that trials that are not scored, and sets that come later, find what has been computed.
        stores = (self._stores(data.learned, tell, done), self._stores(list(data.sets.values()), tell, done))
        setup_s = time.perf_counter() - self.started
        result = self._publish_fit(data, *stores, setup_s, done, use, tell) if self.group.rank == 0 else None
        if result is None:
            self._report(tell, {"step": 1, "steps": 1})
        return result

    def further(self, weights: Path, sets: Sequence[str]) -> Tables:
        """Predictions on further sets from kept weights; on rank 0, empty elsewhere."""
        kept = load_kept_weights(weights, self.trial)
        data = self.load_data()
        done = _Pass()
        stores = self._stores([data.sets[name] for name in sets], _go, done)
        learned = self._stores(data.learned, _go, done) if COUNT in kept else {}
        if self.group.rank:
            return {}
        features = {name: self._features(stores, data.sets[name]) for name in sets}
        train = self._features(learned, data.train) if COUNT in kept else None
        return {
            name: self.scored(data.sets[name], self._apply(kept, train, data, found), name)
            for name, found in features.items()
        }

    def _publish_fit(
        self,
        data: TaskData,
        learned: Stores,
        scored: Stores,
        setup_s: float,
        done: _Pass,
        use: DeviceUse,
        tell: Tell,
    ) -> TrialResult:
        began = time.perf_counter()
        train = self._features(learned, data.train)
        fitted = self._fit(data, train, self._features(learned, data.val))
        train_s = time.perf_counter() - began
        scoring = time.perf_counter()
        best, values = self._choose(fitted, data)
        self._report(tell, {"step": 1, "steps": 1, "loss": fitted.losses[best], "val": values[best]})
        logits = {
            name: self._apply(fitted.weights[best], train, data, self._features(scored, images))
            for name, images in data.sets.items()
        }
        tables = {name: self.scored(data.sets[name], z, name) for name, z in logits.items()}
        tables |= self.validation(data, fitted.val_logits[best])
        now = time.perf_counter()
        timing = Timing(
            total_s=now - self.started,
            setup_s=setup_s,
            train_s=train_s,
            evaluate_s=now - scoring,
            samples_per_s=done.images / done.seconds if done.seconds else 0.0,
            utilisation=use.utilisation(),
            memory_bytes=use.memory_bytes(),
        )
        receipt = self._receipt(learned[data.train.store])
        result = self._result(data, fitted, best, values, timing, done)
        weights = fitted.weights[best]

        def write(folder: Path) -> None:
            if self.keeps_weights:
                path = folder / Artifact.WEIGHTS
                with system_errors(path):
                    save_file(weights, path, self.weights_metadata(tuple(weights), 0, True))

        self.publish(data, result, receipt, tables, write)
        return result

    def _report(self, tell: Tell, report: dict[str, Any]) -> None:
        """Called by all ranks.

        Raises:
            Stopped: The answer was stop.
        """
        order = tell({"loss": None, "val": None, "samples_per_s": 0.0, "resumed_from": 0, **report})
        if order is Order.STOP:
            raise Stopped(0)

    # Features

    def _features(self, stores: Stores, images: LabelledSet) -> Tensor:
        """(N, D) on this rank's device."""
        return torch.from_numpy(stores[images.store].of(images.positions)).to(self.group.device)

    def _stores(self, sets: Sequence[LabelledSet], tell: Tell, done: _Pass) -> Stores:
        """Image store -> features of what is wanted of it, on rank 0; empty elsewhere. Called by all ranks."""
        found = {}
        for name in dict.fromkeys(images.store for images in sets):
            store = self._store(name, [images for images in sets if images.store == name], tell, done)
            if store is not None:
                found[name] = store
        return found

    def _store(self, name: str, members: Sequence[LabelledSet], tell: Tell, done: _Pass) -> FeatureStore | None:
        """Rank 0 holds the lock while all compute; the others wait for its word whether there is anything to do."""
        wanted = wanted_features(self.trial, Path(self.trial.workspace.home), name, [m.positions for m in members])
        rows = _Rows(images=members[0].images, positions=wanted.positions)
        if self.group.rank:
            while broadcast_object(self.group, False):
                self._compute(rows, tell)
            return None

        def compute() -> tuple[Features, dict[str, Any]]:
            broadcast_object(self.group, True)
            began = time.perf_counter()
            features, receipt = self._compute(rows, tell)
            done.seconds += time.perf_counter() - began
            done.images += len(features)
            return features, {"receipt": receipt.model_dump(mode="json")}

        store = built_features(wanted, compute)
        broadcast_object(self.group, False)
        done.stores.append(store.path.name)
        return store

    def _compute(self, rows: _Rows, tell: Tell) -> tuple[Features, Receipt]:
        """One pass over the images, shared by the ranks; the features are complete on rank 0 alone."""
        trial, device = self.trial, self.group.device
        built = self.build()
        receipt = initialise(built, trial.source, self.upstream_weights, trial.seed.init)
        dtype = prepare(built.module, trial.scale.input_size, device).dtype
        layer = FeatureLayer(built.module, built.head)
        transform = EvaluationTransform(
            trial.scale.input_size,
            trial.source.normalise,
            device,
            dtype,
            is_channels_last(built.module),
            crop=trial.protocol.evaluation_crop,
        )
        parts = []
        chunk, total = CHUNK * self.group.size, len(rows.positions)
        for start in range(0, total, chunk):
            some = _Rows(images=rows.images, positions=rows.positions[start : start + chunk])
            began = time.perf_counter()
            feed = ImageFeed(some, device, dtype, self.resident_bytes)
            try:
                parts.append(predict(layer, feed, transform, self.group, LEAST_BATCH_SIZE))
            except torch.OutOfMemoryError as error:
                raise MemoryLimitError(f"a single image does not fit {device} in evaluation: {error}") from error
            speed = len(some.positions) / (time.perf_counter() - began)
            if start + chunk < total:
                self._report(tell, {"step": start + chunk, "steps": total, "samples_per_s": speed})
        if self.group.rank:
            return np.empty((0, 0), np.float32), receipt
        features = np.concatenate([part for part in parts if part is not None]).astype(np.float32, copy=False)
        if not np.isfinite(features).all():
            raise DivergenceError(
                f"source {trial.source.name!r} gives scale {trial.scale.name!r} features that are not finite"
            )
        return features, receipt

    def _receipt(self, store: FeatureStore) -> Receipt:
        """That of the weights that the features come from, under this trial's names."""
        receipt = Receipt.model_validate(store.facts["receipt"])
        return receipt.model_copy(update={"source": self.trial.source.name, "seed": self.trial.seed.init})

    # Classifiers

    def _fit(self, data: TaskData, train: Tensor, val: Tensor) -> _Fitted:
        return self._fit_linear(data, train, val) if self._is_linear else self._fit_neighbours(data, train, val)

    @property
    def _is_linear(self) -> bool:
        return self.trial.protocol.method == "linear_probe"

    @property
    def _outputs(self) -> int:
        return len(self.trial.task.labels)

    def _fit_linear(self, data: TaskData, train: Tensor, val: Tensor) -> _Fitted:
        protocol = self.trial.protocol
        penalties = sorted(set(protocol.inverse_penalties or ()))  # strongest first: it wins ties
        rows = [np.arange(len(data.train))]
        standardise = protocol.feature_scaling == "standardised"
        fits = fit_logistic(train, data.train.targets, self._outputs, rows, penalties, standardise=standardise)
        losses, errors = fits.losses[0].tolist(), fits.errors[0].tolist()
        converged, steps = fits.converged[0].tolist(), fits.steps[0].tolist()
        return _Fitted(
            val_logits=fits.logits(val, 0).cpu().numpy(),
            facts=[
                {"inverse_penalty": c, "loss": loss, "steps": n, "logit_error": error, "converged": ok}
                for c, loss, n, error, ok in zip(penalties, losses, steps, errors, converged, strict=True)
            ],
            losses=losses,
            converged=converged,
            weights=[
                {WEIGHT: fits.weights[0, k].cpu().contiguous(), BIAS: fits.intercepts[0, k].cpu().contiguous()}
                for k in range(len(penalties))
            ],
        )

    def _fit_neighbours(self, data: TaskData, train: Tensor, val: Tensor) -> _Fitted:
        counts = sorted({min(k, len(train)) for k in self.trial.protocol.neighbours or ()})
        return _Fitted(
            val_logits=self._voted(data, train, val, counts),
            facts=[{"neighbours": k} for k in counts],
            losses=[None] * len(counts),
            converged=[True] * len(counts),
            weights=[{COUNT: torch.tensor([k])} for k in counts],
        )

    def _voted(self, data: TaskData, train: Tensor, queries: Tensor, counts: list[int]) -> NDArray[np.float64]:
        temperature = self.trial.protocol.temperature
        assert temperature is not None
        logits = neighbour_logits(train, data.train.targets, self._outputs, queries, counts, temperature)
        return np.asarray(logits.cpu().numpy())

    def _apply(self, weights: Weights, train: Tensor | None, data: TaskData, features: Tensor) -> NDArray[np.float64]:
        """(N, K) logits of a chosen candidate."""
        if COUNT in weights:
            assert train is not None
            return np.asarray(self._voted(data, train, features, [int(weights[COUNT])])[0])
        weight, bias = (weights[name].to(features.device) for name in (WEIGHT, BIAS))
        return np.asarray((features.double() @ weight.mT + bias).cpu().numpy())

    def _choose(self, fitted: _Fitted, data: TaskData) -> tuple[int, list[float | None]]:
        """The best candidate on validation, the first of equally good ones, and the metric of each.

        Raises:
            DataError: What chooses is not defined on the validation images.
        """
        primary, targets = self.trial.task.primary, np.asarray(data.val.targets)
        chooses = "nll" if self.trial.protocol.select == "best_val_loss" else primary
        best, best_value = -1, None
        values: list[float | None] = []
        for k, logits in enumerate(fitted.val_logits):
            values.append(validation_value(primary, logits, targets))
            value = values[k] if chooses == primary else validation_value(chooses, logits, targets)
            if is_better(chooses, value, best_value):
                best, best_value = k, value
        if best < 0:
            raise DataError(
                f"{chooses} is not defined on the {len(targets)} validation images (too few classes are labelled), so "
                "it cannot choose; give more validation images or set protocol.select: best_val_loss"
            )
        return best, values

    def _result(
        self, data: TaskData, fitted: _Fitted, best: int, values: list[float | None], timing: Timing, done: _Pass
    ) -> TrialResult:
        trial = self.trial
        facts = model_facts(trial.scale, self._outputs, trial.workspace.import_paths)
        candidates = [{**fact, "val": value} for fact, value in zip(fitted.facts, values, strict=True)]
        return TrialResult(
            trial=trial,
            state=State.COMPLETE,
            subset=data.subset,
            parameters=facts.parameters,
            backbone_parameters=facts.backbone_parameters,
            steps=0,
            best_step=0,
            best_value=values[best],
            still_rising=not fitted.converged[best],
            loss=fitted.losses[best],
            timing=timing,
            environment=environment(self.group),
            started_at=self.started_at,
            finished_at=time.time(),
            extra={
                "chosen": fitted.facts[best],
                "candidates": candidates,
                "at_edge": len(candidates) > 1 and best in (0, len(candidates) - 1),
                "features": done.stores,
                "feature_pass_s": done.seconds,
                "feature_pass_images": done.images,
            },
        )


def _go(_: dict[str, Any]) -> Order:
    return Order.GO
