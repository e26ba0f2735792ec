"""Training of one model on one subset: steps, evaluations, selection, checkpoints. Knows no study and no files."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.exceptions import DataError, MemoryLimitError
from search_spaces.failpoints import failpoint
from search_spaces.protocol import Protocol
from search_spaces.results import Order
from search_spaces.study import Normalisation
from trainables.batch_loss import BatchLoss
from trainables.batches import RESIDENT_BYTES, ImageSet
from trainables.checkpoint import Checkpoints, State
from trainables.compiled import compiled
from trainables.ghost_batches import GhostBatches
from trainables.groups import Group
from trainables.inputs import Inputs
from trainables.module_setup import Weights, prepare, snapshot
from trainables.notice import NOTICE, order_of
from trainables.optimisation import MovingAverage, Precision, Update
from trainables.recompute import recomputed
from trainables.schedules import learning_rate
from trainables.selection import Selection
from trainables.steps import evaluation_stops, settled
from trainables.telemetry import DeviceUse, Phase, StepClock
from trainables.training_log import LOSS_WINDOW, LossLog

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
    gflops: float | None = None,
    compile_cache: Path | None = None,
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
        gflops: 1e9 operations of one image's forward pass; needed by budgets in operations alone.
        compile_cache: Folder of compiled code, where the protocol compiles; torch's own if None.

    Raises:
        DataError: No training images, or a validation metric that cannot be computed although it selects.
        DivergenceError: A non-finite loss or output.
        MemoryLimitError: A ghost batch does not fit the device.
        Stopped: ``tell`` answered stop; the checkpoint is written.
        UserError: The device lacks the protocol's precision, the model holds SyncBatchNorm, or it cannot be compiled
            although the protocol says so.
    """
    if not len(train_set.positions):
        raise DataError("the training subset holds no image")
    protocol = settled(protocol, len(train_set.positions), gflops)
    places = (group, tell, checkpoints, resident_bytes)
    run = _Fit(module, train_set, val_set, protocol, normalise, input_size, seed, primary, *places)
    with compiled(module, compile_cache) if protocol.compile else contextlib.nullcontext(module) as net:
        return run.result(net, save_memory)


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
        self._module, self._protocol, self._seed = module, protocol, seed
        self._group, self._tell, self._checkpoints = group, tell, checkpoints
        self._precision = Precision(protocol.precision, device)
        self._clock = StepClock(device)
        facts = prepare(module, input_size, device)
        self._has_unused_parameters = facts.has_unused_parameters
        self._steps = protocol.budget.steps or 0
        self._stops = evaluation_stops(protocol, images, self._steps)
        inputs = Inputs(input_size, normalise, device, facts, resident_bytes)
        self._loss = BatchLoss(train_set, protocol, inputs, seed, self._steps, group, self._precision, self._clock)
        self._selection = Selection(val_set, inputs, protocol, primary, self._steps, group, self._loss.of_masks)
        self._update = Update(module, protocol, self._steps, self._precision.scaler)
        self._average = None if protocol.ema_decay is None else MovingAverage(module, protocol.ema_decay)
        self._step = self._resumed_from = 0
        self._history: list[dict[str, Any]] = []
        self._losses = LossLog(group, self._steps)
        self._train_s = self._evaluate_s = self._earlier_s = 0.0
        self._use = DeviceUse(device)

    def result(self, net: nn.Module, save_memory: bool) -> FitResult:
        """Train to the end and select.

        Args:
            net: What training calls: the module, or a compiled twin of it.
            save_memory: See ``fit``.
        """
        self._restore()
        exhausted = None
        try:
            self._train(net, save_memory)
        except torch.OutOfMemoryError as error:
            exhausted = str(error)
        utilisation, memory_bytes = self._use.utilisation(), self._use.memory_bytes()
        if exhausted is not None:  # outside the handler, whose traceback holds the activations
            with recomputed(self._module, save_memory):
                raise MemoryLimitError(self._loss.memory_advice(self._module, exhausted))
        with self._evaluated_weights():
            final = snapshot(self._module)
        best = self._selection.best
        if self._protocol.select == "last":
            best.weights = final
        self._module.load_state_dict(best.weights)
        done = (self._step - self._resumed_from) * self._protocol.global_batch_size
        return FitResult(
            selected=best.weights,
            final=final,
            history=self._history,
            steps=self._step,
            best_step=best.step,
            best_value=best.value,
            still_rising=self._selection.still_rising(self._history),
            resumed_from=self._resumed_from,
            train_s=self._train_s,
            evaluate_s=self._evaluate_s,
            samples_per_s=done / self._train_s if self._train_s else 0.0,
            earlier_s=self._earlier_s,
            phases=self._clock.seconds(),
            utilisation=utilisation,
            memory_bytes=memory_bytes,
            val_logits=best.logits,
        )

    def _train(self, net: nn.Module, save_memory: bool) -> None:
        ghosts = GhostBatches(
            self._module,
            net=net,
            ghosts=self._protocol.ghost_batches,
            group=self._group,
            seed=self._seed,
            has_unused_parameters=self._has_unused_parameters,
            recomputed=save_memory,
        )
        with ghosts, recomputed(self._module, save_memory):
            for stop in self._stops:
                if self._selection.has_ended:
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
            self._loss.begin_step(step)
            self._losses.add(ghosts.backward(step, self._loss, scale))
            self._clock.enter(Phase.UPDATE)
            self._update(step, self._selection.rate_scale)
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

    def _after_interval(self, samples_per_s: float) -> None:
        """Evaluate, select, report, save, and stop if told to."""
        self._use.sample()
        started = time.perf_counter()
        scale = self._selection.rate_scale
        with self._evaluated_weights():
            val, val_loss = self._selection.evaluate(self._module, self._step)
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

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        if self._average is None:
            yield
        else:
            with self._average.applied():
                yield

    def _state(self) -> State:
        scaler = self._precision.scaler
        return {
            "step": self._step,
            "module": self._module.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            **self._selection.state(),
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
        self._selection.restore(state)
        self._history = state["history"]
        self._losses.values = state["losses"]
        self._step = self._resumed_from = state["step"]
        self._earlier_s = state["seconds"]
