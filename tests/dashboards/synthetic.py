"""A finished study without training: predictions drawn from a model whose truths are known.

Scores are binormal, with an effect of the patient that all sources share, so that a cell's AUC rises with its signal.
Planted:

- ``natural`` adds to the signal at the smallest amount, less at the middle one, nothing with all labels;
- ``natural_meanvar`` adds nothing anywhere;
- patients with ``sex`` F have a weaker signal on every set (a subgroup deficit);
- the shifted set of each task has a weaker signal for everyone;
- the larger scale has a slightly stronger signal, of no matter to the contrasts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from dashboards.evidence import Evidence, target_results
from dashboards.planned import make_plan
from dashboards.prediction_sets import PredictionSet
from dashboards.tables import Tables, build_tables
from search_spaces.names import AXES
from search_spaces.study import Study

SCALES = {"small": 50_000, "large": 400_000}
SOURCES = ("random", "natural", "natural_meanvar")
FRACTIONS = {"0.05": 45, "0.2": 180, "1": 900}
GAIN = {"0.05": 0.9, "0.2": 0.4, "1": 0.0}
"""What ``natural`` adds to the signal."""
FEMALE_DEFICIT = 0.9
SHIFT = 0.5
TASKS = {
    "skin": ("multiclass", ("nevus", "melanoma", "keratosis"), "clinic_b"),
    "brain": ("binary", ("tumour",), "site_b"),
}


@dataclass(frozen=True, kw_only=True)
class SyntheticStudy:
    """What a reader of the record would get."""

    study: Study
    results: pd.DataFrame
    predictions: dict[tuple[str, str], PredictionSet]
    failures: pd.DataFrame


def make_study(*, seeds: int = 3, **changes: object) -> Study:
    """The study file behind the synthetic record."""
    tasks = {
        name: {
            "manifest": name,
            "primary": "auc" if kind == "binary" else "auc_macro",
            "evaluate": {shifted: {"manifest": f"{name}_elsewhere"}},
        }
        for name, (kind, _, shifted) in TASKS.items()
    }
    written = {
        "name": "synthetic",
        "axes": {
            "model_scale": list(SCALES),
            "pretraining_source": list(SOURCES),
            "data_fraction": [float(f) for f in FRACTIONS],
            "task": list(TASKS),
        },
        "seeds": seeds,
        "scales": {name: {"factory": "nets:net", "input_size": 32, "ladder": "nets"} for name in SCALES},
        "sources": {
            "natural": {
                "by_scale": {name: {"file": f"/weights/{name}.pth", "contents": ["photographs"]} for name in SCALES}
            },
            "natural_meanvar": {"transform": "mean_var", "of": "natural"},
        },
        "tasks": tasks,
        "statistics": {"baseline": "random", "groups": ["sex"], "delta": 0.01},
    }
    return Study.parse(written | changes, "synthetic study")


def make_synthetic(*, seeds: int = 3, patients: int = 150, null: bool = False, seed: int = 0) -> SyntheticStudy:
    """Every trial of the study, complete.

    Args:
        seeds: Trials per cell.
        patients: Patients of each evaluation set, two images each.
        null: No planted differences between sources.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    rows, predictions = [], {}
    for task, (kind, labels, shifted) in TASKS.items():
        people = {name: _people(kind, labels, task, name, patients, rng) for name in ("test", shifted)}
        for scale, source, fraction, s in _trials(seeds):
            trial_id = hashlib.sha256(f"{task}{scale}{source}{fraction}{s}".encode()).hexdigest()[:16]
            gain = GAIN[fraction] if source == "natural" and not null else 0.0
            signal = 0.7 + 0.8 * np.log10(FRACTIONS[fraction] / 45) + gain + (0.15 if scale == "large" else 0.0)
            noise = rng.normal(0, 0.05)
            for name, crowd in people.items():
                predictions[trial_id, name] = _predict(crowd, signal + noise - SHIFT * (name != "test"), rng)
            rows.append(_row(trial_id, task, scale, source, fraction, s, kind, list(people)))
    results = pd.DataFrame(rows)
    failures = pd.DataFrame(columns=["trial_id", "role", *AXES, "seed", "failure_class", "message", "step", "done"])
    return SyntheticStudy(study=make_study(seeds=seeds), results=results, predictions=predictions, failures=failures)


