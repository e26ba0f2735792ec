"""Building an image store: shards decoded by all cores, each finished for good; at the end the whole is renamed.

A build writes into ``<store>.building``. A shard that has its name there is finished, so a build that was killed, or
whose disk was full, goes on from what it has; only the rename at the end makes a store of it.

Images that are files are decoded by processes, because some decoders hold Python's global lock; what is little work,
already in memory (npz) or already decoded (a smaller side of a store) by threads, which start at once and share it.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from search_spaces.exceptions import DataError
from search_spaces.failpoints import failpoint
from search_spaces.names import Column
from trainables.manifest import Manifest
from trainables.mask_labels import mask_plane
from trainables.pixels import is_npz_frame
from trainables.shards import (
    BUILDING,
    INDEX_FILE,
    ImageStack,
    Layout,
    Pixels,
    is_whole,
    on_disk,
    remove_partial,
    shards_in,
    write_shard,
)

if TYPE_CHECKING:
    from joblib import Parallel

    from trainables.places import Place

Sample = tuple[Pixels, Pixels | None]
"""An image and its mask, if it has one."""

Outcome = tuple[int, Path | list[str]]
"""Number of a shard with its file, or with a complaint for every image of it that cannot be used."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

PROCESS_BYTES = 32 * 2**20
"""Image files that together are larger are decoded by processes, whose start takes about a second."""

_IDLE_S = 10
_WAITING = 4
_SHOWN_ERRORS = 10
_RECIPE_FILE = "recipe.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The larger store that a smaller one is made from, in the same order.

    Attributes:
        images: (N, S, S, 3) uint8.
        masks: (N, S, S) uint8; None without masks.
        has_mask: (N,) whether an image has one; None without masks.
    """

    images: ImageStack
    masks: ImageStack | None
    has_mask: NDArray[np.bool_] | None

    def sample(self, row: int, side: int) -> Sample:
        """Image and mask of this row at a smaller side."""
        mask = None
        if self.masks is not None and self.has_mask is not None and self.has_mask[row]:
            mask = _resized(self.masks[row], side, Image.Resampling.NEAREST)
        return _resized(self.images[row], side, Image.Resampling.BILINEAR), mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a store is made of.

    Attributes:
        manifest: The images.
        order: (N,) row of the manifest of each image of the store.
        hashes: (N,) sha256 of the bytes of each image of the store.
        layout: Number, side, shards.
        decoded: Where pixels come from, if not from the manifest's files.
    """

    manifest: Manifest
    order: NDArray[np.int64]
    hashes: NDArray[np.object_]
    layout: Layout
    decoded: Decoded | None = None

    def samples(self, start: int, stop: int) -> Iterator[Sample]:
        """Image and mask of these rows of the store, at its side.

        Raises:
            _UnusableError: At the end, if images cannot be used.
        """
        errors = []
        for sample in self._samples(start, stop):
            try:
                yield sample()
            except DataError as error:
                errors.append(str(error))
        if errors:
            raise _UnusableError(errors)

    def described(self, start: int, stop: int) -> pa.RecordBatch:
        """Ids and hashes of these rows of the store."""
        ids = self.manifest.table[Column.IMAGE_ID].iloc[self.order[start:stop]]
        columns = [pa.array(ids.astype(str), pa.string()), pa.array(self.hashes[start:stop], pa.string())]
        return pa.record_batch(columns, names=["image_id", "sha256"])

    def _samples(self, start: int, stop: int) -> Iterator[Callable[[], Sample]]:
        if self.decoded is not None:
            return (functools.partial(self.decoded.sample, row, self.layout.side) for row in range(start, stop))
        rows = self.order[start:stop].tolist()
        sources = self.manifest.sources(rows)
        return (functools.partial(self._sample, *of_row) for of_row in zip(rows, sources, strict=True))

    def _sample(self, row: int, source: tuple[Place, int | None]) -> Sample:
        side = self.layout.side
        image = self.manifest.image(row, source)
        mask = _resized_mask(self.manifest, row, (image.size[1], image.size[0]), side) if self.layout.masks else None
        # Channels are resized one by one, so that one of a grey image gives the same as three equal ones.
        small = image.resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(small if small.mode == "RGB" else small.convert("RGB")), mask


