"""Weighted nearest neighbours: training images that look alike vote (Wu et al. 2018, section 3.4; as in DINO)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BATCH_SIZE = 1024
"""Images whose neighbours are looked for at a time."""

FARTHEST = -1.0
"""Cosine similarity of opposite directions."""


def neighbour_logits(
    train: Tensor,
    targets: NDArray[np.generic],
    outputs: int,
    queries: Tensor,
    neighbours: Sequence[int],
    temperature: float,
) -> Tensor:
    """Logits for several numbers of neighbours.

    The k training images of the highest cosine similarity s vote with exp(s / temperature) each for their class; one
    whose label is not known does not vote on it. Every class, and both values of a label, have one more neighbour in
    the opposite direction, s = -1: so no logit is infinite, and a class without a neighbour is unlikely, not
    impossible.

    Args:
        train: (n, D) features of the training images; their device is where everything is computed.
        targets: (n,) classes, -1 where not known; or (n, L) labels in [0, 1], NaN where not known. A label between 0
            and 1 gives its votes to both values in that proportion.
        outputs: Classes K, or labels L.
        queries: (N, D) features.
        neighbours: Numbers k of neighbours; all training images where there are fewer.
        temperature: At least 0.01, so that no vote vanishes.

    Returns:
        (len(neighbours), N, K) logarithms of the votes for each class, whose softmax is the share of votes; or
        (len(neighbours), N, L) log-odds of each label. float64.
    """
    ours, known = _votes(targets, outputs, train.device)
    pool = torch.nn.functional.normalize(train.double(), dim=1)
    counts = [min(k, len(pool)) for k in neighbours]
    parts = []
    for batch in torch.split(torch.nn.functional.normalize(queries.double(), dim=1), BATCH_SIZE):
        similarity, index = (batch @ pool.mT).topk(max(counts), dim=1)
        weights = ((similarity - 1) / temperature).exp()[:, :, None]  # relative to s = 1: never overflows
        votes = (weights * ours[index]).cumsum(1)
        against = (weights * (known[index] - ours[index])).cumsum(1)
        rows = torch.tensor(counts, device=train.device) - 1
        parts.append((votes[:, rows], against[:, rows]))
    votes, against = (torch.cat(part).transpose(0, 1) for part in zip(*parts, strict=True))
    extra = math.exp((FARTHEST - 1) / temperature)
    if targets.ndim == 1:
        return (votes + extra).log()
    return (votes + extra).log() - (against + extra).log()


def _votes(targets: NDArray[np.generic], outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, K) votes and (n, K or 1) whether an image votes."""
    if targets.ndim == 1:
        classes = torch.from_numpy(np.asarray(targets, np.int64)).to(device)
        known = (classes >= 0).double()[:, None]
        return torch.nn.functional.one_hot(classes.clamp_min(0), outputs).double() * known, known
    values = torch.from_numpy(np.asarray(targets, np.float64)).to(device)
    return values.nan_to_num(0.0), (~values.isnan()).double()
