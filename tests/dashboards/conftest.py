"""Fixtures of several files of tests of the dashboards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def little_to_collect() -> Iterator[None]:
    """For files that call statsmodels' multipletests often: it collects garbage at each call, which goes through all
    that the tests have loaded, 0.2 s each time.
    """
    gc.freeze()
    yield
    gc.unfreeze()
