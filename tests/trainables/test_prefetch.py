"""Batches that are brought one ahead are the same batches; feeds of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.trainables.toy import toy_set
from trainables.batches import ImageFeed
from trainables.prefetch import Prefetch, read_rows
from trainables.shards import ImageStack

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
STACK = ImageStack([IMAGES[:20], IMAGES[20:40], IMAGES[40:]])
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Odd:
    """Images that are neither an array nor a store."""

    shape = IMAGES.shape

    def __getitem__(self, rows):
        return IMAGES[rows]


@pytest.mark.parametrize("images", [IMAGES, STACK, Odd()])
def test_rows_are_read_into_place(images):
    out = np.zeros((3, 4, 4, 3), np.uint8)
    read_rows(images, np.array([49, 0, 21]), out)
    assert np.array_equal(out, IMAGES[[49, 0, 21]])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[CUDA, pytest.mark.gpu])])
def test_batches_are_right_whether_they_were_foreseen_or_not(device):
    rng = np.random.default_rng(1)
    prefetch = Prefetch(STACK, torch.device(device))
    asked = [rng.integers(0, 50, size) for size in (8, 8, 3, 8, 12, 8)]
    foreseen = [asked[1], asked[0], asked[3], None, asked[5], None]  # the second one wrongly
    got = [prefetch.batch(rows, upcoming) for rows, upcoming in zip(asked, foreseen, strict=True)]
    for rows, images in zip(asked, got, strict=True):  # read only now: a later batch must not have overwritten it
        assert images.device.type == device
        assert np.array_equal(images.cpu(), IMAGES[rows])


def test_what_was_foreseen_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr("trainables.prefetch.read_rows", lambda images, rows, out: read.append(rows.tolist()))
    prefetch = Prefetch(IMAGES, CPU)
    steps = [np.array([k, k + 1]) for k in range(5)]
    for rows, upcoming in zip(steps, [*steps[1:], None], strict=True):
        prefetch.batch(rows, upcoming)
    assert read == [rows.tolist() for rows in steps]


def test_an_error_of_the_thread_is_raised_where_the_batch_is_wanted():
    prefetch = Prefetch(STACK, CPU)
    prefetch.batch(np.array([1]), np.array([50]))
    with pytest.raises(IndexError, match="there are 50 images"):
        prefetch.batch(np.array([50]))


def test_on_the_cpu_nothing_is_foreseen_and_a_batch_is_one_copy():
    data = toy_set(n=12)
    feed = ImageFeed(data, CPU)
    assert not feed.looks_ahead
    images, targets = feed.batch(np.array([3, 1]), np.array([0]))
    assert np.array_equal(images, data.images[data.positions[[3, 1]]])
    assert np.array_equal(targets, data.targets[[3, 1]])
    assert feed.are_classes


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_a_gpu_gets_the_same_batches_from_its_memory_and_from_the_store(resident_bytes):
    data = toy_set(n=12)
    feed = ImageFeed(data, torch.device("cuda"), resident_bytes=resident_bytes)
    assert feed.looks_ahead == (resident_bytes == 0)
    for index in (np.array([3, 1]), np.array([0, 11])):
        images, targets = feed.batch(index, np.array([0, 11]))
        assert np.array_equal(images.cpu(), data.images[data.positions[index]])
        assert np.array_equal(targets.cpu(), data.targets[index])
