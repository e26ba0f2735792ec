"""A grid of linear probes against one scikit-learn fit per combination: ``python -m benchmarks.probe [--quick]``.

Features of 2,000 made images (two textures; ResNet-18 at 64 pixels with random weights, 512 features) are computed
once. Eight fractions (nested), 10 seeds and 8 penalties are then fitted by ``trainables.logistic.fit_logistic``, and
one by one by ``sklearn.linear_model.LogisticRegression`` (L-BFGS) on the same features, standardised by the same
subsets. The two take turns fraction by fraction. Both give the logits of all images. ``--classes 5`` fits a softmax
over five textures instead, ``--quick`` 3 fractions, 2 seeds, 500 images.

Both minimise the same objective. scikit-learn's tolerance is 1e-10, the tightest that its L-BFGS can make use of; with
its default of 1e-4 it is faster (``ratio_default_tolerance``) and farther off. What is far off is told by a third
solution of the first seed's subsets: scikit-learn's Newton-Cholesky to 1e-12. ``max_logit_difference`` is ours from it,
``sklearn_logit_difference`` and ``default_tolerance_logit_difference`` are those of the other two. All seeds draw the
same images at 100 %, which is solved once here and ten times there: ``ratio_without_full`` leaves that fraction out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from search_spaces.normalisation import Normalisation
from search_spaces.protocol import Protocol
from search_spaces.trial import ResolvedScale
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.evaluation import predict
from trainables.feature_layer import FeatureLayer
from trainables.groups import SingleProcess
from trainables.logistic import fit_logistic
from trainables.models import build_model
from trainables.module_setup import is_channels_last, prepare
from trainables.phantom_images import TEXTURES, natural_images

Array = NDArray[np.float64]
Features = NDArray[np.float32]
Classes = NDArray[np.int64]

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
SEEDS = 10
IMAGES = 2000
QUICK_FRACTIONS, QUICK_SEEDS, QUICK_IMAGES = (0.1, 0.3, 1.0), 2, 500
TOLERANCE, DEFAULT_TOLERANCE, EXACT_TOLERANCE = 1e-10, 1e-4, 1e-12
TARGETS = {"ratio": 20.0, "max_logit_difference": 1e-3}
SIDE = 64


@dataclass(frozen=True)
class Side:
    """What one way to fit took, and the centred logits it gave: (fits, images, classes)."""

    seconds: float
    logits: Array


def features(y: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """(N, D) and the seconds of the pass."""

    @dataclass(frozen=True)
    class Images:
        images: NDArray[np.uint8]
        positions: NDArray[np.int64]
        targets: NDArray[np.int64]

    device = torch.device("cpu")
    grey = natural_images(np.random.default_rng(0), y)
    data = Images(np.repeat(grey[..., None], 3, axis=3), np.arange(len(y)), y)
    built = build_model(ResolvedScale(name="resnet18", factory="resnet18", input_size=SIDE), 2, seed=0)
    dtype = prepare(built.module, SIDE, device).dtype
    normalise = Normalisation.model_validate("imagenet")
    transform = EvaluationTransform(SIDE, normalise, device, dtype, is_channels_last(built.module), crop="whole")
    started = time.perf_counter()
    found = predict(
        FeatureLayer(built.module, built.head), ImageFeed(data, device, dtype), transform, SingleProcess(device), 64
    )
    assert found is not None
    return found, time.perf_counter() - started


def subsets(y: NDArray[np.int64], fraction: float, seeds: int) -> list[NDArray[np.int64]]:
    """Nested, stratified prefixes, one per seed; ascending rows."""
    chosen = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(y))
        place = np.empty(len(y))
        for k in np.unique(y):
            members = order[y[order] == k]
            place[members] = (np.arange(len(members)) + 0.5) / len(members)
        chosen.append(np.sort(np.argsort(place, kind="stable")[: round(fraction * len(y))]))
    return chosen


def centred(logits: Array) -> Array:
    """(fits, images, classes) less their mean over classes; one logit of two classes as (-z/2, z/2)."""
    if logits.ndim == 2:
        return np.stack([-logits / 2, logits / 2], axis=2)
    return np.asarray(logits - logits.mean(2, keepdims=True))


def ours(x: Features, y: Classes, rows: list[Classes], penalties: list[float]) -> Side:
    """All subsets and penalties at once."""
    started = time.perf_counter()
    pool = torch.from_numpy(x).double()
    fits = fit_logistic(pool, y, int(y.max()) + 1, rows, penalties)
    logits = np.concatenate([fits.logits(pool, at).numpy() for at in range(len(rows))])
    seconds = time.perf_counter() - started
    if not fits.converged.all():
        raise RuntimeError(f"{(~fits.converged).sum()} of {fits.converged.size} fits did not converge")
    return Side(seconds, centred(logits))


def theirs(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    rows: list[NDArray[np.int64]],
    penalties: list[float],
    tolerance: float,
    solver: str = "lbfgs",
) -> Side:
    """One fit after the other."""
    found, seconds = [], 0.0
    for subset in rows:
        started = time.perf_counter()
        scaler = StandardScaler().fit(x[subset].astype(np.float64))
        scaled = scaler.transform(x.astype(np.float64))
        train = scaled[subset]
        for c in penalties:
            model = LogisticRegression(C=c, tol=tolerance, max_iter=10_000, solver=solver).fit(train, y[subset])
            found.append(model.decision_function(scaled))
        seconds += time.perf_counter() - started
    logits = np.stack(found)
    return Side(seconds, centred(logits))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 fractions, 2 seeds, 500 images")
    parser.add_argument("--classes", type=int, default=2, choices=range(2, len(TEXTURES) + 1))
    given = parser.parse_args()
    quick, classes = given.quick, given.classes
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    fractions, seeds, images = (QUICK_FRACTIONS, QUICK_SEEDS, QUICK_IMAGES) if quick else (FRACTIONS, SEEDS, IMAGES)
    penalties = list(Protocol(base="linear_probe").inverse_penalties or ())
    y = np.arange(images, dtype=np.int64) % classes
    x, pass_s = features(y)
    print(f"{images} images, {x.shape[1]} features in {pass_s:.1f} s; {classes} classes; {os.cpu_count()} CPUs")
    print("fraction images   ours s  sklearn s  default s      ours off   sklearn off   default off")
    taken, off = [], []
    for fraction in fractions:
        rows = subsets(y, fraction, seeds)
        sides = (
            ours(x, y, rows, penalties),
            *(theirs(x, y, rows, penalties, tolerance) for tolerance in (TOLERANCE, DEFAULT_TOLERANCE)),
        )
        exact = theirs(x, y, rows[:1], penalties, EXACT_TOLERANCE, "newton-cholesky").logits
        taken.append([side.seconds for side in sides])
        off.append([float(np.abs(side.logits[: len(penalties)] - exact).max()) for side in sides])
        times = "".join(f"{seconds:10.2f}" for seconds in taken[-1])
        print(f"{fraction:8g} {len(rows[0]):6d}{times}" + "".join(f"{gap:14.1e}" for gap in off[-1]), flush=True)
    fit_s, sklearn_s, default_s = (sum(column) for column in zip(*taken, strict=True))
    partial = [sum(column) for column in zip(*taken[:-1], strict=True)]
    difference, sklearn_difference, default_difference = (
        float(f"{max(column):.2g}") for column in zip(*off, strict=True)
    )
    answer = {
        "benchmark": "probe",
        "ratio": round(sklearn_s / fit_s, 1),
        "max_logit_difference": difference,
        "targets": TARGETS,
        "fits": len(fractions) * seeds * len(penalties),
        "fit_s": round(fit_s, 2),
        "sklearn_s": round(sklearn_s, 2),
        "ratio_without_full": round(partial[1] / partial[0], 1),
        "ratio_default_tolerance": round(default_s / fit_s, 1),
        "sklearn_logit_difference": sklearn_difference,
        "default_tolerance_logit_difference": default_difference,
        "feature_pass_s": round(pass_s, 2),
        "features": x.shape[1],
        "classes": classes,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
