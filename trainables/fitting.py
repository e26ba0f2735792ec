"""Training of one model on one subset: steps, evaluations, selection, checkpoints. Knows no study and no files."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.exceptions import DataError, DivergenceError, MemoryLimitError
from search_spaces.failpoints import failpoint
from search_spaces.protocol import Protocol
from search_spaces.results import Order
from search_spaces.study import Normalisation
from trainables.augmentation import Augment, EvaluationTransform
from trainables.batches import RESIDENT_BYTES, ImageFeed, ImageSet, SampleOrder, Stream, stream_seed
from trainables.checkpoint import Checkpoints, State
from trainables.evaluation import evaluation_batch_size, evaluation_crop, predict
from trainables.ghost_batches import GhostBatches, ghosts_of_rank
from trainables.groups import Group, broadcast_object
from trainables.mixing import Mix
from trainables.module_setup import Weights, largest_that_fits, prepare, snapshot
from trainables.notice import NOTICE, order_of
from trainables.objectives import make_objective
from trainables.optimisation import MovingAverage, Precision, Update, sampling_weights
from trainables.recompute import recomputed
from trainables.schedules import LossWatch, learning_rate
from trainables.soft_labels import drawn_labels, has_soft_labels
from trainables.steps import evaluation_stops, settled
from trainables.telemetry import DeviceUse, Phase, StepClock
from trainables.training_log import LOSS_WINDOW, LossLog, still_rising
from trainables.validation_metrics import is_better

Tell = Callable[[dict[str, Any]], Order]


class Stopped(Exception):  # noqa: N818 - not an error: the trial was told to stop, its checkpoint is written
    """Training was told to stop.

    Attributes:
        step: Optimiser steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What training gave. Weights are those that were evaluated: averages if the protocol keeps them.

    Attributes:
        selected: State dict of the selected step, on the CPU.
        val_logits: (N, C) of the validation images at the selected step, on rank 0; None elsewhere and without images.
            Of masks what is kept of them (``trainables.mask_scores``), (N, D).
        final: State dict of the last step, on the CPU.
        history: One row per evaluation: step, loss (mean since the last one), val, val_loss (None unless the protocol
            needs it), lr, seconds (since the trial's start), step_losses (one per step).
        steps: Optimiser steps of the trial; fewer than its budget if it stopped early.
        best_step: Selected step.
        best_value: Validation value there; None if it is not defined.
        still_rising: See ``still_rising``.
        resumed_from: Step that this attempt started at.
        train_s: Seconds of training of this attempt.
        earlier_s: Seconds of training and validation of the attempts that this one continued.
        phases: What train_s was spent on, see ``telemetry.StepClock``; ``wait`` comes on top of it.
        utilisation: See ``telemetry.DeviceUse``.
        memory_bytes: See ``telemetry.DeviceUse``.
        evaluate_s: Seconds of validation of this attempt.
        samples_per_s: Training images per second of train_s.
    """

    selected: Weights
    final: Weights
    history: list[dict[str, Any]]
    steps: int
    best_step: int
    best_value: float | None
    still_rising: bool | None
    resumed_from: int
    train_s: float
    evaluate_s: float
    samples_per_s: float
    earlier_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    utilisation: float | None = None
    memory_bytes: int = 0
    val_logits: NDArray[Any] | None = None


def fit(
    module: nn.Module,
    train_set: ImageSet,
    val_set: ImageSet,
    *,
    protocol: Protocol,
    normalise: Normalisation,
    input_size: int,
    seed: int,
    primary: str,
    group: Group,
    tell: Tell,
    checkpoints: Checkpoints | None = None,
    save_memory: bool = False,
    resident_bytes: int = RESIDENT_BYTES,
) -> FitResult:
    """Train ``module``; called by all ranks. Afterwards it holds the selected weights, on the group's device.

    The result depends on neither the number of ranks nor interruptions, to rounding and bit for bit respectively.
    Draws from torch's default generators, which it seeds; restore them afterwards if that matters.

    Args:
        module: Images (B, 3, s, s) to logits, of masks (B, L, s, s), with its initial weights, the same on all ranks.
        train_set: The subset.
        val_set: The images that select.
        protocol: The recipe.
        normalise: Input scaling.
        input_size: Side s in pixels.
        seed: The trial's init seed.
        primary: Validation metric.
        group: The trial's ranks.
        tell: Takes the report of an evaluation (step, steps, loss, val, samples_per_s, resumed_from), gives the order.
        checkpoints: Where to continue from and to save to; None keeps none.
        save_memory: Compute activations twice instead of keeping them.
        resident_bytes: Image sets up to this size are kept on the GPU.

    Raises:
        DataError: No training images, or a validation metric that cannot be computed although it selects.
        DivergenceError: A non-finite loss or output.
        MemoryLimitError: A ghost batch does not fit the device.
        Stopped: ``tell`` answered stop; the checkpoint is written.
        UserError: The device lacks the protocol's precision, or the model holds SyncBatchNorm.
    """
    places = (group, tell, checkpoints, resident_bytes)
    run = _Fit(module, train_set, val_set, protocol, normalise, input_size, seed, primary, *places)
    return run.result(save_memory)


@dataclass(slots=True)
class _Selection:
    """The best evaluation so far."""

    step: int = 0
    value: float | None = None
    weights: Weights = field(default_factory=dict)
    logits: NDArray[Any] | None = None
    loss: float | None = None


class _Fit:
    def __init__(
        self,
        module: nn.Module,
        train_set: ImageSet,
        val_set: ImageSet,
        protocol: Protocol,
        normalise: Normalisation,
        input_size: int,
        seed: int,
        primary: str,
        group: Group,
        tell: Tell,
        checkpoints: Checkpoints | None,
        resident_bytes: int,
    ) -> None:
        device, images = group.device, len(train_set.positions)
        if not images:
            raise DataError("the training subset holds no image")
        protocol = settled(protocol, images)
        self._module, self._protocol, self._seed, self._primary = module, protocol, seed, primary
        self._group, self._tell, self._checkpoints = group, tell, checkpoints
        self._precision = Precision(protocol.precision, device)
        facts = prepare(module, input_size, device)
        self._has_unused_parameters = facts.has_unused_parameters
        self._steps = protocol.budget.steps or 0
        self._stops = evaluation_stops(protocol, images, self._steps)
        self._watch = LossWatch(protocol) if protocol.needs_validation_loss else None
        sampled = protocol.imbalance == "sampler"
        weights = sampling_weights(np.asarray(train_set.targets)) if sampled else None
        self._order = SampleOrder(images, protocol.global_batch_size, seed, weights)
        self._train_feed = ImageFeed(train_set, device, facts.dtype, resident_bytes)
        self._val_feed = ImageFeed(val_set, device, facts.dtype, resident_bytes)
        self._has_soft_labels = has_soft_labels(np.asarray(train_set.targets))
        form = (normalise, device, facts.dtype, facts.channels_last)
        self._augment = Augment(protocol.augmentation, input_size, *form)
        self._mix = Mix(protocol, device)
        self._transform = EvaluationTransform(input_size, *form, crop=evaluation_crop(protocol, self._val_feed))
        self._generator = torch.Generator()
        self._objective = make_objective(train_set, val_set, protocol, facts.outputs, device)
        self._update = Update(module, protocol, self._steps, self._precision.scaler)
        self._average = None if protocol.ema_decay is None else MovingAverage(module, protocol.ema_decay)
        self._require_selectable(facts.outputs)
        self._step = self._resumed_from = 0
        self._best = _Selection()
        self._history: list[dict[str, Any]] = []
        self._losses = LossLog(group, self._steps)
        self._train_s = self._evaluate_s = self._earlier_s = 0.0
        self._index = np.empty(0, np.int64)
        self._clock = StepClock(device)
        self._use = DeviceUse(device)

    def result(self, save_memory: bool) -> FitResult:
        """Train to the end and select."""
        self._restore()
        exhausted = None
        try:
            self._train(save_memory)
        except torch.OutOfMemoryError as error:
            exhausted = str(error)
        utilisation, memory_bytes = self._use.utilisation(), self._use.memory_bytes()
        if exhausted is not None:  # outside the handler, whose traceback holds the activations
            raise MemoryLimitError(self._memory_advice(exhausted))
        with self._evaluated_weights():
            final = snapshot(self._module)
        if self._protocol.select == "last":
            self._best.weights = final
        self._module.load_state_dict(self._best.weights)
        done = (self._step - self._resumed_from) * self._protocol.global_batch_size
        return FitResult(
            selected=self._best.weights,
            final=final,
            history=self._history,
            steps=self._step,
            best_step=self._best.step,
            best_value=self._best.value,
            still_rising=self._still_rising(),
            resumed_from=self._resumed_from,
            train_s=self._train_s,
            evaluate_s=self._evaluate_s,
            samples_per_s=done / self._train_s if self._train_s else 0.0,
            earlier_s=self._earlier_s,
            phases=self._clock.seconds(),
            utilisation=utilisation,
            memory_bytes=memory_bytes,
            val_logits=self._best.logits,
        )

    def _still_rising(self) -> bool | None:
        """By what selects: the primary metric, or the validation loss."""
        by_loss = self._protocol.select == "best_val_loss"
        values = [row["val_loss" if by_loss else "val"] for row in self._history]
        return still_rising(values, "nll" if by_loss else self._primary)

    def _train(self, save_memory: bool) -> None:
        ghosts = GhostBatches(
            self._module,
            ghosts=self._protocol.ghost_batches,
            group=self._group,
            seed=self._seed,
            has_unused_parameters=self._has_unused_parameters,
            recomputed=save_memory,
        )
        with ghosts, recomputed(self._module, save_memory):
            for stop in self._stops:
                if self._watch is not None and self._watch.has_ended:
                    break
                if stop > self._step:
                    self._after_interval(self._train_until(stop, ghosts))

    def _train_until(self, stop: int, ghosts: GhostBatches) -> float:
        """Train up to step ``stop``; returns the training images per second, the device's work included."""
        first, started = self._step, time.perf_counter()
        scaler = self._precision.scaler
        scale: Callable[[Tensor], Tensor] | None = None if scaler is None else scaler.scale
        before_s = self._train_s
        for step in range(first, stop):
            self._clock.begin_step(step)
            self._index = self._order.batch(step)
            self._losses.add(ghosts.backward(step, self._ghost_loss, scale))
            self._clock.enter(Phase.UPDATE)
            self._update(step, 1.0 if self._watch is None else self._watch.scale)
            if self._average is not None:
                self._average.update(step)
            self._clock.enter(None)
            if (step + 1) % LOSS_WINDOW == 0 or step + 1 == stop:
                # At the end of the interval there is a report, which brings the order itself.
                heard = self._losses.look(step + 1, 0 if step + 1 == stop else NOTICE.take())
                self._clock.settle()
                self._step, self._train_s = step + 1, before_s + time.perf_counter() - started
                self._obey(order_of(heard))
        return (stop - first) * self._protocol.global_batch_size / (self._train_s - before_s)

    def _obey(self, order: Order) -> None:
        if order is Order.GO:
            return
        if self._checkpoints is not None:
            with self._clock.waiting():
                self._checkpoints.save(self._state)
        if order is Order.STOP:
            raise Stopped(self._step)

    def _ghost_loss(self, net: nn.Module, step: int, ghost: int) -> Tensor:
        self._clock.enter(Phase.LOAD)
        images, targets = self._train_feed.batch(self._rows(self._index, ghost), self._upcoming(step, ghost))
        if self._has_soft_labels:
            targets = drawn_labels(targets, self._seed, step, ghost)
        self._generator.manual_seed(stream_seed(self._seed, Stream.AUGMENT, step, ghost))
        inputs, targets = self._augmented(images, targets)
        mixture = None
        if self._mix.is_on:
            self._generator.manual_seed(stream_seed(self._seed, Stream.MIX, step, ghost))
            inputs, mixture = self._mix(inputs, self._generator)
        self._clock.enter(Phase.FORWARD)
        with self._precision.autocast():
            logits = net(inputs)
        loss = self._objective.loss(_full_precision(logits), targets, mixture)
        self._clock.enter(Phase.BACKWARD)
        return loss

    def _augmented(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the net with their targets: masks go the way of their images."""
        if self._train_feed.masks is None:
            return self._augment(images, self._generator), targets
        return self._augment.with_masks(images, targets, self._generator)

    def _rows(self, index: NDArray[np.int64], ghost: int) -> NDArray[np.int64]:
        size = self._protocol.ghost_batch_size
        return index[ghost * size : (ghost + 1) * size]

    def _upcoming(self, step: int, ghost: int) -> NDArray[np.int64] | None:
        """Rows of this rank's next ghost batch, if its feed looks ahead; None at the end of training."""
        if not self._train_feed.looks_ahead:
            return None
        mine, _ = ghosts_of_rank(self._protocol.ghost_batches, self._group.rank, self._group.size)
        if ghost != mine[-1]:
            return self._rows(self._index, ghost + mine.step)
        return self._rows(self._order.batch(step + 1), mine[0]) if step + 1 < self._steps else None

    def _after_interval(self, samples_per_s: float) -> None:
        """Evaluate, select, report, save, and stop if told to."""
        self._use.sample()
        started = time.perf_counter()
        scale = 1.0 if self._watch is None else self._watch.scale
        val, val_loss = self._validate()
        self._evaluate_s += time.perf_counter() - started
        losses = self._losses.take()
        row = {
            "step": self._step,
            "loss": math.fsum(losses) / len(losses),
            "val": val,
            "val_loss": val_loss,
            "lr": learning_rate(self._protocol, self._step - 1, self._steps) * scale,
            "seconds": self._seconds,
            "step_losses": losses,
        }
        self._history.append(row)
        failpoint("trial.evaluated")
        report = {key: row[key] for key in ("step", "loss", "val")}
        with self._clock.waiting():
            whole = {"steps": self._steps, "samples_per_s": samples_per_s, "resumed_from": self._resumed_from}
            order = self._tell({**report, **whole})
            if self._checkpoints is not None and order is Order.GO:
                self._checkpoints.save_if_due(self._state)
        self._obey(order)

    @property
    def _seconds(self) -> float:
        """Of training and validation since the trial began, other attempts included."""
        return self._earlier_s + self._train_s + self._evaluate_s

    def _validate(self) -> tuple[float | None, float | None]:
        """Validation value and loss of the weights that count, which are selected if they are the best so far."""
        batch_size = evaluation_batch_size(self._val_feed, self._protocol.ghost_batch_size)
        with self._evaluated_weights():
            value: float | None = None
            loss: float | None = None
            logits: NDArray[Any] | None = None
            if len(self._val_feed):
                places = (self._transform, self._group, batch_size, self._objective.reduce)
                logits = predict(self._module, self._val_feed, *places)
                value, loss = self._shared_values(logits)
            last = self._protocol.select == "last"
            if last or self._is_better(value, loss):
                self._best = _Selection(self._step, value, {} if last else snapshot(self._module), logits, loss)
        if self._watch is not None and loss is not None:
            self._watch.take(loss)
        return value, loss

    def _is_better(self, value: float | None, loss: float | None) -> bool:
        if self._protocol.select == "best_val_loss":
            return is_better("nll", loss, self._best.loss)
        return is_better(self._primary, value, self._best.value)

    def _shared_values(self, logits: NDArray[Any] | None) -> tuple[float | None, float | None]:
        """Validation value, and the loss where the protocol needs it; the same on all ranks."""
        finite, value, loss = True, None, None
        if logits is not None:
            finite = bool(np.isfinite(logits).all())
            value = self._objective.value(self._primary, logits) if finite else None
            if finite and self._watch is not None:
                loss = self._objective.validation_loss(logits)
        finite, value, loss = broadcast_object(self._group, (finite, value, loss))
        if not finite:
            raise DivergenceError(f"validation outputs are not finite after step {self._step} of {self._steps}")
        return value, loss

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        if self._average is None:
            yield
        else:
            with self._average.applied():
                yield

    def _memory_advice(self, reason: str) -> str:
        """What to change after the device's memory ran out. A rank of several cannot try: its peers are gone."""
        ghost, batch = self._protocol.ghost_batch_size, self._protocol.global_batch_size
        smaller = [size for size in range(ghost - 1, 1, -1) if batch % size == 0]
        fits = largest_that_fits(self._module, smaller, self._try_batch) if self._group.size == 1 else None
        advice = "a smaller protocol.ghost_batch_size may fit" if self._group.size > 1 else "no smaller one fits"
        if fits is not None:
            advice = f"protocol.ghost_batch_size: {fits} would fit"
        return (
            f"a ghost batch of {ghost} images of this model does not fit {self._group.device}; {advice} "
            f"(that is another trial, as normalisation sees other batches). {reason}"
        )

    def _try_batch(self, size: int) -> None:
        inputs, targets = self._augmented(*self._train_feed.batch(np.arange(size) % len(self._train_feed)))
        with self._precision.autocast():
            logits = self._module(inputs)
        self._objective.loss(_full_precision(logits), targets).backward()  # type: ignore[no-untyped-call]

    def _require_selectable(self, outputs: int) -> None:
        images = len(self._val_feed)
        if self._watch is not None and not self._objective.is_defined(None, outputs):
            raise DataError(
                f"none of the {images} validation images has a label, so there is no validation loss, by which the "
                "protocol selects, lowers the learning rate or stops; give validation images or another schedule"
            )
        if self._protocol.select != "best_val":
            return
        if not self._objective.is_defined(self._primary, outputs):
            raise DataError(
                f"{self._primary} is not defined on the {images} validation images (too few classes are labelled), so "
                "it cannot select weights; give more validation images or set protocol.select: last"
            )

    def _state(self) -> State:
        scaler = self._precision.scaler
        return {
            "step": self._step,
            "module": self._module.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": {name: getattr(self._best, name) for name in ("step", "value", "weights", "loss")},
            "watch": None if self._watch is None else self._watch.state_dict(),
            "val_logits": None if self._best.logits is None else torch.from_numpy(self._best.logits),
            "history": self._history,
            "losses": self._losses.values,
            "seconds": self._seconds,
        }

    def _restore(self) -> None:
        state = None if self._checkpoints is None else self._checkpoints.load()
        if state is None:
            return
        self._module.load_state_dict(state["module"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._precision.scaler is not None:
            self._precision.scaler.load_state_dict(state["scaler"])
        if self._watch is not None:
            self._watch.load_state_dict(state["watch"])
        self._best = _Selection(**state["best"])
        if self._group.rank == 0 and state["val_logits"] is not None:
            self._best.logits = state["val_logits"].numpy()
        self._history = state["history"]
        self._losses.values = state["losses"]
        self._step = self._resumed_from = state["step"]
        self._earlier_s = state["seconds"]


def _full_precision(logits: Tensor) -> Tensor:
    """Losses are computed in float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
