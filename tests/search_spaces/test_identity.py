"""Identity in both directions: what must change the id does, what must not does not."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.expand import expand
from search_spaces.identity import Cards, canonical
from search_spaces.models import identity_fields
from search_spaces.protocol import Protocol
from search_spaces.resolve import Resolver, resolve_ids
from search_spaces.trial import ResolvedTrial, Workspace
from tests.search_spaces.examples import cards, raw_study, study

WORKSPACE = Workspace(home="/home", storage="/storage")


def ids(changed_cards: Cards | None = None, **changes: Any) -> list[str]:
    one = study(**changes)
    resolver = Resolver(one, changed_cards or cards())
    return [resolver.trial_id(t) for t in expand(one).trials]


def nested(key: str, **inner: Any) -> dict[str, Any]:
    """The example's top-level mapping ``key`` with entries merged in."""
    return {key: {**raw_study()[key], **inner}}


def with_task(**fields: Any) -> dict[str, Any]:
    return nested("tasks", ham10000={**raw_study()["tasks"]["ham10000"], **fields})


def with_weights(**fields: Any) -> dict[str, Any]:
    by_scale = raw_study()["sources"]["natural"]["by_scale"]
    by_scale["resnet20"] |= fields
    return nested("sources", natural={"by_scale": by_scale})


SAME = {
    "study name": {"name": "other"},
    "statistics": {"statistics": {"baseline": "natural", "delta": 0.5}},
    "execution": {"execution": {"gang": {"ranks": 4}, "keep_weights": "none"}},
    "ladder": nested("scales", resnet20={"factory": "mynets:resnet20", "input_size": 32, "ladder": "other"}),
    "evaluation set added": with_task(
        evaluate={**raw_study()["tasks"]["ham10000"]["evaluate"], "men": {"where": {"sex": "M"}}}
    ),
    "default of a later field written out": nested(
        "protocol", mixup_alpha=0, augmentation={"hue": 0.0, "erasing_scale": [0.02, 1 / 3]}
    ),
    "default written out": nested("protocol", lr=0.001, optimizer="adamw"),
    "12 and 12.0": nested("protocol", weight_decay=0.01, warmup_fraction=0.10),
    "contents": with_weights(contents=["cifar10", "more"]),
    "where value and list of one": nested(
        "tasks", lgg_tumour={**raw_study()["tasks"]["lgg_tumour"], "where": {"site": "DU"}}
    ),
    "all labels written out": with_task(labels=["bcc", "mel", "nv"]),
}

