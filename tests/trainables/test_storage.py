"""Publishing, delivery and checkpoints on a local path, a URI and a store without rename."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import fsspec
import pyarrow.fs as pafs
import pytest

from search_spaces.exceptions import StorageError, TrackingError, UserError
from search_spaces.names import Artifact, FailureClass, Moment, State
from search_spaces.results import Failure, TrialResult
from tests.conftest import free_port
from tests.stand_ins import memory_storage
from tests.trainables.toy import TRIAL_ID, toy_trial
from trainables.filesystems import below
from trainables.storage import Storage

pytest_plugins = ("tests.s3_plugin", "tests.gcs_plugin")


def _failed(attempt_id="a1"):
    failure = Failure(failure_class=FailureClass.DIVERGENCE, message="m", public_message="m", step=3)
    return TrialResult(
        trial=toy_trial(attempt_id=attempt_id), state=State.FAILED, failure=failure, started_at=0.0, finished_at=1.0
    )


def _folder(path, text="1", weights=True):
    (path / "predictions").mkdir(parents=True)
    (path / "predictions" / "test.parquet").write_text(text)
    (path / Artifact.TRIAL).write_text(
        TrialResult(trial=toy_trial(), state=State.COMPLETE, started_at=0.0, finished_at=1.0).model_dump_json()
    )
    (path / Artifact.HISTORY).write_text(text)
    if weights:
        (path / Artifact.WEIGHTS).write_text(text)
    return path


def _local(tmp_path, _=None):
    return Storage(tmp_path / "odd näme #1 %20?" / "store")


def _uri(tmp_path, _):
    return Storage((tmp_path / "a b#c").as_uri())


def _subtree(tmp_path, _):
    (tmp_path / "below").mkdir()
    return Storage("root", filesystem=pafs.SubTreeFileSystem(str(tmp_path / "below"), pafs.LocalFileSystem()))


def _memory(*_):
    return memory_storage()


def _s3(_, request):
    return Storage(f"{request.getfixturevalue('bucket')}/a%20b?region=us-east-1")


def _gcs(_, request):
    return Storage(f"{request.getfixturevalue('gcs_storage')}/a%20b")


PLACES = {"local": _local, "file-uri": _uri, "subtree": _subtree, "memory": _memory, "s3": _s3, "gcs": _gcs}


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def storage(request, tmp_path):
    return request.param(tmp_path, request)


def test_a_storage_is_new_until_a_trial_got_as_far_as_its_subset(storage):
    storage.check_writable()
    storage.put_note("drivers/one.json", "{}")
    assert storage.is_new
    storage.put_subset("a.parquet", lambda: b"rows")
    assert not storage.is_new


def test_a_published_trial_is_found_fetched_and_delivered(storage, tmp_path):
    storage.check_writable()
    assert storage.undelivered() == []
    assert not storage.has_weights(TRIAL_ID)
    storage.publish(_folder(tmp_path / "made"), TRIAL_ID)
    (item,) = storage.undelivered()
    assert (item.key, item.state, item.folder) == (TRIAL_ID, State.COMPLETE, f"trials/{TRIAL_ID}")
    assert storage.result(item).trial.trial_id == TRIAL_ID
    assert storage.files(item) == sorted(
        ["predictions/test.parquet", Artifact.HISTORY, Artifact.TRIAL, Artifact.WEIGHTS]
    )
    assert storage.fetch(TRIAL_ID, "predictions/test.parquet").read_text() == "1"
    assert storage.is_published(TRIAL_ID)
    storage.mark_delivered(TRIAL_ID)
    assert storage.undelivered() == []
    assert storage.files(item) == [Artifact.WEIGHTS]
    assert storage.has_weights(TRIAL_ID)
    assert storage.fetch(TRIAL_ID, Artifact.WEIGHTS).read_text() == "1"


def test_delivery_without_weights_leaves_nothing(storage, tmp_path):
    storage.publish(_folder(tmp_path / "made", weights=False), TRIAL_ID)
    (item,) = storage.undelivered()
    storage.mark_delivered(item)
    assert storage.files(item) == []
    with pytest.raises(FileNotFoundError, match="weights"):
        storage.fetch(TRIAL_ID, Artifact.WEIGHTS)


def test_publishing_again_replaces_every_file(storage, tmp_path):
    storage.publish(_folder(tmp_path / "first", "old"), TRIAL_ID)
    storage.publish(_folder(tmp_path / "second", "new", weights=False), TRIAL_ID)
    (item,) = storage.undelivered()
    assert Artifact.WEIGHTS not in storage.files(item)
    assert storage.fetch(TRIAL_ID, Artifact.HISTORY).read_text() == "new"


def test_failed_attempts_are_kept_one_by_one(storage):
    storage.publish_failure(_failed("a1"))
    storage.publish_failure(_failed("a2"))
    storage.publish_failure(_failed("a2"))
    items = storage.undelivered()
    assert [(item.key, item.state) for item in items] == [("a1", State.FAILED), ("a2", State.FAILED)]
    assert storage.result(items[0]) == _failed("a1")
    storage.mark_delivered(items[0])
    assert [item.key for item in storage.undelivered()] == ["a2"]


def test_failures_of_a_trial_are_found_until_they_are_delivered_and_pruned(storage):
    attempts = [f"{TRIAL_ID}-{i}" for i in range(2)]
    for attempt in attempts:
        storage.publish_failure(_failed(attempt))
    assert [result.trial.attempt_id for result in storage.failures(TRIAL_ID)] == attempts
    storage.mark_delivered(storage.undelivered()[0])
    assert len(storage.failures(TRIAL_ID)) == 2
    assert list(storage.delivered_failures()) == attempts[:1]
    for attempt in attempts:
        storage.delete_delivered_failure(attempt)
    assert [result.trial.attempt_id for result in storage.failures(TRIAL_ID)] == attempts[1:]


def test_what_a_delivered_trial_kept_is_pruned_piece_by_piece(storage, tmp_path):
    storage.publish(_folder(tmp_path / "made"), TRIAL_ID)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("initial.safetensors", Moment.FINAL.file_name):
        (kept / name).write_bytes(b"12")
    storage.put_representations(TRIAL_ID, kept)
    storage.delete_representations(TRIAL_ID)
    assert storage.has_representations(TRIAL_ID)  # it waits for delivery
    storage.mark_delivered(TRIAL_ID)
    assert storage.representations() == {TRIAL_ID: 4}
    storage.delete_representations(TRIAL_ID)
    storage.delete_representations(TRIAL_ID)
    assert storage.representations() == {}
    assert list(storage.weights()) == [TRIAL_ID]
    storage.delete_weights(TRIAL_ID)
    assert storage.weights() == {}


def test_claims_are_made_once_and_deleted_together(storage):
    assert storage.create_claim("one", "mine")
    assert not storage.create_claim("one", "yours")
    assert storage.create_claim("two", "mine")
    storage.replace_claim("one", "ours")
    assert storage.claim("one") == "ours"
    storage.delete_claim("two")
    assert storage.claim("two") is None
    for _ in range(2):
        storage.delete_claims()
        assert storage.claim("one") is None


def test_a_large_file_is_the_same_afterwards(storage):
    """Clients send it in pieces."""
    data = bytes(range(256)) * (5 * 2**12 + 1)
    storage.put_checkpoint(TRIAL_ID, data)
    assert storage.checkpoints() == {TRIAL_ID: len(data)}
    assert storage.get_checkpoint(TRIAL_ID) == data


def test_checkpoints_are_replaced_and_deleted(storage):
    assert storage.get_checkpoint(TRIAL_ID) is None
    storage.put_checkpoint(TRIAL_ID, b"one")
    storage.put_checkpoint(TRIAL_ID, b"two")
    assert storage.get_checkpoint(TRIAL_ID) == b"two"
    storage.delete_checkpoint(TRIAL_ID)
    storage.delete_checkpoint(TRIAL_ID)
    assert storage.get_checkpoint(TRIAL_ID) is None


def test_staging_is_gone_afterwards_whatever_happens(storage, tmp_path):
    made = []

    def fails():
        with storage.staging() as folder:
            made.append(folder)
            (folder / "x").write_text("x")
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        fails()
    assert not made[0].exists()
    with storage.staging() as folder:
        _folder(folder / "inside")
        storage.publish(folder / "inside", TRIAL_ID)
    assert storage.is_published(TRIAL_ID)


def test_a_folder_without_trial_json_is_neither_published_nor_found(storage, tmp_path):
    made = _folder(tmp_path / "made")
    (made / Artifact.TRIAL).unlink()
    with pytest.raises(FileNotFoundError, match=r"trial\.json"):
        storage.publish(made, TRIAL_ID)
    assert storage.undelivered() == []


def test_an_upload_that_breaks_off_is_not_published_and_can_be_repeated(storage, tmp_path, monkeypatch):
    if storage.is_local:
        pytest.skip("a local folder is renamed as a whole")
    made = _folder(tmp_path / "made")
    upload = storage._upload

    def breaks(source, where):
        if where.endswith(Artifact.HISTORY):
            raise OSError("connection lost")
        upload(source, where)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "_upload", breaks)
        with pytest.raises(OSError, match="lost"):
            storage.publish(made, TRIAL_ID)
    assert storage.undelivered() == []
    storage.publish(made, TRIAL_ID)
    assert len(storage.undelivered()) == 1


def test_delivery_that_breaks_off_never_shows_half_a_trial(tmp_path, monkeypatch):
    storage = _local(tmp_path)
    storage.publish(_folder(tmp_path / "made"), TRIAL_ID)
    deleted = []

    def breaks(where):
        deleted.append(where)
        if len(deleted) == 2:
            raise OSError("gone")
        Storage._delete(storage, where)

    monkeypatch.setattr(storage, "_delete", breaks)
    with pytest.raises(OSError, match="gone"):
        storage.mark_delivered(TRIAL_ID)
    assert deleted[0].endswith(Artifact.TRIAL)
    assert storage.undelivered() == []


def test_unwritable_storage_is_a_user_error_with_path_and_reason(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/store cannot be written: .*(Not a directory|not a directory)"):
        Storage(tmp_path / "file" / "store").check_writable()


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ("/data/sc/", "/data/sc/small"),
        ("file:///data/what?", "file:///data/what?/small"),
        ("memory://bucket", "memory://bucket/small"),
        ("s3://bucket/sc/?region=x&scheme=http", "s3://bucket/sc/small?region=x&scheme=http"),
    ],
)
def test_options_of_a_uri_stay_at_its_end(place, inside):
    assert below(place, "small") == inside


@pytest.mark.parametrize(("option", "limit_s"), [("", 60), ("?retry_limit_seconds=7", 7)])
@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_a_bucket_of_google_is_asked_again_for_a_minute_unless_the_uri_says_otherwise(scheme, option, limit_s):
    """pyarrow's own limit is 15 minutes for each call, which a driver without credentials would look dead for."""
    _, (options,) = Storage(f"{scheme}://anonymous@bucket/small{option}").fs.__reduce__()
    assert options["retry_time_limit"] == timedelta(seconds=limit_s)


