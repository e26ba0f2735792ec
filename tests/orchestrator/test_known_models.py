"""Facts about models that a plan remembers, and when it forgets them."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator import known_models
from orchestrator.api import plan_study
from orchestrator.known_models import KnownModels
from orchestrator.plan import make_plan
from search_spaces.files import load_study
from search_spaces.home import scalecurves_home
from search_spaces.normalisation import Normalisation
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale, ResolvedSource, UpstreamNet, UpstreamSource
from tests.orchestrator.light import run_light
from tests.orchestrator.small_study import raw_study, write_study
from trainables.library import TaskLibrary
from trainables.models import check_scale, scale_card
from trainables.shipped_cards import shipped_cards
from trainables.sources import check_source
from trainables.timm_files import LOCAL_VARIABLE

NETS = """
from torch import nn

from helper import width

def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(768, width), nn.Linear(width, num_classes))
"""
SPEC = ScaleSpec(factory="nets:net", input_size=16)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "helper.py").write_text("width = 8\n")
    return tmp_path


def check(folder, spec=SPEC):
    known = KnownModels(folder)
    known.check_scale("small", spec, [str(folder)])
    known.save()


def asked(folder, monkeypatch, spec=SPEC) -> int:
    """How often torch is asked about this scale."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr("trainables.models.check_scale", lambda *a: calls.append(a) or check_scale(*a))
        check(folder, spec)
    return len(calls)


@pytest.fixture
def remembered(folder):
    check(folder)
    return folder


def test_a_scale_is_checked_once(remembered, monkeypatch):
    assert asked(remembered, monkeypatch) == 0


@pytest.mark.parametrize("factory", ["nets:net", "nets:wrapped"])
def test_a_card_stays_what_it_was(folder, factory):
    with (folder / "nets.py").open("a") as file:
        file.write("\nwrapped = net\n")
    for _ in range(2):
        known = KnownModels(folder)
        assert known.scale_card(factory, [str(folder)]) == scale_card(factory, [str(folder)])
        known.save()


@pytest.mark.parametrize("changed", ["nets.py", "helper.py"])
def test_a_change_of_the_factory_or_of_what_it_imports_is_seen(remembered, monkeypatch, changed):
    with (remembered / changed).open("a") as file:
        file.write("# changed\n")
    assert asked(remembered, monkeypatch) == 1


def test_another_question_or_another_torch_is_asked_again(remembered, monkeypatch):
    assert asked(remembered, monkeypatch, SPEC.model_copy(update={"ladder": "mine"})) == 1
    monkeypatch.setattr(known_models, "_versions", lambda: {"torch": "99"})
    assert asked(remembered, monkeypatch) == 1


def test_the_cache_may_be_damaged_or_deleted(remembered, monkeypatch):
    file = remembered / "cache" / "models.json"
    file.write_text("{")
    assert asked(remembered, monkeypatch) == 1
    assert asked(remembered, monkeypatch) == 0
    file.unlink()
    assert asked(remembered, monkeypatch) == 1


def test_it_does_not_grow_for_ever(remembered, monkeypatch):
    monkeypatch.setattr(known_models, "MOST", 3)
    for number in range(8):
        check(remembered, SPEC.model_copy(update={"ladder": str(number)}))
    kept = json.loads((remembered / "cache" / "models.json").read_text())
    assert len(kept) == 3


def costs_of(plan) -> list[str]:
    return [f"{t.trial_id}:{t.cost}" for t in plan.trials]


PRINT_COSTS = "print(*(f'{t.trial_id}:{t.cost}' for t in plan.trials))"


def forget() -> None:
    shutil.rmtree(scalecurves_home() / "cache", ignore_errors=True)


def test_a_second_plan_is_the_same_and_needs_no_torch(tmp_path):
    file = write_study(tmp_path)
    first = plan_study(file)
    assert (scalecurves_home() / "cache" / "models.json").is_file()
    code = f"from orchestrator import plan_study\nplan = plan_study({str(file)!r})\n{PRINT_COSTS}"
    assert run_light(code) == costs_of(first)


