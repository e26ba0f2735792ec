"""A finished study whose truths about harm, probabilities, speed and shift are planted; no training.

Scores are binormal with unit variance, so that ``d * x`` is the calibrated logit of a signal ``d``. Planted, unless
``null``:

- ``natural`` weakens the signal of patients with ``sex`` F on every set and strengthens that of all others;
- its logits are three times too large (validation says so, too);
- it reaches what the baseline reaches in a quarter of the steps;
- the shifted set has a weaker signal, less so for ``natural``.

``same`` is another name for the baseline's distribution, drawn anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from dashboards.evidence import Evidence, target_results
from dashboards.histories import History
from dashboards.planned import make_plan
from dashboards.prediction_sets import PredictionSet
from dashboards.tables import Tables, build_tables
from search_spaces.names import AXES
from search_spaces.study import Study

SOURCES = ("random", "natural", "same")
FRACTIONS = {"0.1": 100, "1": 1000}
SIGNAL = {"0.1": 1.4, "1": 2.0}
TOO_LARGE = 3.0
STEPS = np.arange(50, 1001, 50, dtype=float)
KINDS = {"binary": ("tumour",), "multilabel": ("opacity", "nodule"), "multiclass": ("nevus", "melanoma", "keratosis")}


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Images of one set."""

    name: str
    patient: np.ndarray
    truth: np.ndarray
    sex: np.ndarray
    age: np.ndarray


def make_study(kind: str, seeds: int, **statistics: object) -> Study:
    """The study file behind the planted record."""
    return Study.parse(
        {
            "name": "planted",
            "axes": {
                "model_scale": ["small"],
                "pretraining_source": list(SOURCES),
                "data_fraction": [float(f) for f in FRACTIONS],
                "task": ["chest"],
            },
            "seeds": seeds,
            "scales": {"small": {"factory": "nets:net", "input_size": 32, "ladder": "nets"}},
            "sources": {name: {"by_scale": {"small": {"file": f"/weights/{name}.pth"}}} for name in SOURCES[1:]},
            "tasks": {
                "chest": {
                    "manifest": "chest",
                    "primary": "auc" if kind == "binary" else "auc_macro",
                    "evaluate": {"elsewhere": {"manifest": "chest_elsewhere"}},
                }
            },
            "statistics": {"baseline": "random", "groups": ["sex", "age_band"], "delta": 0.01} | statistics,
        },
        "planted study",
    )


def make_planted(
    *,
    kind: str = "binary",
    seeds: int = 5,
    patients: int = 300,
    null: bool = False,
    validation: bool = True,
    seed: int = 0,
    **statistics: object,
) -> Evidence:
    """The evidence of the study, as if read from a record.

    Args:
        kind: Of the task.
        seeds: Trials per cell.
        patients: Of each evaluation set, two images each.
        null: Plant nothing: all sources are alike.
        validation: Whether there are validation predictions.
        seed: Of everything random.
        statistics: Fields of the study's statistics.
    """
    rng = np.random.default_rng(seed)
    crowds = {name: _crowd(kind, name, patients, rng) for name in ("test", "elsewhere", "val")}
    rows, predictions, kept, histories = [], {}, {}, {}
    effects = {name: rng.normal(0, 0.5, (len(np.unique(c.patient)), c.truth.shape[1])) for name, c in crowds.items()}
    for source in SOURCES:
        for fraction, images in FRACTIONS.items():
            for s in range(seeds):
                trial = hashlib.sha256(f"{source}{fraction}{s}".encode()).hexdigest()[:16]
                planted = source == "natural" and not null
                wobble = rng.normal(0, 0.04)
                for name, crowd in crowds.items():
                    made = _predict(kind, crowd, SIGNAL[fraction] + wobble, planted, effects[name], rng)
                    if name == "val":
                        kept[trial] = made
                    else:
                        predictions[trial, name] = made
                histories[trial] = _history(planted, rng)
                rows.append(_row(trial, source, fraction, s, images, kind, crowds["test"]))
    study = make_study(kind, seeds, **statistics)
    return Evidence(
        name="planted",
        results=target_results(pd.DataFrame(rows)),
        predictions=predictions,
        failures=pd.DataFrame(columns=["trial_id", "role", *AXES, "seed", "failure_class", "message", "step", "done"]),
        study=study,
        plan=make_plan(study, None),
        validation=kept if validation else {},
        histories=histories,
    )


