"""The limit above a test session leaves out what it must, with a reason, and nothing else."""

from __future__ import annotations

import pytest

from tests.time_limit import SETTING, TimeLimit, register


class Item:
    """As much of a pytest item as the limit looks at."""

    def __init__(self, *marks: str) -> None:
        self.marks = marks

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


@pytest.mark.parametrize("marks", [("ray",), ("slow",), ("ray", "slow")])
def test_a_slow_machine_leaves_out_clusters_and_studies(marks):
    assert "7 times slower" in TimeLimit(60, slower=7).reason(Item(*marks))
    assert TimeLimit(60, slower=2).reason(Item(*marks)) is None


def test_small_tests_run_on_slow_machines_until_the_minutes_are_over():
    limit = TimeLimit(60, slower=7)
    assert limit.reason(Item()) is None
    limit.ends -= 3601
    assert "60 minutes" in limit.reason(Item())
    with pytest.raises(pytest.skip.Exception, match=SETTING):
        limit.pytest_runtest_setup(Item())


def test_a_limit_that_is_no_number_is_refused(monkeypatch, request):
    for text in ("soon", "0", "-3", "nan"):
        monkeypatch.setenv(SETTING, text)
        with pytest.raises(pytest.UsageError, match=SETTING):
            register(request.config)