def test_the_first_status_needs_no_torch(tmp_path):
    file = write_study(tmp_path)
    code = f"from orchestrator import study_status\nprint(study_status({str(file)!r})['missing'])"
    assert run_light(code) == ["8"]


def test_networks_of_which_all_trials_are_finished_are_not_built(tmp_path, monkeypatch):
    file = write_study(tmp_path)
    first = plan_study(file)
    finished = {t.trial_id: t.parameters for t in first.trials}
    forget()
    code = (
        "from orchestrator.plan import make_plan\nfrom search_spaces.files import load_study\n"
        "from search_spaces.home import scalecurves_home\nfrom trainables.library import TaskLibrary\n"
        "library = TaskLibrary(scalecurves_home())\n"
        f"plan = make_plan(load_study({str(file)!r}), library, trained=lambda: {finished!r})\n{PRINT_COSTS}"
    )
    assert run_light(code) == costs_of(first)
    forget()
    built = []
    monkeypatch.setattr("trainables.sources.check_source", lambda *a: built.append(a[1].name) or check_source(*a))
    finished.pop(next(t.trial_id for t in first.trials if t.trial.cell.pretraining_source == "spots_pre"))
    second = make_plan(load_study(str(file)), TaskLibrary(scalecurves_home()), trained=lambda: finished)
    assert (costs_of(second), built) == (costs_of(first), ["spots_pre"])


def test_weights_of_a_trial_are_tried_once_and_not_at_all_where_the_networks_are_the_same(tmp_path):
    source = {"spots_pre": {"trial": {"task": "other_spots", "model_scale": "small"}}}
    scales = {**raw_study()["scales"], "small": {**raw_study()["scales"]["narrow"], "input_size": 20}}
    file = write_study(tmp_path, sources=source, scales=scales)
    first = plan_study(file)
    assert not first.problems
    code = f"from orchestrator import plan_study\nplan = plan_study({str(file)!r})\n{PRINT_COSTS}"
    assert run_light(code) == costs_of(first)


def test_only_another_network_is_tried(folder, monkeypatch):
    tried = []
    monkeypatch.setattr("trainables.sources.check_source", lambda *a: tried.append(a[-1]) or 7)
    scale = ResolvedScale(name="a", factory="resnet18", input_size=224)
    weights = UpstreamSource(upstream_trial_id="a" * 16)
    source = ResolvedSource(name="up", weights=weights, normalise=Normalisation.model_validate("imagenet"))
    same = UpstreamNet(scale=scale.model_copy(update={"name": "b", "ladder": "other"}), num_outputs=5, dense=False)
    other = UpstreamNet(scale=scale.model_copy(update={"input_size": 96}), num_outputs=5, dense=False)
    masks = same.model_copy(update={"dense": True})
    for upstream in (same, other, masks, other, masks):
        known = KnownModels(folder)
        known.check_source(scale, source, 2, [], upstream=upstream)
        known.save()
    assert [net for net in tried if net is not None] == [other, masks]
    if shipped_cards() is not None:
        assert tried == [other, masks]


@pytest.mark.parametrize("shipped", [True, False])
def test_a_local_file_of_timm_s_weights_is_part_of_the_card_and_read_again(folder, monkeypatch, shipped):
    if not shipped:
        monkeypatch.setattr(known_models, "known_facts", lambda *_: None)
    contents = []
    for text in (None, "one", "another"):
        if text is not None:
            (folder / "resnet10t.c3_in1k.pth").write_text(text)
            monkeypatch.setenv(LOCAL_VARIABLE, str(folder))
        known = KnownModels(folder)
        contents.append(known.scale_card("resnet10t", []).revision["c3_in1k"])
        known.save()
    assert contents[0] == scale_card("resnet10t").revision["c3_in1k"]
    assert all(content.startswith("resnet10t.c3_in1k@sha256:") for content in contents[1:])
    assert len(set(contents)) == 3
