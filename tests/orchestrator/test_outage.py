"""What a run does while its storage is away; training is planted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator import api, outage
from orchestrator.outage import Outage
from search_spaces.exceptions import StorageError, UserError
from search_spaces.names import FailureClass
from tests.orchestrator.fake_executor import Planted
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, write_study
from trainables.storage import Storage

WAIT_S = 20
AXES = raw_study()["axes"] | {"pretraining_source": ["random"]}
TRIALS = 14


class Away:
    """A storage that is away until it has been asked so many times."""

    def __init__(self, times: float) -> None:
        self.left = times
        self.answered = threading.Event()

    def ask(self, *arguments: Any) -> None:
        self.left -= 1
        if self.left >= 0:
            raise StorageError("the bucket is away")
        self.answered.set()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """A run of two slots that writes no report; the storage is asked all the time."""
    monkeypatch.setattr(api, "write_report", lambda *_: (None, ()))
    monkeypatch.setattr(outage, "LOOK_S", 0.01)
    return Planted(slots=2).install(monkeypatch)


def goes_away(planted: Planted, monkeypatch: pytest.MonkeyPatch, times: float) -> Away:
    """From the third trial on the storage is away, and each trial that starts meanwhile fails."""
    away = Away(times)
    there = Storage.check_writable
    monkeypatch.setattr(Storage, "check_writable", lambda storage: away.ask() if planted.trained else there(storage))

    def breaks(trial: Any) -> FailureClass | None:
        return FailureClass.TRACKING if len(planted.trained) > 2 and not away.answered.is_set() else None

    planted.breaks = breaks
    return away


@pytest.mark.parametrize(
    "reason",
    [StorageError("away"), UserError("cannot be written"), OSError("stale file handle"), RuntimeError("no session")],
    ids=["away", "unwritable", "mounted", "unknown"],
)
def test_an_outage_lasts_from_the_first_failure_until_the_storage_answers(
    reason: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "LOOK_S", 0.001)
    asked: list[threading.Thread] = []
    may_answer, has_asked_again = threading.Event(), threading.Event()

    def ask() -> None:
        asked.append(threading.current_thread())
        if len(asked) == 1:
            raise reason
        has_asked_again.set()
        assert may_answer.wait(WAIT_S)

    known = Outage(ask)
    assert not known.lasts
    assert known.begin()
    assert has_asked_again.wait(WAIT_S)
    assert known.lasts
    assert not known.begin(), "known"
    may_answer.set()
    asked[0].join(WAIT_S)
    assert not known.lasts
    assert asked[0] is not threading.current_thread(), "it may take minutes"


def test_an_outage_is_too_long_after_its_limit_and_one_that_is_over_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "LOOK_S", 0.001)
    now = 0.0
    away = Away(float("inf"))
    known = Outage(away.ask, clock=lambda: now)
    now = 10 * outage.LIMIT_S
    assert not known.is_too_long
    known.begin()
    now += outage.LIMIT_S
    assert not known.is_too_long
    now += 1.0
    assert known.is_too_long
    away.left = 0
    assert away.answered.wait(WAIT_S)
    for _ in range(1000):
        if not known.lasts:
            break
        threading.Event().wait(0.01)
    assert not known.is_too_long


def test_a_short_outage_costs_each_trial_one_attempt_at_most_and_the_run_ends_well(
    planted: Planted, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More trials than the breaker takes failures: all that start meanwhile would fail, again and again."""
    goes_away(planted, monkeypatch, times=20)
    told = call("run", write_study(tmp_path, axes=AXES, seeds=TRIALS))
    ids = [trial.trial_id for trial in planted.trained]
    assert len(ids) - len(set(ids)) <= 2, "those that ran when it began"
    assert "nothing starts until the storage answers: planted tracking" in told
    assert "the storage answers again" in told
    assert f"{len(set(ids))} trials trained, 0 were done before, 0 failed" in told


def test_a_storage_that_stays_away_ends_the_run(
    planted: Planted, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_away(planted, monkeypatch, times=float("inf"))
    monkeypatch.setattr(outage, "LIMIT_S", 0.2)
    told = call("run", write_study(tmp_path, axes=AXES, seeds=TRIALS), code=3)
    assert "trials are put off: the storage has been away for " in told
    assert "or the storage stayed away; mend the cause and run again" in told
    assert len(planted.trained) <= 4
