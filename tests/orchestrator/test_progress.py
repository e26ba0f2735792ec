"""What a run shows while it runs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cell_counts import CellCounts
from orchestrator.progress import ProgressView
from orchestrator.running_contrasts import RunningContrasts
from search_spaces.amounts import Amount, Seed
from search_spaces.expand import Cell, Trial
from search_spaces.names import Role
from tests.stand_ins import Clock


def trial(source: str = "random", task: str = "skin", seed: int = 0, fraction: float = 1.0, **more: Any) -> Trial:
    amount = Amount(kind="fraction", value=fraction)
    cell = Cell(model_scale="small", pretraining_source=source, data_fraction=amount, task=task)
    return Trial(cell=cell, seed=Seed(subset=seed, init=seed), **more)


def contrasts() -> RunningContrasts:
    return RunningContrasts("random", {"skin": "auc_macro", "chest": "nll"})


def test_differences_are_paired_by_seed_averaged_in_cells_and_then_over_cells() -> None:
    found = contrasts()
    for seed, (random, natural) in enumerate([(0.5, 0.6), (0.6, 0.8)]):
        found.take(trial("natural", seed=seed), natural)
        found.take(trial("random", seed=seed), random)
    found.take(trial("random", seed=7), 0.1)  # without a partner
    found.take(trial("random", fraction=0.1), 0.5)
    found.take(trial("natural", fraction=0.1), 0.45)
    [contrast] = found.contrasts()
    assert contrast.difference == pytest.approx((0.15 - 0.05) / 2)
    assert (contrast.pairs, contrast.cells) == (3, 2)
    assert contrast.line == "natural on skin: +0.050 auc_macro, 3 pairs in 2 cells"


def test_the_best_comes_first_whichever_way_its_metric_goes() -> None:
    found = contrasts()
    for task, source, value in [
        ("skin", "random", 0.5),
        ("skin", "natural", 0.6),
        ("chest", "random", 0.9),
        ("chest", "natural", 0.5),
        ("chest", "other", 1.0),
    ]:
        found.take(trial(source, task), value)
    assert [(c.source, c.task) for c in found.contrasts()] == [
        ("natural", "chest"),
        ("natural", "skin"),
        ("other", "chest"),
    ]
    heading, best, hidden, worst = found.lines(2)
    assert "random" in heading
    assert "no test" in heading
    assert best.endswith("natural on chest: -0.400 nll (lower is better), 1 pair in 1 cell")
    assert hidden.strip() == "... 1 more"
    assert "other on chest" in worst


def test_what_says_nothing_about_a_contrast_is_not_in_it() -> None:
    found = contrasts()
    found.take(trial("random"), 0.5)
    found.take(trial("natural"), None)
    found.take(trial("natural", role=Role.UPSTREAM), 0.9)
    assert found.lines() == []
    found.take(trial("natural"), 0.7)
    found.take(trial("natural"), 0.9)  # the same trial again
    assert found.contrasts()[0].difference == pytest.approx(0.2)


def test_cells_by_state() -> None:
    cells = CellCounts()
    for seed in range(2):
        for source in ("a", "b", "c", "d"):
            cells.expect(f"{source}{seed}", trial(source, task="skin" if source != "d" else "chest", seed=seed))
    cells.expect("up", trial(role=Role.UPSTREAM))
    for seed in range(2):
        cells.ended(f"a{seed}", done=True)
    cells.ended("b0", done=True)
    cells.ended("b1", done=False)
    cells.began("c0")
    assert cells.counts() == {"done": 1, "running": 1, "waiting": 1, "failed": 1}
    assert cells.task_ended("b1") == ""
    for seed in range(2):
        cells.ended(f"c{seed}", done=True)
    assert cells.task_ended("c1") == "skin"
    assert cells.task_ended("up") == ""
    cells.forget("d0")
    cells.forget("d1")
    assert sum(cells.counts().values()) == 3, "a cell without trials is none"


def view_of(terminal: bool, clock: Clock, seeds: int = 4) -> tuple[ProgressView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150, highlight=False)
    trials = {f"{source}{seed}": trial(source, seed=seed) for source in ("random", "natural") for seed in range(seeds)}
    return ProgressView(console, trials, dict.fromkeys(trials, 1.0), contrasts(), clock), out


def test_plain_lines_come_now_and_then_and_contrasts_at_the_end_of_a_task() -> None:
    clock = Clock()
    view, out = view_of(False, clock)
    with view:
        for seed in range(4):
            for source, value in (("random", 0.5), ("natural", 0.75)):
                clock.now += 1.0
                view.done(f"{source}{seed}", 1.0, value)
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["1/8 trials", "8/8 trials"], lines
    assert lines[0].endswith("cells: 0 done, 1 running, 1 waiting")
    assert lines[1].endswith("cells: 2 done")
    assert lines[2] == "all trials of skin have ended"
    assert lines[-1].strip() == "natural on skin: +0.250 auc_macro, 4 pairs in 1 cell"
    assert len(lines) == 5


def test_the_live_view_shows_cells_contrasts_failures_and_the_time_left() -> None:
    clock = Clock()
    view, out = view_of(True, clock)
    with view:
        view.known("before", trial("natural", seed=9), 0.9)
        view.report({"trial_id": "natural3", "step": 3, "steps": 10, "val": 0.5})
        for seed in range(2):
            for source, value in (("random", 0.5), ("natural", 0.6)):
                clock.now += 60.0
                view.done(f"{source}{seed}", 60.0, value)
        view.failed("natural2", "diverged")
    shown = out.getvalue()
    assert "FAILED small · natural · 1 · skin · seed 2 (natural2): diverged" in shown
    last = shown[shown.rindex("trials ") :]
    assert "1 failed" in last
    assert "1 trials/min" in last
    assert "about 3 min 00 s left (± 0 s)" in last
    assert "cells: 0 done, 2 running" in last
    assert "natural on skin: +0.100 auc_macro, 2 pairs in 1 cell" in last
