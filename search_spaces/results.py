"""What a trial leaves behind: ``trial.json``, and the reports it makes on the way."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from search_spaces.models import StrictModel
from search_spaces.names import FailureClass, State
from search_spaces.trial import LeakageFacts, ResolvedTrial


class Order(StrEnum):
    """The answer to a report."""

    GO = "go"
    SAVE = "save"
    STOP = "stop"


class Failure(StrictModel):
    """Why an attempt failed.

    Attributes:
        failure_class: Decides what happens next.
        message: For the terminal; may name files.
        public_message: For MLflow; holds no path and no patient.
        step: Optimiser step at which it happened, if training had begun.
        detail: Tail of the traceback, for ``why``; stays out of MLflow.
        host: Machine on which the process that failed, or was lost, ran; empty if not known.
        log: File there with the output of that process; stays out of MLflow; empty if not known.
    """

    failure_class: FailureClass
    message: str
    public_message: str
    step: int | None = None
    detail: str = ""
    host: str = ""
    log: str = ""


class SubsetFacts(StrictModel):
    """The training subset of a trial.

    Attributes:
        subset_hash: First 16 hexadecimal digits of the sha256 of the sorted image ids.
        order_hash: The same of the patient order that all subsets of this task and subset seed are prefixes of; the
            pairing key across fractions.
        images: Number of images.
        patients: Number of patients.
        forced_patients: Patients beyond the prefix, taken in because a class would be missing.
        positives: Label -> number of positive images (multiclass: images of the class).
        negatives: Label -> number of images that are known not to have it (multiclass: images of other classes);
            empty in results of earlier versions.
        pool_images: Images of the whole training set.
        pool_patients: Patients of the whole training set.
        val_images: Labelled images used for selection; they are labels too.
        val_patients: Their patients.
        val_hash: As ``subset_hash``, of a validation set that is scaled with the amount; empty if it is all of it.
        patients_known: Whether the manifest knows patients; if not, every image counts as one.
    """

    subset_hash: str
    order_hash: str
    images: int
    patients: int
    forced_patients: int
    positives: dict[str, int]
    negatives: dict[str, int] = Field(default_factory=dict)
    pool_images: int
    pool_patients: int
    val_images: int
    val_patients: int
    val_hash: str = ""
    patients_known: bool


class Timing(StrictModel):
    """Seconds of an attempt (wall clock of rank 0), and what they were spent on.

    Attributes:
        total_s: From its start to its result.
        setup_s: Reading the subset, building the model, loading the source.
        train_s: Optimiser steps.
        evaluate_s: Validation, and scoring at the end.
        samples_per_s: Training images per second of train_s.
        earlier_s: Training and validation of the attempts that it continued.
        load_s: Of train_s: batches and their augmentation.
        forward_s: Of train_s: forward passes and losses.
        backward_s: Of train_s: backward passes, averaging over ranks and waiting for them included.
        update_s: Of train_s: the optimiser.
        wait_s: Waiting for orders and for the storage, between training and validation.
        utilisation: Share of the time in which the device computed, 0 to 1; None if not known.
        memory_bytes: Most memory of the device in use; on the CPU, private memory of the process at the end.
    """

    total_s: float
    setup_s: float
    train_s: float
    evaluate_s: float
    samples_per_s: float
    earlier_s: float = 0.0
    load_s: float = 0.0
    forward_s: float = 0.0
    backward_s: float = 0.0
    update_s: float = 0.0
    wait_s: float = 0.0
    utilisation: float | None = None
    memory_bytes: int = 0

    @property
    def whole_s(self) -> float:
        """Seconds of the whole trial, the attempts that it continued included."""
        return self.total_s + self.earlier_s


class Environment(StrictModel):
    """Where an attempt ran. Recorded, never part of the identity."""

    host: str
    device: str
    ranks: int
    versions: dict[str, str]
    """Package -> version: python, torch, timm, torchvision, numpy, scalecurves."""
    commit: str | None = None
    """Commit of the working tree that holds the code, if it is one; with ``+`` if it has changes."""


class TrialResult(StrictModel):
    """``trial.json``: one attempt at a trial.

    Attributes:
        trial: What was asked.
        state: complete or failed.
        failure: Why it failed; None if it did not.
        subset: Facts of the training subset; None if the attempt failed before it was drawn.
        parameters: Number of trainable numbers of the model, head included.
        backbone_parameters: The same without the head.
        steps: Optimiser steps of the whole trial.
        best_step: Step whose weights were evaluated.
        best_value: Validation value of the primary metric at that step.
        still_rising: Whether validation was still improving when training stopped (the best of the last third of the
            evaluations is better than the best of those before, by more than delta 0.002); None with fewer than 3.
        loss: Mean training loss of the last evaluation interval.
        timing: Seconds.
        environment: Where it ran.
        started_at: Unix seconds.
        finished_at: Unix seconds.
        resumed_from: Step of the checkpoint this attempt continued from, 0 if from the start.
    """

    trial: ResolvedTrial
    state: State
    failure: Failure | None = None
    subset: SubsetFacts | None = None
    parameters: int | None = None
    backbone_parameters: int | None = None
    steps: int | None = None
    best_step: int | None = None
    best_value: float | None = None
    still_rising: bool | None = None
    loss: float | None = None
    timing: Timing | None = None
    environment: Environment | None = None
    started_at: float
    finished_at: float
    resumed_from: int = 0
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further derived facts; nothing reads them but people."""

    @property
    def leakage(self) -> LeakageFacts:
        """What is known of images on both sides of an evaluation; empty for trials that were recorded without."""
        return self.trial.leakage or LeakageFacts()
