"""Seed ensembles: the mean probability over the runs of a cell, from stored logits, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.predictions import FloatArray, ensemble_logits
from dashboards.statistics.seeds import SeedKey
from search_spaces.names import Kind

OTHER_IMAGES = "predictions of other images"
OTHER_SHAPE = "another number of labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run on one evaluation set.

    Attributes:
        images: (N,) image ids, each once.
        logits: (N, L) before sigmoid or softmax.
    """

    images: ArrayLike
    logits: ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """The mean of several runs.

    Attributes:
        logits: (N, L) of the mean probability, in the order of the first member's images; NaN where a member's are not
            finite.
        members: Seeds that it is the mean of.
        left_out: Seed -> why it is not.
    """

    logits: FloatArray
    members: tuple[SeedKey, ...]
    left_out: dict[SeedKey, str]


def seed_ensemble(kind: Kind | str, runs: Mapping[SeedKey, Member]) -> Ensemble:
    """Mean probability of the runs of a cell, matched by image id.

    Runs on other images than the first, or with another number of labels, are left out and named.

    Args:
        kind: binary, multilabel, multiclass or ordinal.
        runs: Seed -> member; at least one. An ensemble of one is that run.

    Raises:
        ValueError: There is no run, or the first one's image ids repeat.
    """
    if not runs:
        raise ValueError("a seed ensemble needs at least one run")
    first = next(iter(runs.values()))
    images = np.asarray(first.images)
    if len(np.unique(images)) != len(images):
        raise ValueError("the image ids of an ensemble's first run repeat; give each image once")
    n_labels = np.asarray(first.logits).shape[-1]
    aligned: dict[SeedKey, FloatArray] = {}
    left_out: dict[SeedKey, str] = {}
    for seed, member in runs.items():
        logits = np.asarray(member.logits, dtype=np.float64)
        order = _order(np.asarray(member.images), images)
        if order is None or len(logits) != len(images):
            left_out[seed] = OTHER_IMAGES
        elif logits.ndim != 2 or logits.shape[1] != n_labels:
            left_out[seed] = OTHER_SHAPE
        else:
            aligned[seed] = logits[order]
    finite = [np.where(np.isfinite(z), z, np.nan) for z in aligned.values()]
    return Ensemble(logits=ensemble_logits(kind, finite), members=tuple(aligned), left_out=left_out)


def _order(own: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """(N,) rows of ``own`` that give ``wanted``; None if the two are not the same images."""
    if len(own) != len(wanted) or not np.array_equal(np.sort(own), np.sort(wanted)):
        return None
    return np.asarray(np.argsort(own, kind="stable")[np.argsort(np.argsort(wanted, kind="stable"))])
