"""Hand-built attempts for tests of the record and of what reads it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from dashboards import tracking
from orchestrator.record import Record
from search_spaces.amounts import Amount, Seed
from search_spaces.names import FailureClass, Role, State
from search_spaces.protocol import Protocol
from search_spaces.results import Environment, Failure, SubsetFacts, Timing, TrialResult
from search_spaces.study import CheckpointSource, Normalisation, RandomSource, Study
from search_spaces.trial import ResolvedScale, ResolvedSource, ResolvedTask, ResolvedTrial, Workspace
from trainables.storage import Storage

STARTED_AT = 1_700_000_000.0
LABELS = {"binary": ("tumour",), "multilabel": ("effusion", "nodule"), "multiclass": ("bcc", "mel", "nv")}


def make_study(name: str = "skin", **changes: Any) -> Study:
    """A small study: one scale, two sources, two amounts, one task, two seeds."""
    raw: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "axes": {
            "model_scale": "resnet20",
            "pretraining_source": ["random", "natural"],
            "data_fraction": [0.05, {"patients": 9}],
            "task": "ham10000",
        },
        "seeds": 2,
        "sources": {"natural": {"by_scale": {"resnet20": {"file": "/home/ann/weights/cifar.th", "drop": ["linear"]}}}},
        "tasks": {
            "ham10000": {
                "manifest": "ham10000",
                "primary": "auc_macro",
                "evaluate": {"head_neck": {"where": {"localization": ["face", "neck"]}, "held_out": True}},
            }
        },
    }
    return Study.parse({**raw, **changes}, "fixture")


def make_trial(
    *,
    study: str = "skin",
    source: str = "natural",
    amount: Any = 0.05,
    seed: int = 0,
    attempt: str = "a0",
    kind: str = "multiclass",
    role: Role = Role.TARGET,
    **changes: Any,
) -> ResolvedTrial:
    """A resolved trial; its ids follow from source, amount and seed."""
    amount = Amount.model_validate(amount)
    axes = {"model_scale": "resnet20", "pretraining_source": source, "data_fraction": amount.label, "task": "ham10000"}
    cell_id = hashlib.sha256("|".join(axes.values()).encode()).hexdigest()[:16]
    trial_id = hashlib.sha256(f"{cell_id}{seed}".encode()).hexdigest()[:16]
    weights = RandomSource() if source == "random" else CheckpointSource(file="/home/ann/weights/cifar.th")
    made = ResolvedTrial(
        trial_id=trial_id,
        cell_id=cell_id,
        attempt_id=f"{trial_id}-{attempt}",
        study=study,
        role=role,
        axes=axes,
        seed=Seed(subset=seed, init=seed),
        scale=ResolvedScale(name="resnet20", factory="mynets:resnet20", input_size=32, ladder="cifar"),
        source=ResolvedSource(
            name=source,
            weights=weights,
            content=None if source == "random" else "1" * 64,
            normalise=Normalisation.model_validate("imagenet"),
        ),
        task=ResolvedTask(
            name="ham10000",
            manifest="ham10000",
            manifest_hash="b" * 16,
            kind=kind,
            labels=LABELS[kind],
            primary="auc" if kind == "binary" else "auc_macro",
        ),
        amount=amount,
        protocol=Protocol(),
        workspace=Workspace(
            home="/home/ann/.scalecurves", storage="/home/ann/storage", import_paths=("/home/ann/nets",)
        ),
    )
    return made.model_copy(update=changes)


def make_result(trial: ResolvedTrial | None = None, *, started_at: float = STARTED_AT, **changes: Any) -> TrialResult:
    """A complete attempt of 20 seconds."""
    trial = trial or make_trial()
    result = TrialResult(
        trial=trial,
        state=State.COMPLETE,
        subset=SubsetFacts(
            subset_hash="5" * 16,
            order_hash="6" * 16,
            images=120,
            patients=80,
            forced_patients=1,
            positives=dict.fromkeys(trial.task.labels, 40),
            negatives=dict.fromkeys(trial.task.labels, 80),
            pool_images=2400,
            pool_patients=1500,
            val_images=300,
            val_patients=200,
            patients_known=True,
        ),
        parameters=270_000,
        backbone_parameters=269_000,
        steps=300,
        best_step=240,
        best_value=0.81,
        still_rising=False,
        loss=0.4,
        timing=Timing(total_s=20.0, setup_s=1.0, train_s=15.0, evaluate_s=4.0, samples_per_s=640.0),
        environment=Environment(host="node1", device="cpu", ranks=1, versions={"torch": "2.15.0"}, commit="abc123+"),
        started_at=started_at,
        finished_at=started_at + 20,
    )
    return result.model_copy(update=changes)


def make_failure(
    trial: ResolvedTrial | None = None,
    *,
    failure_class: FailureClass = FailureClass.DIVERGENCE,
    message: str = "cannot read '/data/Jane Doe/scan 1.png'",
    public_message: str = "cannot read an image",
    started_at: float = STARTED_AT,
) -> TrialResult:
    """A failed attempt whose terminal message names a patient."""
    failure = Failure(
        failure_class=failure_class,
        message=message,
        public_message=public_message,
        step=17,
        detail="Traceback ... /data/Jane Doe/scan 1.png",
    )
    return TrialResult(
        trial=trial or make_trial(attempt="f0"),
        state=State.FAILED,
        failure=failure,
        started_at=started_at,
        finished_at=started_at + 5,
    )


def write_predictions(path: Path, kind: str = "multiclass", *, images: int = 60, seed: int = 0, **columns: Any) -> None:
    """A predictions file with informative logits; ``columns`` replace columns."""
    rng = np.random.default_rng(seed)
    truth_rng = np.random.default_rng(7)  # all trials have the same images
    labels = LABELS[kind]
    table: dict[str, Any] = {
        "image_id": [f"{k:08x}" for k in range(images)],
        "patient_id": [f"p{k // 2:07x}" for k in range(images)],
        "site": ["DU" if k % 3 else "HT" for k in range(images)],
        "sex": ["F" if k % 2 else None for k in range(images)],
        "g_scanner": ["a" if k % 4 else "b" for k in range(images)],
    }
    if kind == "multiclass":
        y = truth_rng.integers(0, len(labels), images)
        table["y"] = pa.array(y, pa.int16())
        truth = np.eye(len(labels))[y]
    else:
        truth = (truth_rng.random((images, len(labels))) < 0.4).astype(np.float32)
        table |= {f"y_{label}": truth[:, k] for k, label in enumerate(labels)}
    logits = (truth * 1.5 + rng.normal(size=truth.shape)).astype(np.float32)
    table |= {f"z_{label}": logits[:, k] for k, label in enumerate(labels)}
    made = pa.table({**table, **columns})
    made = made.replace_schema_metadata({"kind": kind, "labels": json.dumps(labels), "trial_id": "x"})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path)


def write_folder(folder: Path, result: TrialResult, sets: tuple[str, ...] = ("test", "head_neck")) -> Path:
    """All the files that a complete attempt leaves, weights included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(result.model_dump_json())
    receipt = {"file": "/home/ann/weights/cifar.th", "matched": ["conv1.weight"], "dropped": ["linear.weight"]}
    (folder / "receipt.json").write_text(json.dumps(receipt))
    steps = np.arange(30, 301, 30)
    history = {"step": steps, "loss": np.linspace(1.5, 0.4, 10), "val": 0.5 + 0.31 * np.sin(steps / 160)}
    pq.write_table(pa.table(history), folder / "history.parquet")
    for k, name in enumerate(sets):
        seed = result.trial.seed.subset * 100 + k
        write_predictions(folder / "predictions" / f"{name}.parquet", result.trial.task.kind, seed=seed)
    (folder / "weights.safetensors").write_bytes(b"weights" * 100)
    return folder


def publish(storage: Storage, result: TrialResult, sets: tuple[str, ...] = ("test", "head_neck")) -> TrialResult:
    """Put a complete attempt into the spool, as a trial does."""
    with storage.staging() as staged:
        write_folder(staged / "result", result, sets)
        storage.publish(staged / "result", result.trial.trial_id)
    return result


def client_of(record: Record) -> MlflowClient:
    return MlflowClient(record.uri)


def runs_of(record: Record, filter_string: str = "tags.`sc.trial_id` != ''") -> list[Any]:
    return tracking.search_all(client_of(record), record.experiment_id, filter_string)


def away(*args: Any, **kwargs: Any) -> Any:
    raise MlflowException("no route to host", error_code=TEMPORARILY_UNAVAILABLE)
