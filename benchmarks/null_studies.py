"""Studies in which nothing is to be found, put through the whole decision procedure, for ``benchmarks.coverage``.

Each returns whether the study made a false claim. ``saving_source`` is the counterpart with a true saving: a procedure
that never claims anything would pass all the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.simulated_studies import SHIFT, Binormal, slopes
from dashboards.statistics import (
    Influence,
    LabelEfficiency,
    Labels,
    SeedKey,
    adjust_p_values,
    adjust_study,
    classify,
    compare_with_best,
    contrast,
    index_patients,
    label_efficiency,
    patient_influence,
)

NullStudy = Callable[[np.random.Generator], bool]

TASKS = (
    Binormal(n_patients=200, seed_sd=0.15),
    Binormal(n_patients=150, seed_sd=0.03, source_sd=0.5, image_sd=0.4, run_sd=0.2),
    Binormal(n_patients=300, seed_sd=0.06, images=1),
)
DELTA = 0.01
ALPHA = 0.05

FRACTIONS = (0.05, 0.1, 0.2, 0.5, 1.0)
PLATEAU = (0.7, 0.95, 1.1, 1.18, 1.2)
"""Slopes of a baseline that has nearly levelled off: AUC 0.69, 0.75, 0.78, 0.796, 0.80."""


def identical_sources(seeds: int) -> NullStudy:
    """Three tasks, two sources and a baseline that are all alike, two fractions: is any source said to help or hurt?"""

    def study(rng: np.random.Generator) -> bool:
        rows = []
        for task, design in enumerate(TASKS):
            for fraction, shift in ((0.2, 1.0), (1.0, SHIFT)):
                images = design.evaluation_set(rng)
                base, *sources = (images.cell(slopes(shift, design.seed_sd, seeds, rng), rng) for _ in range(3))
                for number, source in enumerate(sources):
                    estimate = contrast(source, base)
                    row = {"task": task, "set": "test", "primary": True, "p": estimate.p, "estimate": estimate}
                    rows.append(row | {"pretraining_source": number, "data_fraction": fraction})
        table = adjust_study(pd.DataFrame(rows))
        verdicts = [classify(e, p, DELTA) for e, p in zip(table["estimate"], table["p_adjusted"], strict=True)]
        return any(word == "hurts" or word.startswith("helps") for word in verdicts)

    return study


def plateau(seeds: int, delta: float) -> NullStudy:
    """Two identical sources on a curve that has levelled off: is one said to save labels?"""

    def study(rng: np.random.Generator) -> bool:
        return _ladder(PLATEAU, PLATEAU, seeds, delta, rng).saving is not None

    return study


def just_short(seeds: int) -> NullStudy:
    """A source that is good with few labels but never gets nearer than delta to the full baseline: is it said to?"""
    design = TASKS[0]
    goal = design.auc(SHIFT) - DELTA
    low, high = 0.0, SHIFT
    for _ in range(60):  # bisection for the slope whose AUC is the goal
        middle = (low + high) / 2
        low, high = (middle, high) if design.auc(middle) < goal else (low, middle)

    def study(rng: np.random.Generator) -> bool:
        return _ladder((low,) * len(FRACTIONS), PLATEAU, seeds, DELTA, rng).reached is not None

    return study


def saving_source(seeds: int) -> NullStudy:
    """A source that truly reaches the full baseline with a tenth of the labels: is a saving found?"""

    def study(rng: np.random.Generator) -> bool:
        return _ladder((1.1, 1.4, 1.5, 1.5, 1.5), PLATEAU, seeds, DELTA, rng).saving is not None

    return study


def _ladder(
    source: tuple[float, ...], baseline: tuple[float, ...], seeds: int, delta: float, rng: np.random.Generator
) -> LabelEfficiency:
    design = TASKS[0]
    images = design.evaluation_set(rng)
    a, b = (
        {
            f"{fraction:g}": images.cell(slopes(shift, design.seed_sd, seeds, rng), rng)
            for fraction, shift in zip(FRACTIONS, curve, strict=True)
        }
        for curve in (source, baseline)
    )
    labels = {f"{fraction:g}": Labels(images=1000 * fraction, patients=500 * fraction) for fraction in FRACTIONS}
    return label_efficiency(a, b, labels, delta)


def harmless_source(seeds: int) -> NullStudy:
    """A source like the baseline in each of four groups: is one of them said to be harmed (Holm over groups)?"""
    sizes = (400, 250, 150, 120)

    def study(rng: np.random.Generator) -> bool:
        design = Binormal(n_patients=sum(sizes), seed_sd=0.1, source_sd=0.3)
        images = design.evaluation_set(rng)
        cells = [images.logits(slopes(SHIFT, design.seed_sd, seeds, rng), rng) for _ in range(2)]
        group = np.repeat(np.arange(len(sizes)), np.array(sizes) * design.images)
        estimates = []
        for number in range(len(sizes)):
            rows = group == number
            index = index_patients(images.index.codes[rows])
            sides: list[dict[SeedKey, Influence]] = [
                {s: patient_influence("auc", "binary", ["d"], images.y[rows], z[rows], index) for s, z in cell.items()}
                for cell in cells
            ]
            estimates.append(contrast(*sides))
        adjusted = adjust_p_values([e.p for e in estimates])
        return any(p < ALPHA and e.high < 0 for p, e in zip(adjusted, estimates, strict=True))

    return study


def lost_best(seeds: int) -> NullStudy:
    """Four cells, one of them best by a little: is it left out of the set of those that may be the best?"""

    def study(rng: np.random.Generator) -> bool:
        design = TASKS[1]
        images = design.evaluation_set(rng)
        cells = {
            name: images.cell(slopes(shift, design.seed_sd, seeds, rng), rng)
            for name, shift in {"best": 1.22, "second": 1.2, "third": 1.2, "fourth": 1.1}.items()
        }
        compared = compare_with_best(cells, 0.0).compared
        return any(cell.name == "best" and not cell.may_be_best for cell in compared)

    return study