def test_a_file_in_a_bucket_takes_one_request(bucket, caplog):
    """Ways of an object store that does not answer at once: each request is tens of milliseconds."""
    storage = Storage(f"{bucket}/small")
    with caplog.at_level("INFO", logger="werkzeug"):
        storage.put_note("a", "text")
        storage.put_checkpoint(TRIAL_ID, b"bytes")
    asked = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    assert len(asked) == 2, asked
    assert all('"PUT ' in line for line in asked)
    assert storage.notes() == {"a": "text"}
    assert storage.get_checkpoint(TRIAL_ID) == b"bytes"


def test_a_checkpoint_that_is_broken_off_leaves_the_one_before(storage, monkeypatch):
    """As a signal does that a process heeds in the middle."""
    storage.put_checkpoint(TRIAL_ID, b"before")

    def broken_off(point):
        if point == "checkpoint.mid_write":
            raise SystemExit

    monkeypatch.setattr("trainables.storage.failpoint", broken_off)
    with pytest.raises(SystemExit):
        storage.put_checkpoint(TRIAL_ID, b"afterwards")
    assert storage.get_checkpoint(TRIAL_ID) == b"before"


@pytest.mark.parametrize("place", ["s3://bucket/small", "gs://anonymous@bucket/small?retry_limit_seconds=1"])
def test_a_bucket_that_is_away_is_one_error_of_ours(place, tmp_path, monkeypatch):
    """An ``OSError``, too: a run goes on without notes. That of an upload must not be lost either."""
    (tmp_path / "final.safetensors").write_bytes(b"1")
    nobody = f"http://127.0.0.1:{free_port()}"
    for name in ("AWS_ENDPOINT_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        monkeypatch.setenv(name, nobody)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage = Storage(place)
    for ask in (storage.undelivered, lambda: storage.put_representations(TRIAL_ID, tmp_path)):
        with pytest.raises(StorageError, match=rf"storage {re.escape(place)} cannot be reached: ") as error:
            ask()
        assert isinstance(error.value, TrackingError)
        assert isinstance(error.value, OSError)
    with pytest.raises(UserError, match=r"cannot be reached: .*\. Give a writable path"):
        storage.check_writable()


@pytest.mark.parametrize("uri", ["s3://bucket/a#b", "s3://bucket/a?region=x#b", "memory://bucket/a#b"])
def test_a_number_sign_in_a_uri_is_refused(uri):
    """It would cut off the study's name: all studies would share one folder."""
    with pytest.raises(UserError, match="a # is written %23"):
        Storage(uri)


def test_messages_do_not_hold_the_password_of_a_uri(bucket):
    storage = Storage(f"{bucket.replace('://', '://any:geheim@')}/small")
    with pytest.raises(FileNotFoundError, match=r"storage s3://any:\*\*\*@bucket") as error:
        storage.fetch(TRIAL_ID, "nothing")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize("wrong", ["s3://bucket/x?endpoint=http://here", "s3:///nothing"])
def test_a_wrong_uri_of_a_known_kind_is_not_read_in_another_way(wrong):
    with pytest.raises(UserError, match="cannot be opened"):
        Storage(wrong)


@pytest.mark.parametrize(
    ("scheme", "opener"),
    [("s3", "trainables.filesystems._of_arrow"), ("far", "fsspec.core.url_to_fs")],
    ids=["pyarrow", "fsspec"],
)
def test_a_place_that_asks_the_network_before_it_opens_is_away_and_not_wrong(scheme, opener, monkeypatch):
    """As that of a bucket without a region does; a trial that finds it away is tried again."""

    def ask(place):
        raise OSError("no connection")

    monkeypatch.setattr(opener, ask)
    with pytest.raises(StorageError, match=rf"storage {scheme}://any:\*\*\*@bucket cannot be opened: no connection"):
        Storage(f"{scheme}://any:geheim@bucket")


@pytest.mark.parametrize("place", ["nosuchscheme://bucket/x"])
def test_an_unknown_uri_is_a_user_error(place):
    with pytest.raises(UserError, match=place.split(":", maxsplit=1)[0]):
        Storage(place)


def test_old_temporary_files_are_cleaned_and_young_ones_left(tmp_path):
    storage = _local(tmp_path)
    storage.check_writable()
    tmp = tmp_path / "odd näme #1 %20?" / "store" / "tmp"
    (tmp / "old").mkdir()
    (tmp / "old" / "x").write_text("x")
    (tmp / "young").write_text("x")
    past = time.time() - 100_000
    os.utime(tmp / "old", (past, past))
    assert storage.clean_tmp() == 1
    assert [path.name for path in tmp.iterdir()] == ["young"]


def test_a_relative_path_is_fixed_when_the_storage_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.put_checkpoint(TRIAL_ID, b"x")
    assert (tmp_path / "here" / "checkpoints" / f"{TRIAL_ID}.pt").read_bytes() == b"x"


def test_two_processes_that_publish_one_trial_at_a_time_both_succeed(tmp_path):
    storage = _local(tmp_path)

    def publish_often(name):
        for turn in range(20):
            Storage(storage.place).publish(_folder(tmp_path / f"{name}{turn}", name), TRIAL_ID)
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(publish_often, "abc"))
    texts = {storage.fetch(TRIAL_ID, name).read_text() for name in (Artifact.HISTORY, "predictions/test.parquet")}
    assert len(texts) == 1
    assert list((tmp_path / "odd näme #1 %20?" / "store" / "tmp").iterdir()) == []


def test_a_note_that_goes_while_notes_are_listed_breaks_nothing(tmp_path):
    class Busy(pafs.FSSpecHandler):
        failures = 0

        def get_file_info_selector(self, selector):
            if Busy.failures:
                Busy.failures -= 1
                raise FileNotFoundError(f"{selector.base_dir}/gone")
            return super().get_file_info_selector(selector)

    storage = Storage(str(tmp_path / "store"), filesystem=pafs.PyFileSystem(Busy(fsspec.filesystem("file"))))
    storage.put_note("driver", "here")
    Busy.failures = 3
    assert storage.notes() == {"driver": "here"}
    assert Busy.failures == 0
    Busy.failures = 100
    with pytest.raises(FileNotFoundError):  # whatever it is, it does not pass
        storage.notes()
