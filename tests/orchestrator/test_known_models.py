"""Facts about models that a plan remembers, and when it forgets them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from orchestrator import known_models
from orchestrator.api import plan_study
from orchestrator.known_models import KnownModels
from search_spaces.home import scalecurves_home
from search_spaces.study import ScaleSpec
from tests.orchestrator.small_study import write_study
from trainables.models import scale_card

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


def card_of(folder, spec=SPEC):
    known = KnownModels(folder)
    card = known.scale_card("small", spec, [str(folder)])
    known.save()
    return card


def asked(folder, monkeypatch, spec=SPEC) -> int:
    """How often torch is asked for this card."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr("trainables.models.scale_card", lambda *a: calls.append(a) or scale_card(*a))
        card_of(folder, spec)
    return len(calls)


@pytest.fixture
def remembered(folder):
    card_of(folder)
    return folder


def test_a_card_is_asked_for_once_and_stays_what_it_was(remembered, monkeypatch):
    assert asked(remembered, monkeypatch) == 0
    assert card_of(remembered) == scale_card("small", SPEC, [str(remembered)])


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
        card_of(remembered, SPEC.model_copy(update={"ladder": str(number)}))
    kept = json.loads((remembered / "cache" / "models.json").read_text())
    assert len(kept) == 3


def test_a_second_plan_is_the_same_and_needs_no_torch(tmp_path):
    file = write_study(tmp_path)
    first = plan_study(file)
    code = (
        "import sys; from orchestrator import plan_study; "
        f"p = plan_study({str(file)!r}); heavy = {{'torch', 'ray', 'mlflow'}} & set(sys.modules); "
        "assert not heavy, heavy; "
        "print(*(f'{t.trial_id}:{t.cost}' for t in p.trials))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-600:]
    assert ran.stdout.split() == [f"{t.trial_id}:{t.cost}" for t in first.trials]
    assert (scalecurves_home() / "cache" / "models.json").is_file()
