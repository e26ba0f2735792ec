"""What of the tests is left out where a time limit stands above them (SCALECURVES_TEST_MINUTES), and why it is said so.

Without the setting everything runs, however long it takes. With it, a machine that is many times slower than usual
leaves out the tests that start clusters or whole studies, because their own waiting times are then too short, and
whatever has not begun when the minutes are over is left out, too: a run that is cut off from outside says nothing
about the tests that passed.
"""

from __future__ import annotations

import os
import time

import pytest

SETTING = "SCALECURVES_TEST_MINUTES"
# Seconds of `_turns` on one core of a server of 2021 with Python 3.11; the demo takes five minutes there.
USUAL_S = 0.16
SLOW = 4.0


def _turns() -> float:
    began = time.perf_counter()
    total = 0
    for turn in range(3_000_000):
        total += turn
    return time.perf_counter() - began


def times_slower() -> float:
    """How many times slower than usual plain Python runs here; the best of five, as other processes disturb."""
    return min(_turns() for _ in range(5)) / USUAL_S


class TimeLimit:
    """A pytest plugin that holds a test session to a number of minutes.

    Args:
        minutes: from now on, above 0.
        slower: how many times slower than usual the machine is, as of ``times_slower``.
    """

    def __init__(self, minutes: float, slower: float) -> None:
        self.minutes = minutes
        self.slower = slower
        self.ends = time.monotonic() + 60 * minutes

    def reason(self, item: pytest.Item) -> str | None:
        """Why a test is left out; None if it is to run."""
        if time.monotonic() > self.ends:
            return f"not begun within the {self.minutes:g} minutes of {SETTING}"
        long = item.get_closest_marker("ray") or item.get_closest_marker("slow")
        if long and self.slower > SLOW:
            return f"this machine is {self.slower:.0f} times slower than usual, and {SETTING} limits the tests"
        return None

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        reason = self.reason(item)
        if reason is not None:
            pytest.skip(reason)


def register(config: pytest.Config) -> None:
    """Add the plugin to a session where the setting is given.

    Raises:
        pytest.UsageError: the setting is no number of minutes above 0.
    """
    text = os.environ.get(SETTING, "")
    if not text:
        return
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not minutes > 0:
        raise pytest.UsageError(f"{SETTING}={text!r}: a number of minutes above 0 is expected")
    config.pluginmanager.register(TimeLimit(minutes, times_slower()), "time_limit")