def evidence_of(synthetic: SyntheticStudy, **changes: object) -> Evidence:
    """The evidence of a synthetic study, as if read from a record; ``changes`` replace its fields."""
    given: dict[str, Any] = {
        "name": "synthetic",
        "results": target_results(synthetic.results),
        "predictions": synthetic.predictions,
        "failures": synthetic.failures,
        "study": synthetic.study,
        "plan": make_plan(synthetic.study, None),
    }
    return Evidence(**(given | changes))


def failure(**fields: object) -> dict[str, Any]:
    """A row of ``load_failures``."""
    row: dict[str, Any] = {
        "trial_id": "f" * 16,
        "role": "target",
        "model_scale": "small",
        "pretraining_source": "natural",
    }
    row |= {"data_fraction": "0.05", "task": "skin", "seed": "0", "failure_class": "divergence"}
    return row | {"message": "loss is not finite at step 12", "step": 12, "done": False} | fields


@cache
def whole_study() -> SyntheticStudy:
    """The synthetic study, made once."""
    return make_synthetic()


@cache
def whole_tables() -> Tables:
    """Its tables, made once; do not change them."""
    return build_tables(evidence_of(whole_study()))


@dataclass(frozen=True, kw_only=True)
class _Crowd:
    name: str
    kind: str
    labels: tuple[str, ...]
    y: np.ndarray
    patient: np.ndarray
    image: np.ndarray
    sex: np.ndarray
    effect: np.ndarray


def _people(kind, labels, task, name, patients, rng) -> _Crowd:
    who = np.repeat(np.arange(patients), 2)
    classes = max(len(labels), 2)
    y_patient = rng.permutation(np.arange(patients) % classes)
    y = y_patient[who]
    sex = np.where(rng.permutation(patients) % 2 == 0, "F", "M").astype(object)
    return _Crowd(
        name=name,
        kind=kind,
        labels=labels,
        y=y.astype(np.int64) if kind == "multiclass" else y[:, None].astype(np.float32),
        patient=np.array([f"{task}-{name}-{p:04d}" for p in who]),
        image=np.array([f"{task}-{name}-{i:05d}" for i in range(len(who))]),
        sex=sex[who],
        effect=rng.normal(0, 0.4, (patients, classes))[who],
    )


def _predict(crowd: _Crowd, signal: float, rng: np.random.Generator) -> PredictionSet:
    own = np.maximum(signal - FEMALE_DEFICIT * (crowd.sex == "F"), 0.0)
    if crowd.kind == "multiclass":
        truth = crowd.y[:, None] == np.arange(len(crowd.labels))
        logits = own[:, None] * truth + crowd.effect + rng.normal(0, 0.7, truth.shape)
    else:
        logits = own[:, None] * (crowd.y - 0.5) + crowd.effect[:, :1] + rng.normal(0, 0.7, crowd.y.shape)
    return PredictionSet(
        name=crowd.name,
        kind=crowd.kind,
        labels=crowd.labels,
        y=crowd.y,
        logits=logits.astype(np.float32),
        image=crowd.image,
        patient=crowd.patient,
        site=None,
        groups={"sex": crowd.sex},
        shared_patients=0,
    )


def _trials(seeds: int):
    return [(sc, so, f, s) for sc in SCALES for so in SOURCES for f in FRACTIONS for s in range(seeds)]


def _row(trial_id, task, scale, source, fraction, s, kind, sets) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "cell_id": hashlib.sha256(f"{task}{scale}{source}{fraction}".encode()).hexdigest()[:16],
        "role": "target",
        "model_scale": scale,
        "pretraining_source": source,
        "data_fraction": fraction,
        "task": task,
        "seed_subset": s,
        "seed_init": s,
        "kind": kind,
        "primary": "auc" if kind == "binary" else "auc_macro",
        "sets": sets,
        "ladder": "nets",
        "parameters": SCALES[scale],
        "n_images": FRACTIONS[fraction],
        "n_patients": FRACTIONS[fraction] // 2,
        "n_forced_patients": 1 if fraction == "0.05" else 0,
        "n_val_images": 100,
        "n_val_patients": 50,
        "pool_images": 900,
        "pool_patients": 450,
        "seed": str(s),
        "patients_known": True,
        "still_rising": False,
        "subset_hash": f"{task}{fraction}{s}",
        "order_hash": f"{task}{s}",
        "near_copies": dict.fromkeys(sets, 0),
        "train_s": 3.0,
        "seconds": 4.0,
        "device": "cpu",
    }
