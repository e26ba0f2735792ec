"""Small trials, nets and image sets for the tests of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from search_spaces.amounts import Amount, Seed
from search_spaces.names import Artifact, Role
from search_spaces.protocol import Augmentation, Budget, Protocol
from search_spaces.results import Order
from search_spaces.study import Normalisation, RandomSource
from search_spaces.trial import ResolvedScale, ResolvedSource, ResolvedTask, ResolvedTrial, Workspace
from trainables.storage import Storage

TRIAL_ID = "0123456789abcdef"
NORMALISE = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def toy_trial(**changes):
    """A resolved trial whose manifest and factory need not exist."""
    fields = {
        "trial_id": TRIAL_ID,
        "cell_id": "c",
        "attempt_id": "a1",
        "study": "s",
        "role": Role.TARGET,
        "axes": {},
        "seed": Seed(subset=0, init=0),
        "scale": ResolvedScale(name="n", factory="f", input_size=8),
        "source": ResolvedSource(name="random", weights=RandomSource(), normalise=NORMALISE),
        "task": ResolvedTask(name="t", manifest="m", manifest_hash="h", kind="binary", labels=("l",), primary="auc"),
        "amount": Amount(kind="fraction", value=1.0),
        "protocol": Protocol(),
        "workspace": Workspace(home="/h", storage="/s"),
    }
    return ResolvedTrial(**{**fields, **changes})


@dataclass(frozen=True)
class ToySet:
    """An image set in memory."""

    images: np.ndarray
    positions: np.ndarray
    targets: np.ndarray


def toy_set(n=40, side=10, classes=3, seed=0, kind="multiclass", masked=0.0):
    """Noise images whose classes differ in colour; rows are a random half of a larger stack."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2 * n, side, side, 3), dtype=np.uint8)
    positions = rng.permutation(2 * n)[:n]
    y = np.arange(n) % classes
    images[positions, ..., 0] = (images[positions, ..., 0] // 4 + (y * 60)[:, None, None]).astype(np.uint8)
    hidden = rng.random((n, classes)) < masked
    if kind == "multiclass":
        return ToySet(images, positions, np.where(hidden[:, 0], -1, y).astype(np.int64))
    targets = np.eye(classes, dtype=np.float32)[y]
    targets[hidden] = np.nan
    return ToySet(images, positions, targets if kind == "multilabel" else targets[:, :1])


class ToyNet(nn.Module):
    """Convolution, BatchNorm, Dropout: everything that could depend on how a batch is split."""

    def __init__(self, outputs=3, seed=0, dropout=0.3):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            # A bias before BatchNorm has gradient 0 but for rounding, which Adam would blow up to full steps.
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8, momentum=0.3),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, outputs)

    def forward(self, x):
        return self.fc(self.dropout(self.features(x).mean((2, 3))))


def toy_protocol(**changes):
    """Ten steps of two ghost batches with augmentation of geometry and colour."""
    fields = {
        "budget": Budget(steps=10),
        "global_batch_size": 8,
        "ghost_batch_size": 4,
        "storage_size": 10,
        "evaluations": 5,
        "lr": 0.01,
        "ema_decay": None,
        "augmentation": Augmentation(vertical_flip=0.5, rotation_degrees=20, brightness=0.2, contrast=0.2),
    }
    return Protocol(**{**fields, **changes})


class Teller:
    """Answers reports; keeps them."""

    def __init__(self, orders=()):
        self.reports = []
        self._orders = list(orders)

    def __call__(self, report):
        self.reports.append(report)
        return self._orders.pop(0) if self._orders else Order.GO


def published(trial: ResolvedTrial) -> Path:
    """The folder that a finished trial left in its storage."""
    return Storage(trial.workspace.storage).fetch(trial.trial_id, Artifact.TRIAL).parent


def logits_in(folder: Path, name: str = "test") -> np.ndarray:
    """(N, K) logits of a published evaluation set."""
    table = pq.read_table(folder / "predictions" / f"{name}.parquet")
    return table.select([c for c in table.column_names if c.startswith("z_")]).to_pandas().to_numpy()


def same(first, second):
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
