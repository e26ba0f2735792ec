"""Figures drawn by several processes are those that one draws."""

from __future__ import annotations

import dataclasses

import pytest

from dashboards import figure_files
from dashboards.curve_plots import scale_curves
from dashboards.figure_files import write_figures
from dashboards.static import render
from tests.dashboards.synthetic import whole_tables


@pytest.fixture(scope="module")
def plots():
    tables = whole_tables()
    found = scale_curves(tables.cells[tables.cells["primary"]], tables.trial_values, "random")[:2]
    return [dataclasses.replace(plot, key=f"{plot.key}_{k}") for plot in found for k in range(2)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def several(monkeypatch):
    """Two processes for four figures."""
    monkeypatch.setattr(figure_files, "PER_PROCESS", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.mark.usefixtures("several")
def test_the_same_bytes_from_one_process_and_from_two(plots, tmp_path):
    write_figures(plots, tmp_path)
    expected = {}
    for plot in plots:
        expected[f"{plot.key}.svg"], expected[f"{plot.key}.png"] = render(plot)
    assert files_of(tmp_path) == expected


@pytest.mark.usefixtures("several")
def test_what_a_lost_process_leaves_is_drawn_here(plots, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    write_figures(plots, tmp_path)
    assert len(files_of(tmp_path)) == 2 * len(plots)


def test_another_way_of_drawing_stays_in_this_process(plots, tmp_path):
    write_figures(plots, tmp_path, lambda plot: (plot.key.encode(), b"png"))
    assert files_of(tmp_path)[f"{plots[0].key}.svg"] == plots[0].key.encode()
