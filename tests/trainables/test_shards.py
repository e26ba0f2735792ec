"""Shards: how a store is cut, written, read and found damaged."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.shards import ImageStack, Layout, is_whole, open_shard, shards_in, write_shard

RNG = np.random.default_rng(0)


def described(images):
    names = [f"i{k}" for k in range(images)]
    return pa.record_batch([pa.array(names), pa.array(["0"] * images)], names=["image_id", "sha256"])


def written(folder, images=5, side=6, masks=True):
    pixels = RNG.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    mask = RNG.integers(0, 3, (images, side, side), dtype=np.uint8)
    layout = Layout(images=images, side=side, masks=masks)
    samples = ((p, None if k == 2 else m) for k, (p, m) in enumerate(zip(pixels, mask, strict=True)))
    return write_shard(folder, 3, described(images), samples, layout), pixels, mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3_000_000), st.integers(1, 1024), st.booleans())
def test_spans_cover_every_image_once_in_few_shards(images, side, masks):
    layout = Layout(images=images, side=side, masks=masks)
    spans = layout.spans()
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == images
    assert {b - a for a, b in spans[:-1]} <= {layout.rows}
    assert layout.rows * layout.bytes_per_image <= 2**30
    assert len(spans) <= max(65, layout.size_bytes // 2**29)
    assert len(spans) == 1 or layout.rows >= 64 or layout.bytes_per_image > 2**24


def test_what_is_written_is_read_and_the_files_are_arrow(tmp_path):
    path, pixels, mask = written(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert shards_in(tmp_path) == {3: path}
    shard = open_shard(path, 6)
    assert np.array_equal(shard.pixels, pixels)
    assert shard.ids.to_pylist() == ["i0", "i1", "i2", "i3", "i4"]
    assert shard.has_mask.tolist() == [True, True, False, True, True]
    mask[2] = 0
    assert np.array_equal(shard.masks, mask)
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table["mask"][2].as_py() is None
    assert table["pixels"][4].as_py() == pixels[4].tobytes()


def test_without_masks_there_is_no_column(tmp_path):
    path, pixels, _ = written(tmp_path, masks=False)
    shard = open_shard(path, 6)
    assert np.array_equal(shard.pixels, pixels)
    assert (shard.masks, shard.has_mask) == (None, None)


@pytest.mark.parametrize("damage", ["changed", "short", "long"])
def test_a_shard_knows_whether_it_is_whole(tmp_path, damage):
    path, _, _ = written(tmp_path)
    assert is_whole(path)
    whole = path.read_bytes()
    path.write_bytes(
        {"changed": whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], "short": whole[:-1]}.get(damage, whole + b"0")
    )
    assert not is_whole(path)


def stack(images, rows):
    whole = RNG.integers(0, 256, (images, 2, 2, 3), dtype=np.uint8)
    return whole, ImageStack([whole[k : k + rows] for k in range(0, images, rows)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stack_reads_like_one_array(data):
    images, rows = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    whole, parts = stack(images, rows)
    index = np.array(data.draw(st.lists(st.integers(-images, images - 1), max_size=12)), dtype=np.int64)
    assert np.array_equal(parts[index], whole[index])
    assert np.array_equal(parts[1:7:2], whole[1:7:2])
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=images, max_size=images)))
    assert np.array_equal(parts[chosen], whole[chosen])
    assert np.array_equal(parts[images - 1], whole[-1])
    assert np.array_equal(np.asarray(parts), whole)
    assert (len(parts), parts.shape, parts.nbytes) == (images, whole.shape, whole.nbytes)


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("wrong", [8, -9])
def test_rows_that_are_not_there_are_refused(rows, wrong):
    _, parts = stack(8, rows)
    with pytest.raises(IndexError):
        parts[np.array([0, wrong])]
    with pytest.raises(IndexError):
        parts[wrong]


def test_images_are_copied_and_single_ones_looked_at():
    whole, parts = stack(8, 3)
    assert not np.shares_memory(parts[np.array([1, 2])], whole)
    assert np.shares_memory(parts[4], whole)


def test_a_stack_of_one_shard_indexes_its_array():
    whole, parts = stack(8, 8)
    for rows in (np.array([5, -1, 0]), np.arange(8) % 2 == 0, slice(1, 6, 2)):
        assert np.array_equal(parts[rows], whole[rows])
        assert not np.shares_memory(parts[rows], whole)
    assert np.shares_memory(parts[4], whole)


def test_nothing_is_read_for_no_rows():
    _, parts = stack(8, 3)
    assert parts[np.empty(0, np.int64)].shape == (0, 2, 2, 3)