class _UnusableError(Exception):
    """Images of a shard that cannot be used, one message each."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(messages)
        self.messages = messages


def building_folder(path: Path) -> Path:
    """Where the store at ``path`` is built."""
    return path.with_name(path.name + BUILDING)


def finished_bytes(path: Path) -> int:
    """Bytes of the shards that an interrupted build of the store at ``path`` has finished."""
    folder = building_folder(path)
    return sum(shard.stat().st_size for shard in shards_in(folder).values()) if folder.is_dir() else 0


def build(path: Path, recipe: Recipe, facts: dict[str, str], source_bytes: int, progress: Progress | None) -> None:
    """Make the store at ``path``. The caller holds its lock.

    Args:
        path: The folder to be.
        recipe: What it is made of.
        facts: Written into its index.
        source_bytes: Of the image files; decides between threads and processes.
        progress: Told after every shard.

    Raises:
        DataError: Images cannot be used; lists the first ten. Nothing stays then.
        OSError: The disk is full or fails. Finished shards stay for the next attempt.
    """
    folder = building_folder(path)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    spans = recipe.layout.spans()
    finished = _sound(folder, len(spans))
    missing = [number for number in range(len(spans)) if number not in finished]
    done = sum(stop - start for number, (start, stop) in enumerate(spans) if number in finished)
    errors: dict[int, list[str]] = {}
    # Waiting for the disk is left to threads, as it would keep a core from decoding.
    with ThreadPoolExecutor(_WAITING) as pool:
        waiting = [pool.submit(on_disk, shard) for shard in finished.values()]
        for number, written in _shards(folder, recipe, missing, source_bytes):
            if isinstance(written, Path):
                waiting.append(pool.submit(on_disk, written))
            else:
                errors[number] = written
            done += spans[number][1] - spans[number][0]
            failpoint("store.mid_build")
            if progress is not None:
                progress(done, recipe.layout.images)
    for shard in waiting:
        shard.result()
    if errors:
        remove_folder(folder)
        raise DataError(_summary([m for number in sorted(errors) for m in errors[number]], recipe.layout.images))
    _publish(folder, path, recipe.layout, facts)


def remove_folder(folder: Path) -> None:
    """Delete a folder of files."""
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    folder.rmdir()


def _sound(folder: Path, shards: int) -> dict[int, Path]:
    """Shards of an earlier attempt that are whole; others are deleted."""
    sound = {}
    for number, shard in shards_in(folder).items():
        if number < shards and is_whole(shard):
            sound[number] = shard
        else:
            shard.unlink()
    return sound


def _shards(folder: Path, recipe: Recipe, missing: list[int], source_bytes: int) -> Iterable[Outcome]:
    """What became of every missing shard, as they get ready."""
    from joblib import cpu_count  # slow to import, and only here needed

    workers = min(cpu_count(), len(missing))
    if workers <= 1:
        return (_attempt(folder, recipe, number) for number in missing)
    if source_bytes < PROCESS_BYTES or recipe.decoded is not None or _in_memory(recipe.manifest):
        return _by_threads(folder, recipe, missing, workers)
    return _by_processes(folder, recipe, missing, workers)


def _in_memory(manifest: Manifest) -> bool:
    """Whether some images are frames of arrays, which every process would load for itself."""
    if Column.FRAME not in manifest.table:
        return False
    return any(is_npz_frame(PurePosixPath(path), 0) for path in manifest.table[Column.PATH].unique())


def _by_threads(folder: Path, recipe: Recipe, missing: list[int], workers: int) -> Iterator[Outcome]:
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda number: _attempt(folder, recipe, number), missing)


def _by_processes(folder: Path, recipe: Recipe, missing: list[int], workers: int) -> Iterator[Outcome]:
    from joblib import delayed

    file = folder / _RECIPE_FILE
    try:
        file.write_bytes(pickle.dumps(recipe))
        yield from process_pool(workers)(delayed(_attempt_elsewhere)(file, number) for number in missing)
    finally:
        file.unlink(missing_ok=True)


def process_pool(workers: int) -> Parallel:
    """Processes that import nothing of the calling program: a command, a test or a Ray worker may call.

    All pools of this kind are one (joblib keeps the last), whose processes end when they have been idle for a while.
    """
    from joblib import Parallel

    return Parallel(
        n_jobs=workers,
        backend="loky",
        batch_size=1,
        return_as="generator_unordered",
        idle_worker_timeout=_IDLE_S,
        inner_max_num_threads=1,
    )


def _attempt_elsewhere(file: Path, number: int) -> Outcome:
    return _attempt(file.parent, _recipe(file, file.stat().st_mtime_ns), number)


@functools.lru_cache(maxsize=1)
def _recipe(file: Path, mtime_ns: int) -> Recipe:
    recipe: Recipe = pickle.loads(file.read_bytes())
    return recipe


def _attempt(folder: Path, recipe: Recipe, number: int) -> Outcome:
    start, stop = recipe.layout.spans()[number]
    described, samples = recipe.described(start, stop), recipe.samples(start, stop)
    try:
        return number, write_shard(folder, number, described, samples, recipe.layout)
    except _UnusableError as error:
        return number, error.messages


def _publish(folder: Path, path: Path, layout: Layout, facts: dict[str, str]) -> None:
    shards = shards_in(folder)
    index = {
        **facts,
        "images": layout.images,
        "side": layout.side,
        "rows": layout.rows,
        "masks": layout.masks,
        "shards": [shards[number].name for number in range(len(layout.spans()))],
    }
    for leftover in set(folder.iterdir()) - set(shards.values()):
        leftover.unlink()
    with (folder / INDEX_FILE).open("w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    folder.rename(path)


def _summary(errors: list[str], images: int) -> str:
    shown = errors[:_SHOWN_ERRORS]
    if len(errors) > _SHOWN_ERRORS:
        shown.append(f"and {len(errors) - _SHOWN_ERRORS} more")
    return f"{len(errors)} of {images} images cannot be used:\n  " + "\n  ".join(shown)


def _resized(pixels: Pixels, side: int, filter_: Image.Resampling) -> Pixels:
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), filter_))


def _resized_mask(manifest: Manifest, row: int, size: tuple[int, int], side: int) -> Pixels | None:
    """The row's labels by the nearest pixel, see ``mask_plane``: blends of labels would be other labels."""
    plane = mask_plane(manifest, row, size)
    return None if plane is None else _resized(plane, side, Image.Resampling.NEAREST)
