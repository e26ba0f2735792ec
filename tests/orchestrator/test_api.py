"""Studies from Python: what the README shows, in a notebook's circumstances."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading

import pytest

import orchestrator
from cluster.connection import connect
from orchestrator import plan_study, run_study, study_status
from orchestrator.api import loaded
from search_spaces.exceptions import UserError
from search_spaces.home import scalecurves_home
from search_spaces.study import Study
from tests.conftest import ROOT
from tests.orchestrator.light import run_light
from tests.orchestrator.small_study import raw_study, write_study

AXES = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}


def in_a_cell(action):
    """What an action gives inside a running event loop, away from the main thread, as some notebooks run cells."""
    results = []

    async def cell():
        results.append(action())

    thread = threading.Thread(target=lambda: asyncio.run(cell()))
    thread.start()
    thread.join()
    assert results, "the cell raised"
    return results[0]


@pytest.mark.ray
def test_the_readme_example_runs_in_a_cell(tmp_path, monkeypatch):
    file = write_study(tmp_path, axes=AXES, seeds=2)
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    code = example.group(1).replace("my_study.yaml", str(file)).replace("auc_macro", "auc")
    names: dict[str, object] = {}
    with connect("local", num_cpus=2, import_paths=[str(ROOT)]):
        in_a_cell(lambda: exec(code, names) or True)
    ran = names["ran"]
    assert ran.summary.everything_asked_is_true
    assert (ran.summary.trained, len(ran.results())) == (1, 1)
    assert ran.report == tmp_path / "reports" / "small" / "index.html"
    assert ran.report.is_file()
    assert ran.headlines
    assert study_status(file)["missing"] == 1
    shutil.rmtree(scalecurves_home() / "cache")
    sizes = f"print(*(t.parameters for t in plan_study({str(file)!r}, only='seed=0').trials))"
    found = run_light(f"from orchestrator import plan_study\n{sizes}")
    assert found == [str(t.parameters) for t in names["ran"].plan.trials], "the record knows the network's size"


def test_a_study_may_be_an_object_a_mapping_a_file_or_a_preset(tmp_path):
    file = write_study(tmp_path, axes=AXES)
    raw = raw_study(axes=AXES)
    plans = [plan_study(s) for s in (file, str(file), raw, Study.parse(raw, "test"))]
    assert len({tuple(t.trial_id for t in p.targets) for p in plans}) == 1
    assert not any(p.problems for p in plans)
    assert loaded("demo").study.name == "demo"
    assert len(plan_study(raw, only="seed=0").targets) == 1


def test_everything_goes_to_the_home_that_is_given(tmp_path, monkeypatch):
    raw = raw_study(axes=AXES)
    write_study(tmp_path, axes=AXES)
    home = tmp_path / "home"
    monkeypatch.setenv("SCALECURVES_HOME", str(tmp_path / "another"))
    assert study_status(raw, home=home)["missing"] == 2
    with pytest.raises(UserError, match=r"unknown task 'spots'"):
        study_status(raw)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"max_concurrent": 0}, "at least 1, got 0"), ({"only": "sed=0"}, "Did you mean 'seed'")],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(tmp_path, options, named):
    with pytest.raises(UserError, match=named):
        run_study(write_study(tmp_path, axes=AXES), progress=False, **options)


def test_problems_are_named_and_plans_hold_them(tmp_path):
    raw = raw_study(axes=AXES | {"task": ["other_spots"]})
    raw["tasks"]["other_spots"]["manifest"] = "not_there"
    write_study(tmp_path)
    assert any("not_there" in problem for problem in plan_study(raw).problems)
    with pytest.raises(UserError, match="not_there"):
        run_study(raw, progress=False)


def test_the_package_offers_the_interface_and_nothing_else():
    assert all(getattr(orchestrator, name) for name in orchestrator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = orchestrator.nonsense
