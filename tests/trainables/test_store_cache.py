"""Stores in use, eviction by age and limit, checksums of copies."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from search_spaces.exceptions import DataError, UserError
from tests.trainables.made_tasks import make_library, save_findings
from trainables import store as store_module
from trainables import store_cache
from trainables.library import TaskLibrary
from trainables.store import open_store
from trainables.store_cache import (
    CacheFullError,
    cache_limit,
    cached_stores,
    damaged_shards,
    delete_store,
    evict,
    parse_size,
    use_of,
)
from trainables.store_use import StoreGoneError, Use


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


@pytest.fixture
def manifest(library):
    return save_findings(library)


def age(path, used_s):
    os.utime(path / "store.json", (used_s, used_s))


def paths(library):
    return {store.path for store in cached_stores(library.home)}


def test_what_was_used_longest_ago_goes_first_and_no_more_than_needed(library, manifest):
    made = [open_store(library, manifest, side).path for side in (8, 9, 10)]
    for path, used_s in zip(made, (300, 100, 200), strict=True):
        age(path, used_s)
    size = {store.path: store.size_bytes for store in cached_stores(library.home)}
    assert [s.last_used_s for s in cached_stores(library.home) if s.path == made[1]] == [100]
    gone = evict(library.home, size[made[0]] + size[made[2]])
    assert [store.path for store in gone] == [made[1]]
    assert [store.path for store in evict(library.home, 0, but=[made[2]])] == [made[0]]
    assert paths(library) == {made[2]}


def _hold(home, ready, end):
    library = TaskLibrary(home)
    images = open_store(library, library.load("findings"), 8).images  # not the store: its images are what is used
    ready.set()
    end.wait(300)
    assert images[0].shape == (8, 8, 3)


def test_what_another_process_uses_stays(library, manifest):
    path = open_store(library, manifest, 8).path
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(library.home, ready, end))
    other.start()
    assert ready.wait(300)
    [store] = cached_stores(library.home)
    assert use_of(store) is Use.HELD
    assert not delete_store(store)
    assert not delete_store(store, without_locks=True)
    assert evict(library.home, 0, without_locks=True) == []
    assert path.is_dir()
    end.set()
    other.join(300)
    assert other.exitcode == 0
    assert use_of(store) is Use.FREE
    assert delete_store(store)
    assert paths(library) == set()


def test_a_store_that_is_deleted_while_it_is_opened_is_built_again(library, manifest, monkeypatch):
    path = open_store(library, manifest, 8).path
    original, gone = store_module.StoreInUse, []

    def late(at):
        if not gone:
            gone.append(at)
            [store] = cached_stores(library.home)
            assert delete_store(store)
        return original(at)

    monkeypatch.setattr(store_module, "StoreInUse", late)
    assert open_store(library, manifest, 8).path == path
    monkeypatch.setattr(store_module, "StoreInUse", lambda at: (_ for _ in ()).throw(StoreGoneError(at)))
    with pytest.raises(UserError, match="was deleted 5 times"):
        open_store(library, manifest, 8)


def _delete_all(home, end):
    while not end.wait(0.01):
        evict(home, 0)


def test_stores_are_opened_and_counted_while_another_process_deletes_them(library, manifest):
    context = multiprocessing.get_context("spawn")
    end = context.Event()
    other = context.Process(target=_delete_all, args=(library.home, end))
    other.start()
    content = library.content_hash(manifest)
    try:
        for _ in range(20):
            try:
                images = open_store(library, manifest, 8, content_hash=content).images
            except UserError as error:
                assert "was deleted 5 times" in str(error)  # noqa: PT017 - it may be, on a busy machine
            else:
                assert images[0].shape == (8, 8, 3)
                del images
            evict(library.home, 0)
    finally:
        end.set()
        other.join(300)
    assert other.exitcode == 0


def test_what_vanishes_while_it_is_looked_at_is_gone(library, manifest, monkeypatch):
    path = open_store(library, manifest, 8).path
    [store] = cached_stores(library.home)
    listed = store_cache.Path.iterdir

    def late(folder):
        found = list(listed(folder))
        if folder == path:
            shutil.rmtree(path)
        return iter(found)

    monkeypatch.setattr(store_cache.Path, "iterdir", late)
    [seen] = cached_stores(library.home)
    assert seen.size_bytes == 0
    monkeypatch.undo()
    assert cached_stores(library.home) == []
    assert use_of(store) is Use.FREE
    assert delete_store(store)


def test_half_deleted_stores_go_without_a_lock(library, manifest):
    path = open_store(library, manifest, 8).path
    doomed = path.with_name(f"{path.name}.0badcafe.deleting")
    path.rename(doomed)
    [store] = cached_stores(library.home)
    assert not store.is_finished
    assert delete_store(store)
    assert not [file for file in doomed.parent.iterdir() if file.name.startswith(doomed.name)]


def _no_locks(descriptor, kind):
    raise OSError(errno.ENOSYS, "function not implemented")  # Lustre without flock


def test_exclusive_locks_are_asked_of_writable_files(library, manifest, monkeypatch):
    opened = open_store(library, manifest, 8)
    [store] = cached_stores(library.home)
    flock = fcntl.flock

    def of_nfs(descriptor, kind):
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        if kind & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, "bad file descriptor")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    assert use_of(store) is Use.HELD
    assert not delete_store(store)
    del opened
    assert delete_store(store)


@pytest.mark.filterwarnings("ignore:flock not supported")  # filelock, which then locks by a file's existence
def test_without_locks_stores_are_kept_until_a_user_says_otherwise(library, manifest, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    path = open_store(library, manifest, 8).path
    [store] = cached_stores(library.home)
    assert use_of(store) is Use.UNKNOWN
    assert not delete_store(store)
    assert evict(library.home, 0) == []
    assert path.is_dir()
    assert evict(library.home, 0, without_locks=True) == [store]
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:flock not supported")  # filelock, which then locks by a file's existence
def test_without_locks_a_full_cache_says_why_nothing_went(library, manifest, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    first = open_store(library, manifest, 16).path
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{cached_stores(library.home)[0].size_bytes + 1000}B")
    with pytest.raises(UserError, match=r"that stay \(the file system has no locks .*--limit SIZE --without-locks"):
        open_store(library, manifest, 17)
    assert paths(library) == {first}


def test_a_limit_makes_room_for_a_new_store_or_refuses_it(library, manifest, monkeypatch):
    first = open_store(library, manifest, 16).path
    size = cached_stores(library.home)[0].size_bytes
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{size + 1000}B")
    second = open_store(library, manifest, 17)
    assert paths(library) == {second.path}
    with pytest.raises(UserError, match=r"others that are in use .*SCALECURVES_CACHE_LIMIT"):
        open_store(library, manifest, 16)
    assert not first.exists()
    del second
    assert open_store(library, manifest, 16).path == first


def test_a_store_that_cannot_fit_deletes_nothing(library, manifest, monkeypatch):
    free, held = open_store(library, manifest, 8).path, open_store(library, manifest, 16)
    limit = sum(store.size_bytes for store in cached_stores(library.home)) + 1000
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{limit}B")
    for side in (17, 200):  # too large beside what is in use; too large alone
        with pytest.raises(CacheFullError, match=r"SCALECURVES_CACHE_LIMIT"):
            open_store(library, manifest, side)
        assert paths(library) == {free, held.path}


def test_what_others_build_takes_its_room(library, manifest, monkeypatch):
    free = open_store(library, manifest, 8).path
    other = free.with_name(free.name.replace("-8-", "-9-"))
    unfinished = other.with_name(f"{other.name}.building")
    unfinished.mkdir()
    (unfinished / "shard").write_bytes(bytes(100_000))
    limit = sum(store.size_bytes for store in cached_stores(library.home)) + 1000
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{limit}B")
    with store_cache.building_lock(other), pytest.raises(CacheFullError, match="in use"):
        open_store(library, manifest, 16)
    assert paths(library) == {free, unfinished}
    open_store(library, manifest, 16)
    assert unfinished not in paths(library)


def test_a_disk_without_room_is_known_before_work(library, manifest, monkeypatch):
    usage = shutil.disk_usage(library.home)
    monkeypatch.setattr(store_cache.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match=r"0.00 GB are free.*cache --prune"):
        open_store(library, manifest, 16)
    assert not (library.home / "stores").is_dir() or not paths(library)


def test_unfinished_stores_are_listed_and_deleted_unless_they_are_being_built(library, manifest):
    path = open_store(library, manifest, 8).path
    unfinished = path.with_name(f"{path.name.replace('-8-', '-9-')}.building")
    unfinished.mkdir()
    [store] = [s for s in cached_stores(library.home) if not s.is_finished]
    with store_cache.building_lock(unfinished.with_name(unfinished.name.removesuffix(".building"))):
        assert not delete_store(store)
    assert delete_store(store)
    assert paths(library) == {path}


def test_a_copy_is_checked_when_it_is_first_opened_and_never_again(library, manifest, tmp_path, monkeypatch):
    path = open_store(library, manifest, 8).path
    home = tmp_path / "other"
    shutil.copytree(library.home, home)
    other = TaskLibrary(home)
    checked = []
    monkeypatch.setattr(store_cache, "is_whole", lambda shard: checked.append(shard.name) or True)
    open_store(other, other.load("findings"), 8, content_hash=library.content_hash(manifest))
    assert checked == [shard.name for shard in path.glob("*.arrow")]
    open_store(other, other.load("findings"), 8, content_hash=library.content_hash(manifest))
    assert len(checked) == 1
    assert damaged_shards(path) == []
    assert len(checked) == 2  # in full, whatever is known


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_noticed_when_a_store_is_opened(library, manifest, damage):
    path = open_store(library, manifest, 8).path
    [shard] = path.glob("*.arrow")
    if damage == "missing":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[-2000] ^= 255
        shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"is damaged \({shard.name}\); delete it, and it is built again"):
        open_store(library, manifest, 8)
    assert damaged_shards(path) == [shard.name]
    [store] = cached_stores(library.home)
    assert delete_store(store)
    assert np.asarray(open_store(library, manifest, 8).images).shape == (48, 8, 8, 3)


@pytest.mark.parametrize(
    ("text", "expected"), [("50GB", 50 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mib", 800 * 2**20), ("7", 7)]
)
def test_sizes(text, expected, monkeypatch):
    assert parse_size(text, "x") == expected
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", text)
    assert cache_limit() == expected


def test_what_is_no_size_is_refused(monkeypatch):
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match="SCALECURVES_CACHE_LIMIT is 'much'; a size such as 50GB"):
        cache_limit()
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", " ")
    assert cache_limit() is None