@cache
def planted(kind: str = "binary", *, null: bool = False, seed: int = 0) -> tuple[Evidence, Tables]:
    """The evidence and its tables, made once; do not change them."""
    evidence = make_planted(kind=kind, null=null, seed=seed)
    return evidence, build_tables(evidence)


def _crowd(kind: str, name: str, patients: int, rng: np.random.Generator) -> Crowd:
    who = np.repeat(np.arange(patients), 2)
    labels = KINDS[kind]
    if kind == "multiclass":
        truth = np.eye(len(labels))[rng.permutation(np.arange(patients) % len(labels))]
    else:
        truth = np.stack([rng.permutation(np.arange(patients) % 2) for _ in labels], axis=1).astype(float)
    sex = np.where(rng.permutation(patients) % 2 == 0, "F", "M").astype(object)
    age = np.array(["0-40", "40-60", "60+"], dtype=object)[rng.permutation(patients) % 3]
    age[rng.permutation(patients)[:5]] = None  # too few to be shown
    return Crowd(
        name=name,
        patient=np.array([f"{name}-{p:04d}" for p in who]),
        truth=truth[who],
        sex=sex[who],
        age=age[who],
    )


def _predict(
    kind: str, crowd: Crowd, signal: float, natural: bool, effect: np.ndarray, rng: np.random.Generator
) -> PredictionSet:
    shift = (0.2 if natural else 0.7) if crowd.name == "elsewhere" else 0.0
    own = np.full(len(crowd.patient), signal - shift)
    if natural:
        own = np.where(crowd.sex == "F", own - 0.9, own + 0.3)
    _, codes = np.unique(crowd.patient, return_inverse=True)
    x = own[:, None] * (crowd.truth - 0.5) + effect[codes] + rng.normal(0, np.sqrt(0.75), crowd.truth.shape)
    logits = own[:, None] * x * (TOO_LARGE if natural else 1.0)
    y = crowd.truth.argmax(axis=1).astype(np.int64) if kind == "multiclass" else crowd.truth.astype(np.float32)
    return PredictionSet(
        name=crowd.name,
        kind=kind,
        labels=KINDS[kind],
        y=y,
        logits=logits.astype(np.float32),
        image=np.array([f"{p}-{i}" for i, p in enumerate(crowd.patient)]),
        patient=crowd.patient,
        groups={"sex": crowd.sex, "age_band": crowd.age},
        set_hash=crowd.name,
    )


def _history(natural: bool, rng: np.random.Generator) -> History:
    scale = 60.0 if natural else 240.0
    values = 0.5 + 0.35 * (1 - np.exp(-STEPS / (scale * rng.uniform(0.9, 1.1)))) + rng.normal(0, 0.001, len(STEPS))
    return History(steps=STEPS, values=values, seconds=0.1 * STEPS)


def _row(trial: str, source: str, fraction: str, s: int, images: int, kind: str, test: Crowd) -> dict[str, object]:
    return {
        "trial_id": trial,
        "cell_id": f"{source}{fraction}",
        "role": "target",
        "model_scale": "small",
        "pretraining_source": source,
        "data_fraction": fraction,
        "task": "chest",
        "seed": str(s),
        "seed_subset": s,
        "seed_init": s,
        "kind": kind,
        "primary": "auc" if kind == "binary" else "auc_macro",
        "sets": ["test", "elsewhere"],
        "ladder": "nets",
        "parameters": 50_000,
        "n_images": images,
        "n_patients": images // 2,
        "n_val_images": len(test.patient),
        "n_val_patients": len(test.patient) // 2,
        "patients_known": True,
        "still_rising": False,
        "subset_hash": f"{fraction}{s}",
        "order_hash": f"{s}",
        "near_copies": {"test": 0, "elsewhere": 0},
        "ranks": 1,
        "device": "cpu",
        **{f"n_positive.{label}": images / 2 if kind != "multiclass" else images / 3 for label in KINDS[kind]},
        **{f"n_negative.{label}": images / 2 if kind != "multiclass" else images * 2 / 3 for label in KINDS[kind]},
    }
