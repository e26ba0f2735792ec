"""Data of reliability diagrams: observed share against probability, pooled over the seeds of a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from dashboards.blocks import Block, SetRuns
from dashboards.confidence_tables import CORRECTED, Stage
from dashboards.statistics.predictions import FloatArray

BINS = 10
"""Bins (a, b] of equal width."""


def reliability_rows(block: Block, runs: SetRuns, staged: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """Each bin of each cell, as trained and after temperature, at the amounts of the primary family.

    Over several labels all pairs of an image and a label are pooled. The interval is that of a ratio of sums over
    patients, seeds taken as they are.
    """
    if not block.primary:
        return
    for stage in staged:
        if stage.name == CORRECTED:
            continue
        codes = _pair_patients(runs, stage)
        outcome, logit = (np.concatenate([pair[i] for pair in stage.pairs], axis=1) for i in (0, 1))
        for source, positions in runs.positions().items():
            own = logit[positions]
            if own.size and np.isfinite(own).all():
                for row in _bins(expit(own), outcome[positions], codes, len(runs.design.index.ids), block.level):
                    yield {**block.coordinates(source), "set": runs.name, "stage": stage.name, **row}


def _pair_patients(runs: SetRuns, stage: Stage) -> NDArray[np.intp]:
    """(n,) patient of each pair of image and question."""
    batch = stage.batch
    columns = batch.first.columns(batch.first.class_set) if batch.labelwise else [0]
    return np.concatenate([runs.design.index.codes[~np.isnan(batch.truth[:, k])] for k in columns])


def _bins(p: FloatArray, y: FloatArray, codes: NDArray[np.intp], patients: int, level: float) -> list[dict[str, Any]]:
    place = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], p, side="left")
    z = float(norm.ppf((1 + level) / 2))
    rows = []
    p, y, place = p.ravel(), y.ravel(), place.ravel()
    for b in range(BINS):
        own = np.flatnonzero(place == b)
        if not len(own):
            continue
        outcome, patient = y[own], codes[own % len(codes)]
        share = float(outcome.mean())
        per_patient = np.bincount(patient, outcome - share, patients)
        few = int(np.count_nonzero(np.bincount(patient)))
        factor = few / (few - 1) if few > 1 else np.nan
        half = z * float(np.sqrt(factor * (per_patient @ per_patient))) / len(own)
        rows.append(
            {
                "bin": b,
                "mean_probability": float(p[own].mean()),
                "observed": share,
                "observed_low": max(0.0, share - half),
                "observed_high": min(1.0, share + half),
                "share_of_images": len(own) / p.size,
                "bin_patients": few,
            }
        )
    return rows