DIFFERENT = {
    "budget": nested("protocol", budget={"steps": 301}),
    "ghost batch": nested("protocol", ghost_batch_size=16),
    "augmentation": nested("protocol", augmentation={"horizontal_flip": 0.0}),
    "later field": nested("protocol", mixup_alpha=0.2),
    "later field of augmentation": nested("protocol", augmentation={"hue": 0.1}),
    "test time": nested("protocol", test_time_augmentation="flip"),
    "select": nested("protocol", select="last"),
    "input size": nested("scales", resnet20={"factory": "mynets:resnet20", "input_size": 40}),
    "arguments": nested("scales", resnet20={"factory": "mynets:resnet20", "input_size": 32, "arguments": {"width": 8}}),
    "held out rows": with_task(evaluate={"head_neck": {"where": {"localization": ["face"]}, "held_out": True}}),
    "labels": with_task(labels=["mel", "nv"]),
    "order of labels": with_task(labels=["nv", "mel", "bcc"]),
    "where": with_task(where={"sex": "M"}),
    "label policy": with_task(label_policy="ones"),
    "primary metric": with_task(primary="accuracy"),
    "normalise": with_weights(normalise="half"),
    "dropped tensors": with_weights(drop=["linear", "bn1"]),
    "norm of mean-var": nested("sources", natural_meanvar={"transform": "mean_var", "of": "natural", "norm": "keep"}),
    "upstream fraction": nested(
        "sources", chest_pre={"trial": {"task": "chest", "data_fraction": 0.5, "pretraining_source": "random"}}
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_no_science_keeps_the_ids(what):
    assert ids(**SAME[what]) == ids()


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_the_science_changes_ids(what):
    assert set(ids(**DIFFERENT[what])) - set(ids())


def test_names_of_scales_sources_and_tasks_are_not_in_it():
    raw = raw_study()
    text = str(raw).replace("'natural'", "'imagenet_or_cifar'").replace("'ham10000'", "'skin'")
    renamed = eval(text)
    renamed["tasks"]["skin"]["manifest"] = "ham10000"
    assert ids(**renamed) == ids()


def test_fields_that_came_later_change_no_id_of_what_does_not_use_them():
    fields = identity_fields(Protocol())
    assert set(fields) == {
        "base", "budget", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_fraction", "clip_norm",
        "label_smoothing", "ema_decay", "global_batch_size", "ghost_batch_size", "storage_size", "precision",
        "imbalance", "select", "evaluations", "augmentation",
    }  # fmt: skip
    assert fields["augmentation"] == {
        "crop_scale": (0.5, 1.0), "crop_ratio": (0.75, 4 / 3), "horizontal_flip": 0.5, "vertical_flip": 0.0,
        "rotation_degrees": 0.0, "brightness": 0.0, "contrast": 0.0,
    }  # fmt: skip
    assert identity_fields(Protocol(cutmix_alpha=1.0))["cutmix_alpha"] == 1.0


@pytest.mark.parametrize("field", ["files", "scales", "tasks"])
def test_content_is_in_it(field):
    facts = cards()
    changed = {
        "files": {**facts.files, "cifar.th": "9" * 64},
        "scales": {**facts.scales, "resnet20": dataclasses.replace(facts.scales["resnet20"], factory_sha256="0" * 64)},
        "tasks": {**facts.tasks, "ham10000": dataclasses.replace(facts.tasks["ham10000"], manifest_hash="z")},
    }[field]
    assert set(ids(dataclasses.replace(facts, **{field: changed}))) - set(ids())


def test_every_trial_has_its_own_id_and_both_seeds_count():
    one = study(seeds={"subset": 2, "init": 2})
    trials = expand(one).trials
    assert len(resolve_ids(one, trials, cards())) == len(trials)


def test_upstream_reaches_every_descendant():
    changed = nested("tasks", chest={"manifest": "chestphantom", "primary": "auc_macro", "labels": ["nodule"]})
    one = study()
    resolver, other = Resolver(one, cards()), Resolver(study(**changed), cards())
    for trial in expand(one).trials:
        depends = trial.cell.pretraining_source == "chest_pre" or trial.cell.task == "chest"
        assert (resolver.trial_id(trial) != other.trial_id(trial)) == depends


def test_cell_id_joins_the_seeds_of_a_cell():
    one = study()
    resolver = Resolver(one, cards())
    by_cell: dict[str, set[str]] = {}
    for trial in expand(one).targets:
        by_cell.setdefault(trial.cell.label, set()).add(resolver.cell_id(trial))
    assert all(len(found) == 1 for found in by_cell.values())
    assert len(set.union(*by_cell.values())) == len(by_cell)


def test_ids_are_the_same_as_ever():
    """A change here means that every finished trial of every user runs again: raise SCIENCE_VERSION knowingly."""
    assert ids()[:3] == ["84e248cacb0e5a2b", "ba5038643abb7097", "8625c7d6d6de3dc8"]


def test_resolved_trial_survives_the_journey():
    one = study()
    resolver = Resolver(one, cards())
    for trial in expand(one).trials[::17]:
        resolved = resolver.resolved(trial, "attempt", WORKSPACE)
        assert ResolvedTrial.model_validate(resolved.model_dump(mode="json")) == resolved


def test_timm_weights_bring_their_normalisation_and_revision():
    one = study(
        axes={"model_scale": "resnet18", "pretraining_source": "in1k", "task": "ham10000", "data_fraction": 1.0},
        sources={"in1k": {"timm": "a1_in1k"}},
        exclude=[],
        overrides=[],
        statistics={},
    )
    source = Resolver(one, cards()).resolved(expand(one).trials[0], "attempt", WORKSPACE).source
    assert source.content == "timm/resnet18.a1_in1k"
    assert source.normalise.mean == (0.5, 0.5, 0.5)


def test_ten_thousand_cells_expand_and_hash():
    axes = {**raw_study()["axes"], "data_fraction": [{"images": i} for i in range(1, 626)]}
    one = study(axes=axes, exclude=[], seeds=1, statistics={})
    started = time.perf_counter()
    expansion = expand(one)
    found = resolve_ids(one, expansion.trials, cards())
    print(f"10,000 cells expanded and hashed in {time.perf_counter() - started:.2f} s")
    assert len(expansion.cells) == 10_000
    assert len(found) == len(expansion.trials)


@given(
    st.recursive(
        st.integers(-9, 9) | st.booleans() | st.none() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x),
        max_leaves=8,
    )
)
def test_canonical_is_independent_of_key_order(value):
    def reverse(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: reverse(v[k]) for k in reversed(v)}
        return [reverse(i) for i in v] if isinstance(v, list) else v

    assert canonical(reverse(value)) == canonical(value)


def test_canonical_writes_whole_floats_as_integers_and_refuses_nan():
    assert canonical({"b": 12.0, "a": (1, 2.5)}) == '{"a":[1,2.5],"b":12}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_a_trial_that_an_earlier_version_kept_is_what_it_was_then():
    """A later field of the protocol that a recipe sets today did not exist: what was done is its default."""
    one = study(protocol={"base": "bit_hyperrule", "storage_size": 160})
    [trial, *_] = expand(one).targets
    now = Resolver(one, cards()).resolved(trial, "attempt", WORKSPACE)
    assert now.protocol.mixup_share == "step"
    kept = now.model_dump(mode="json")
    del kept["protocol"]["mixup_share"]
    for then in (ResolvedTrial.model_validate(kept), ResolvedTrial.model_validate_json(json.dumps(kept))):
        assert then.protocol == now.protocol.model_copy(update={"mixup_share": "image"})
    assert ResolvedTrial.model_validate(kept | {"protocol": {"base": "bit_light"}}).protocol.mixup_share == "step"
