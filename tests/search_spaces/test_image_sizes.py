"""Image sizes of a trial: the scale's, written ones, and those of BiT-HyperRule by the data set's images."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from search_spaces.exceptions import UserError
from search_spaces.expand import Cell, expand
from search_spaces.identity import Cards, ScaleCard
from search_spaces.protocol import Protocol, changed
from search_spaces.resolve import Resolver
from search_spaces.trial import Workspace
from tests.search_spaces.examples import cards, study

BIT = "resnetv2_50x1_bit"
LARGEST = "resnetv2_152x4_bit"
RULED = {"base": "bit_hyperrule"}


def resolver(area: float | None = 300.0 * 300, *, scales: Any = (), protocol: Any = RULED, **changes: Any) -> Resolver:
    """Of a study of BiT nets on two tasks, of which HAM10000 has images of this area and LGG small ones."""
    names = [BIT, LARGEST]
    axes = {"model_scale": names, "pretraining_source": ["random"], "data_fraction": [0.2, 1.0]}
    one = study(
        axes={**axes, "task": ["ham10000", "lgg_tumour"]},
        scales=dict(scales),
        sources={},
        exclude=[],
        overrides=[],
        protocol=dict(protocol),
        seeds=1,
        **changes,
    )
    known = cards()
    tasks = {
        "ham10000": dataclasses.replace(known.tasks["ham10000"], image_area=area),
        "lgg_mri": dataclasses.replace(known.tasks["lgg_mri"], image_area=28.0 * 28),
    }
    return Resolver(one, Cards(scales={name: ScaleCard(input_size=224) for name in names}, files={}, tasks=tasks))


def sizes(made: Resolver) -> dict[tuple[str, str], tuple[int, int, Any]]:
    """(scale, task) -> input size, storage size and what the protocol says of both."""
    found = {}
    for trial in expand(made._study).trials:
        resolved = made.resolved(trial, "a", Workspace(home="", storage=""))
        entry = (resolved.scale.input_size, resolved.protocol.storage_size, resolved.protocol.image_size)
        found[trial.cell.model_scale, trial.cell.task] = entry
    return found


def cell(made: Resolver) -> Cell:
    return next(t.cell for t in expand(made._study).trials if t.cell.task == "ham10000")


def test_the_rule_goes_by_the_images_of_the_task_and_the_text_gives_the_largest_net_more():
    small = (128, 160, (160, 128))
    assert sizes(resolver()) == {
        (BIT, "ham10000"): (384, 448, (448, 384)),
        (LARGEST, "ham10000"): (480, 512, (512, 480)),
        (BIT, "lgg_tumour"): small,
        (LARGEST, "lgg_tumour"): small,
    }
    code = sizes(resolver(protocol={**RULED, "variant": "code"}))
    assert code[BIT, "ham10000"] == code[LARGEST, "ham10000"] == (480, 512, (512, 480))
    assert code[BIT, "lgg_tumour"] == small


def test_written_sizes_count_instead_of_the_rule():
    written = sizes(resolver(protocol={**RULED, "image_size": [256, 224]}))
    assert set(written.values()) == {(224, 256, (256, 224))}
    of_scale = sizes(resolver(scales={BIT: {"input_size": 64}}))
    assert of_scale[BIT, "ham10000"] == (64, 448, "scale")
    assert of_scale[LARGEST, "ham10000"] == (480, 512, (512, 480))
    stored = sizes(resolver(protocol={**RULED, "storage_size": 300}))
    assert set(stored.values()) == {(224, 300, "scale")}
    assert set(sizes(resolver(protocol={**RULED, "image_size": "scale"})).values()) == {(224, 448, "scale")}
    assert sizes(resolver(protocol={"image_size": "hyperrule"}))[BIT, "ham10000"] == (384, 448, (448, 384))


def test_two_sizes_are_refused():
    for image_size, crop in (([256, 224], 224), ("hyperrule", 384)):
        made = resolver(scales={BIT: {"input_size": 64}}, protocol={**RULED, "image_size": image_size})
        with pytest.raises(UserError, match=f"{BIT}.input_size is 64, protocol.image_size says {crop}; leave one out"):
            made.scale(cell(made))
    for image_size, message in (
        ([200, 224], r"\[resize, crop\] in pixels with 8 <= crop <= resize, got \[200, 224\]"),
        ([256, 4], "8 <= crop"),
        ("hyperule", "image_size"),
    ):
        with pytest.raises(UserError, match=message):
            Protocol.parse({"image_size": image_size}, "protocol")
    with pytest.raises(UserError, match=r"stores images at 256 pixels, got storage_size 300; leave storage_size out"):
        Protocol.parse({"image_size": [256, 224], "storage_size": 300}, "protocol")


def test_a_manifest_without_sizes_is_refused_by_the_rule_alone():
    made = resolver(None)
    with pytest.raises(UserError, match="manifest 'ham10000' records no image sizes"):
        made.scale(cell(made))
    made = resolver(None, protocol={"base": "finetune"})
    assert made.scale(cell(made)).input_size == 224


def test_the_rule_and_its_result_written_out_are_one_trial():
    def ids(made: Resolver) -> set[str]:
        return {made.trial_id(t) for t in expand(made._study).trials if t.cell.model_scale == BIT}

    def of_task(made: Resolver, task: str) -> set[str]:
        chosen = (t for t in expand(made._study).trials if (t.cell.model_scale, t.cell.task) == (BIT, task))
        return {made.trial_id(t) for t in chosen}

    ruled, written = resolver(), resolver(protocol={**RULED, "image_size": [448, 384]})
    assert of_task(ruled, "ham10000") == of_task(written, "ham10000")
    assert not of_task(ruled, "lgg_tumour") & of_task(written, "lgg_tumour")
    assert ids(resolver(96.0 * 96)) == ids(ruled), "an area on the same side of the border is the same science"
    assert of_task(resolver(95.0 * 96), "ham10000") != of_task(ruled, "ham10000")


def test_a_changed_protocol_keeps_the_sizes_that_a_rule_gave():
    made = resolver()
    assert changed(made.protocol(cell(made)), {"lr": 0.5}, "here").image_size == (448, 384)
