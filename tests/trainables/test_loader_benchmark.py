"""The loaders that ``benchmarks.loader`` compares give the same training batches, in distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from benchmarks.loader_build import decoded_and_resized
from benchmarks.loader_images import files_of, make_frames, make_task, more_of
from benchmarks.loader_memory import Footprint, together
from benchmarks.loader_peers import AUGMENTATION, NORMALISE, store_batches, timm_loader, torch_loader
from tests.trainables.made_tasks import make_library
from trainables.augmentation_draws import draw
from trainables.store import open_store

SIDE = 200


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


def _slopes(batch: torch.Tensor) -> np.ndarray:
    """Of ramps in red and green: width, height and centre of each crop, and whether it is no mirror image."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (NORMALISE.mean, NORMALISE.std))
    pixels = batch * std + mean
    size = pixels.shape[-1]
    across = (pixels[:, 0, :, -8] - pixels[:, 0, :, 7]).mean(1) / (size - 15) * size
    down = (pixels[:, 1, -8] - pixels[:, 1, 7]).mean(1) / (size - 15) * size
    middle = pixels[:, :2].mean((2, 3))
    return torch.stack([across.abs(), down.abs(), middle[:, 0], middle[:, 1], (across > 0).float()], 1).numpy()


@pytest.fixture
def ramps(library):
    """300 square images whose red rises to the right and green downwards."""
    manifest = make_task(library, "ramps", [(SIDE, SIDE)], 300)
    ramp = np.rint((np.arange(SIDE) + 0.5) / SIDE * 255).astype(np.uint8)
    image = np.stack([np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE)), np.zeros((SIDE, SIDE))], 2)
    for file in files_of(manifest):
        Image.fromarray(image.astype(np.uint8)).save(file, format="PNG")
    return manifest


def test_crops_mirror_images_and_scaling_have_one_distribution(library, ramps):
    torch.manual_seed(0)
    store = store_batches(open_store(library, ramps, SIDE), 56, 50)
    found = {"store": np.concatenate([_slopes(next(store)[0]) for _ in range(12)])}
    for name, make in (("timm", timm_loader), ("torch", torch_loader)):
        loader = make(files_of(ramps), 56, 50, 0)
        found[name] = np.concatenate([_slopes(images) for _ in range(2) for images, _ in loader])
    for peer in ("timm", "torch"):
        assert len(found[peer]) == 600
        for k, what in enumerate(("width", "height", "centre across", "centre down")):
            assert stats.ks_2samp(found["store"][:, k], found[peer][:, k]).pvalue > 1e-3, (peer, what)
        assert found[peer][:, 4].mean() == pytest.approx(0.5, abs=0.08)
    area = found["store"][:, 0] * found["store"][:, 1]
    drawn = draw(AUGMENTATION, 4000, torch.Generator().manual_seed(9), SIDE, 56)
    assert stats.ks_2samp(area, (drawn.width * drawn.height).numpy()).pvalue > 1e-3


def test_what_is_timed_beside_the_build_is_what_a_store_holds(library):
    manifest = make_task(library, "two", [(40, 30)], 2)
    store = open_store(library, manifest, 16)
    with Image.open(manifest.file(1)) as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(store.gather(np.array([1]))[0], expected)
    assert decoded_and_resized(manifest.file(1), 16) == 16


def test_more_images_are_further_names_of_the_same_files(library):
    few = make_task(library, "few", [(40, 30), (30, 40)], 2)
    many = more_of(library, few, 5)
    assert more_of(library, few, 2) is few
    assert [file.read_bytes() for file in files_of(many)] == [files_of(few)[k % 2].read_bytes() for k in range(5)]
    assert len(open_store(library, many, 8).images) == 5


@pytest.fixture
def frames(library):
    """A store of 60 MB, and a store of one batch beside it; bytes of the first."""
    open_store(library, make_frames(library, "one_batch", 32, 224), 224)
    return open_store(library, make_frames(library, "frames", 400, 224), 224).images.nbytes


def _allocated(footprints: list[Footprint]) -> int:
    return sum(process.allocated for process in footprints)


def test_processes_share_the_pages_of_a_store(library, frames):
    found = together(library.home, "frames", 400, 2)
    assert sum(process.store for process in found) == pytest.approx(frames, rel=0.05)  # each page once, not twice
    grown = _allocated(found) - _allocated(together(library.home, "one_batch", 400, 2))
    assert grown < 0.1 * frames  # a copy in one of them would be 1


def test_copies_of_a_store_are_noticed(library, frames):
    copying = _allocated(together(library.home, "frames", 400, 2, copies=True))
    assert copying - _allocated(together(library.home, "one_batch", 400, 2)) > 1.5 * frames
