"""What ``benchmarks.loader`` compares: the image store, timm's loader, and torch's loader over PIL.

All give endless training batches (B, 3, s, s) float32 with labels, cropped, mirrored and scaled alike: a crop of half
to all of the area and a ratio of 3/4 to 4/3, a mirror image half the time, bilinear resampling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from search_spaces.protocol import Augmentation
from search_spaces.study import Normalisation
from trainables.augmentation import Augment
from trainables.batches import ImageFeed, SampleOrder, Stream, stream_seed
from trainables.store import ImageStore

AUGMENTATION = Augmentation()
NORMALISE = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CPU = torch.device("cpu")

Batch = tuple[Tensor, Tensor]


class Files(Dataset[tuple[Any, int]]):
    """Image files with labels 0 and 1, as both loaders want them."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any] | None = None) -> None:
        self._files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self._files[index]) as image:
            pixels: Any = image.convert("RGB")
        return (pixels if self.transform is None else self.transform(pixels)), index % 2


def torch_transform(size: int) -> v2.Compose:
    """What a user of torchvision writes."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=AUGMENTATION.crop_scale, ratio=AUGMENTATION.crop_ratio, antialias=True),
            v2.RandomHorizontalFlip(AUGMENTATION.horizontal_flip),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(NORMALISE.mean, NORMALISE.std),
        ]
    )


def torch_loader(files: list[Path], size: int, batch_size: int, workers: int) -> DataLoader[Any]:
    """torch's DataLoader over PIL."""
    return DataLoader(
        Files(files, torch_transform(size)),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def timm_loader(files: list[Path], size: int, batch_size: int, workers: int) -> Any:
    """timm's create_loader; its prefetcher scales pixels in whole batches."""
    return create_loader(
        Files(files),
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        scale=AUGMENTATION.crop_scale,
        ratio=AUGMENTATION.crop_ratio,
        hflip=AUGMENTATION.horizontal_flip,
        vflip=AUGMENTATION.vertical_flip,
        color_jitter=0.0,
        interpolation="bilinear",
        mean=NORMALISE.mean,
        std=NORMALISE.std,
        num_workers=workers,
        device=CPU,
        pin_memory=False,
        persistent_workers=workers > 0,
    )


def repeated(loader: Any) -> Iterator[Batch]:
    """Batches of a loader, epoch after epoch."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


@dataclass(frozen=True)
class _Set:
    images: Any
    positions: np.ndarray
    targets: np.ndarray


def store_batches(store: ImageStore, size: int, batch_size: int) -> Iterator[Batch]:
    """Batches as ``trainables.fitting`` makes them."""
    rows = store.rows
    feed = ImageFeed(_Set(store.images, rows, np.arange(len(rows)) % 2), CPU)
    augment = Augment(AUGMENTATION, size, NORMALISE, CPU)
    order, generator = SampleOrder(len(rows), batch_size, seed=0), torch.Generator()
    for step in itertools.count():
        images, labels = feed.batch(order.batch(step))
        generator.manual_seed(stream_seed(0, Stream.AUGMENT, step, 0))
        yield augment(images, generator), labels
