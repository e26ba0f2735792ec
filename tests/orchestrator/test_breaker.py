"""When a kind of trials is left because it keeps failing alike."""

from __future__ import annotations

import pytest

from orchestrator.breaker import ALIKE, Breaker
from search_spaces.names import FailureClass
from search_spaces.results import Failure


def failure(message: str = "no such file", failure_class: FailureClass = FailureClass.USER) -> Failure:
    return Failure(failure_class=failure_class, message=message, public_message=message)


def at(scale: str, task: str = "skin") -> dict[str, str]:
    return {"model_scale": scale, "task": task}


def test_what_the_failures_have_in_common_is_left() -> None:
    breaker = Breaker()
    for n in range(ALIKE - 1):
        assert breaker.failed(at("large", f"task {n}"), failure(f"step {n}: no '{n}.png' in /data/{n}/x")) is None
    kind = breaker.failed(at("large", "skin"), failure("step 9: no '9.png' in /data/9/x"))
    assert kind is not None
    assert kind.label == "model_scale=large"
    assert kind.holds(at("large", "another"))
    assert not kind.holds(at("small"))


def test_failures_with_nothing_in_common_leave_everything() -> None:
    breaker = Breaker(alike=2)
    breaker.failed(at("large", "skin"), failure())
    kind = breaker.failed(at("small", "brain"), failure())
    assert kind is not None
    assert kind.label == "the whole study"
    assert kind.holds(at("any", "thing"))


def test_a_kind_of_which_one_was_completed_is_not_left() -> None:
    breaker = Breaker(alike=2)
    breaker.completed(at("large", "brain"))
    breaker.failed(at("large", "skin"), failure())
    assert breaker.failed(at("large", "chest"), failure()) is None


def test_of_two_kinds_that_fail_alike_each_is_left() -> None:
    breaker = Breaker(alike=3)
    breaker.completed(at("small"))
    found = [breaker.failed(at(scale), failure()) for _ in range(3) for scale in ("huge", "big")]
    assert [kind.label if kind else None for kind in found] == [
        *[None] * 4,
        "model_scale=huge, task=skin",
        "model_scale=big, task=skin",
    ]


@pytest.mark.parametrize(
    "second", [failure("another message"), failure(failure_class=FailureClass.DATA)], ids=["message", "class"]
)
def test_other_messages_and_classes_are_counted_apart(second: Failure) -> None:
    breaker = Breaker(alike=2)
    assert breaker.failed(at("large"), failure()) is None
    assert breaker.failed(at("large"), second) is None


def test_divergence_is_an_outcome() -> None:
    breaker = Breaker(alike=1)
    assert breaker.failed(at("large"), failure(failure_class=FailureClass.DIVERGENCE)) is None
