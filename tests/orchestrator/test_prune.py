"""What ``prune`` deletes, and above all what it does not."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.api import plan_study
from orchestrator.drivers import DriverNote
from orchestrator.places import Places
from orchestrator.prune import find, prune_json, still_needed
from orchestrator.prune_rules import RepresentationsRule, WeightsRule
from orchestrator.record import Record
from orchestrator.retry import choose_failed
from orchestrator.status import study_status
from search_spaces.exceptions import TrackingError, UserError
from search_spaces.home import scalecurves_home
from search_spaces.names import FailureClass, Role
from search_spaces.trial import Workspace
from tests.orchestrator.planned_trials import plan_of, planned
from tests.orchestrator.record_fixtures import make_failure, make_result, publish
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import rewrite_study, write_study
from trainables.library import TaskLibrary
from trainables.storage import Storage
from trainables.store import open_store

pytest_plugins = ("tests.orchestrator.record_plugin",)

GONE = "0" * 16
"""A trial that is not in the study."""


class Field:
    """A small study of 2 upstream and 8 target trials, with a record and a storage."""

    def __init__(self, folder, tracking_uri):
        self.plan = plan_study(write_study(folder))
        self.places = Places.of(tracking_uri=tracking_uri)
        self.storage = self.places.storage_of("small")
        self.record = Record(self.plan.study, self.storage, tracking_uri, retry_pauses_s=())
        self.record.open()
        self.upstream = [t for t in self.plan.trials if t.trial.role is Role.UPSTREAM]
        self.below = [t for t in self.plan.targets if t.upstream_id]
        self.alone = [t for t in self.plan.targets if not t.upstream_id]

    def resolved(self, planned_trial, attempt="a0"):
        trial = self.plan.resolver.resolved(
            planned_trial.trial, f"{planned_trial.trial_id}-{attempt}", Workspace(home="", storage="")
        )
        # predictions of the fixtures are of three classes
        return trial.model_copy(
            update={"task": trial.task.model_copy(update={"kind": "multiclass", "labels": ("bcc", "mel", "nv")})}
        )

    def finish(self, *trials):
        for one in trials:
            publish(self.storage, make_result(self.resolved(one)), ("test",))
        self.record.deliver_all()

    def find(self, **options):
        return find(self.plan, self.places, **options)

    def names(self, word, **options):
        """Names of the items of the kind that starts with this word."""
        return {i.name for kind, items in self.find(**options).items.items() if kind.startswith(word) for i in items}


@pytest.fixture
def field(tmp_path, tracking_uri):
    return Field(tmp_path, tracking_uri)


def ids(*trials):
    return {t.trial_id for t in trials}


def test_weights_go_by_rule_and_never_those_that_a_trial_still_starts_from(field):
    field.finish(*field.upstream, *field.alone, *field.below[:1])
    field.storage.put_checkpoint(GONE, b"1")
    upstream = ids(*field.upstream)
    assert field.names("weights") == set(), "without a rule weights stay"
    assert field.names("weights", weights=WeightsRule.FAILED) == set()
    assert field.names("weights", weights=WeightsRule.NOT_UPSTREAM) == ids(*field.alone, *field.below[:1])
    assert not field.names("weights", weights=WeightsRule.ALL) & upstream, "three trials still start from them"
    field.finish(*field.below[1:])
    assert field.names("weights", weights=WeightsRule.NOT_UPSTREAM) == ids(*field.plan.targets)
    assert field.names("weights", weights=WeightsRule.ALL) == ids(*field.plan.trials)
    notes = " ".join(field.find(weights=WeightsRule.ALL).notes)
    assert "will not score 8 done trials" in notes
    assert "2 trials from which others start" in notes

    found = field.find(weights=WeightsRule.NOT_UPSTREAM)
    assert found.size >= 8 * len(b"weights" * 100)
    found.delete()
    assert set(field.storage.weights()) == upstream
    assert field.find(weights=WeightsRule.NOT_UPSTREAM).size == 0


def test_only_selects_what_is_deleted_and_not_who_counts(field):
    small = [t for t in field.below if t.trial.cell.data_fraction.label == "0.3"]
    field.finish(*field.upstream, *small)
    only = "data_fraction=0.3,pretraining_source=spots_pre"
    upstream = ids(*field.upstream)
    assert field.names("weights", weights=WeightsRule.ALL, only=only) == ids(*small), "others still start from the rest"
    assert field.names("weights", weights=WeightsRule.NOT_UPSTREAM, only=only) == ids(*small)
    field.finish(*field.below)
    assert field.names("weights", weights=WeightsRule.ALL, only=only) == ids(*small) | upstream
    assert field.names("weights", weights=WeightsRule.NOT_UPSTREAM, only=only) == ids(*small)
    with pytest.raises(UserError, match="unknown task"):
        field.find(only="task=absent")


def test_what_mlflow_does_not_have_is_never_touched(field):
    waiting, failed = field.alone[0], field.alone[1]
    publish(field.storage, make_result(field.resolved(waiting)), ("test",))
    field.storage.put_checkpoint(waiting.trial_id, b"1")
    field.storage.publish_failure(make_failure(field.resolved(failed, "f0")))
    field.find(weights=WeightsRule.ALL, stores=True).delete()
    assert len(field.storage.undelivered()) == 2
    assert field.storage.has_weights(waiting.trial_id)
    assert field.storage.get_checkpoint(waiting.trial_id) == b"1"


def test_failures_that_wait_for_mlflow_are_told_and_can_be_tried_again(field):
    waits, known = field.alone[:2]
    field.record.failed(make_failure(field.resolved(known, "f0")))
    field.record.deliver_all()
    field.storage.publish_failure(make_failure(field.resolved(waits, "f1")))
    stands = study_status(field.plan, field.places)
    assert stands["failed"] == 2
    [told] = [f["message"] for f in stands["failures"] if f["trial_id"] == waits.trial_id]
    assert told.endswith("(MLflow does not have it yet)")
    again = choose_failed(field.plan, field.places, classes=list(FailureClass))
    assert {t.trial_id for t in again.chosen} == ids(waits, known)
    assert field.storage.undelivered() == []


def test_attempts_that_cannot_be_read_or_were_delivered_meanwhile_are_passed_over(field, monkeypatch):
    waits, unreadable, gone = field.alone[:3]
    for trial, name in ((waits, "f1"), (unreadable, "f2"), (gone, "f3")):
        field.storage.publish_failure(make_failure(field.resolved(trial, name)))
    root = Path(field.storage.place) / "attempts"
    [of_unreadable] = root.glob(f"{unreadable.trial_id}*/trial.json")
    of_unreadable.write_text('{"schema": 0}')
    listed = field.storage.undelivered()
    [of_gone] = root.glob(f"{gone.trial_id}*/trial.json")
    of_gone.rename(of_gone.with_name("failure.json"))
    monkeypatch.setattr(Storage, "undelivered", lambda self: listed)
    assert study_status(field.plan, field.places)["failed"] == 1
    assert field.storage.failures(unreadable.trial_id) == []
    assert len(field.storage.failures(gone.trial_id)) == 1


def keep_representations(field, folder, *trial_ids):
    folder.mkdir()
    for name in ("initial.safetensors", "final.safetensors"):
        (folder / name).write_bytes(b"12345")
    for trial_id in trial_ids:
        field.storage.put_representations(trial_id, folder)


def test_representations_go_by_rule_and_weights_beside_them_stay(field, tmp_path):
    field.finish(*field.alone)
    first, second, waiting, weightless = field.alone
    publish(field.storage, make_result(field.resolved(waiting)), ("test",))
    field.storage.delete_weights(weightless.trial_id)
    keep_representations(field, tmp_path / "files", GONE, *(t.trial_id for t in field.alone))
    assert field.names("representations") == set(), "without a rule they stay"
    assert field.names("representations", representations=RepresentationsRule.UNUSED) == {
        GONE,
        *ids(first, second, weightless),
    }

    field.plan = plan_study(rewrite_study(tmp_path, representations={"seeds": [first.trial.seed.label]}))
    wanted = {t.trial_id for t in field.alone if t.trial.seed.label == first.trial.seed.label}
    unused = field.find(representations=RepresentationsRule.UNUSED)
    (kind,) = (k for k in unused.items if k.startswith("representations"))
    assert {item.name for item in unused.items[kind]} == {GONE, *ids(first, second, weightless)} - wanted
    assert {item.size for item in unused.items[kind]} == {10}
    assert not unused.notes
    selected = field.find(representations=RepresentationsRule.ALL, only="pretraining_source=random")
    assert {item.name for item in selected.items[kind.replace("unused", "all")]} == ids(first, second, weightless)
    (note,) = selected.notes
    lost, again = len(wanted - ids(waiting)), len(wanted & ids(first, second))
    assert f"no representations of {lost} trials; the next run makes those of {again} again" in note

    field.find(representations=RepresentationsRule.ALL).delete()
    assert set(field.storage.representations()) == ids(waiting), "MLflow does not have this one yet"
    assert field.storage.has_weights(first.trial_id)
    assert not field.storage.has_representations(first.trial_id)
    assert set(field.storage.weights()) == ids(first, second, waiting)


def test_checkpoints_and_failures_go_once_their_trial_is_done_or_gone(field):
    done, open_ = field.alone[:2]
    for trial in (done, open_):
        field.record.failed(make_failure(field.resolved(trial, "f0")))
        field.storage.put_checkpoint(trial.trial_id, b"12")
    field.storage.put_checkpoint(GONE, b"123")
    field.finish(done)
    assert field.names("checkpoints") == {done.trial_id, GONE}
    assert field.names("checkpoints", only="pretraining_source=random") == {done.trial_id}, (
        "--only is about trials of the study"
    )
    assert field.names("details") == {f"{done.trial_id}-f0"}
    field.find().delete()
    assert field.storage.get_checkpoint(open_.trial_id) == b"12"
    assert len(field.storage.failures(open_.trial_id)) == 1
    assert field.storage.failures(done.trial_id) == []


def test_half_written_files_go_when_they_are_old(field, monkeypatch):
    with field.storage.staging() as staged:
        (staged / "a").write_bytes(b"12345")
        assert field.names("half-written") == set()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 2 * 86400)
        [item] = next(v for k, v in field.find().items.items() if k.startswith("half"))
        assert (item.name, item.size) == (staged.name, 5)
        field.find().delete()
        assert not staged.exists()


def test_of_notes_those_of_drivers_that_are_no_more_go_and_what_is_remembered_stays(field):
    field.storage.put_note("driver-gone", "{}")
    field.storage.put_note("memory-0123.json", "{}")
    assert field.names("half-written") == {"driver-gone"}
    field.find().delete()
    assert set(field.storage.notes()) == {"memory-0123.json"}


def test_stores_of_imported_data_sets_stay(field):
    library = TaskLibrary(scalecurves_home())
    kept = open_store(library, library.load("spots"), 20).path
    stray = kept.with_name(f"{'f' * 16}-20-v2")
    shutil.copytree(kept, stray)
    early = kept.with_name(f"{'f' * 16}-20-v1.arrow")
    early.write_bytes(b"old")
    assert not any(k.startswith("image") for k in field.find().items)
    assert field.names("image", stores=True) == {stray.name, early.name}
    field.find(stores=True).delete()
    assert (kept / "store.json").is_file()
    assert not stray.exists()
    assert not early.exists()


def test_the_command_deletes_only_with_yes(tmp_path):
    file = write_study(tmp_path)
    library = TaskLibrary(scalecurves_home())
    kept = open_store(library, library.load("spots"), 20).path
    stray = kept.with_name(f"{'f' * 16}-20-v2")
    shutil.copytree(kept, stray)
    told = json.loads(call("prune", file, "--stores", "--json"))
    assert (told["deleted"], sum(kind["number"] for kind in told["kinds"].values())) == (False, 1)
    assert stray.is_dir()
    assert json.loads(call("prune", file, "--stores", "--json", "--yes")) == told | {"deleted": True}
    assert not stray.exists()
    assert kept.is_dir()


def test_a_running_study_is_left_alone_but_for_stores(field):
    field.finish(*field.alone)
    note = DriverNote(field.storage, "small", lambda: None, every_s=0.01)
    try:
        while not field.storage.notes():
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"small is running \(process \d+ on .*prune --stores"):
            field.find()
        for asked in ({"weights": WeightsRule.FAILED}, {"representations": RepresentationsRule.UNUSED}):
            with pytest.raises(UserError, match="is running"):
                field.find(**asked, stores=True)
        assert list(field.find(stores=True).items) == ["image stores of data sets that are not imported"]
    finally:
        note.close()


def test_weights_are_not_taken_for_leftovers_of_another_record(field, tmp_path):
    field.finish(*field.alone)
    other = Places.of(tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    for rule in WeightsRule:
        with pytest.raises(UserError, match="is --tracking-uri the one"):
            find(field.plan, other, weights=rule)


def test_nothing_is_known_and_nothing_deleted_while_mlflow_is_away(field):
    away = Places.of(tracking_uri="http://127.0.0.1:1")
    with pytest.raises(TrackingError):
        find(field.plan, away, weights=WeightsRule.ALL)


def test_chains_are_kept_up_to_the_last_trial_that_is_not_done():
    top = planned("1" * 16, role=Role.UPSTREAM)
    middle = planned("2" * 16, top, role=Role.UPSTREAM)
    low, other = planned("3" * 16, middle), planned("4" * 16, top, seed=4)
    plan = plan_of(top, middle, low, other)
    assert still_needed(plan, lambda i: i != low.trial_id) == ids(top, middle)
    assert still_needed(plan, lambda i: i != other.trial_id) == ids(top)
    assert still_needed(plan, lambda i: True) == set()


def test_the_json_counts_by_kind(field):
    field.storage.put_checkpoint(GONE, b"123")
    made = json.loads(json.dumps(prune_json(field.find(), deleted=False)))
    assert made["deleted"] is False
    assert made["bytes"] == 3
    assert made["kinds"]["checkpoints of trials that are done or not in the study"] == {"number": 1, "bytes": 3}
