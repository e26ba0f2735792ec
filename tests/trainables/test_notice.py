"""Orders between two reports."""

from __future__ import annotations

import threading

import pytest

from search_spaces.results import Order
from trainables.notice import Courier, Notice, order_of


def test_a_report_brings_the_most_severe_order_once() -> None:
    notice = Notice()
    assert notice.heeded(Order.GO) is Order.GO
    notice.give(Order.SAVE)
    assert notice.heeded(Order.GO) is Order.SAVE
    assert notice.heeded(Order.GO) is Order.GO, "obeyed"
    assert notice.heeded(Order.STOP) is Order.STOP
    notice.give(Order.STOP)
    assert notice.heeded(Order.GO) is Order.STOP


def test_the_most_severe_order_is_taken_once() -> None:
    notice = Notice()
    assert order_of(notice.take()) is Order.GO
    notice.give(Order.SAVE)
    assert order_of(notice.take()) is Order.SAVE
    notice.give(Order.SAVE)
    assert order_of(notice.take()) is Order.GO, "it was obeyed"
    notice.give(Order.STOP)
    notice.give(Order.SAVE)
    assert order_of(notice.take()) is Order.STOP
    notice.clear()
    notice.give(Order.SAVE)
    assert order_of(notice.take()) is Order.SAVE, "another trial"


@pytest.mark.timeout(30)
def test_the_courier_asks_while_a_trial_runs_and_survives_whoever_does_not_answer() -> None:
    notice = Notice()
    asked = threading.Semaphore(0)
    answers = iter([RuntimeError("the broker is gone"), "go", "save"])

    def ask() -> str:
        asked.release()
        answer = next(answers, "go")
        if isinstance(answer, Exception):
            raise answer
        return answer

    courier = Courier(notice, every_s=0.001)
    with courier.asking(ask):
        for _ in range(5):
            assert asked.acquire(timeout=10)
        assert order_of(notice.take()) is Order.SAVE
    with courier.asking(lambda: "go"):
        assert order_of(notice.take()) is Order.GO, "each trial begins without an order"
