"""Phantoms: drawn from the seed alone, valid as tasks, with the planted differences where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale
from tests.trainables.made_tasks import make_library, make_task
from trainables.checks import check_task
from trainables.evaluation_sets import task_rows
from trainables.models import build_model, scale_card
from trainables.phantom_images import TEXTURES, chest_images, natural_images, skin_images
from trainables.phantoms import FINDINGS, LESIONS, PHANTOMS, PLANTED, RECIPE, PhantomSizes, PlantedKind, make_phantoms

SMALL = PhantomSizes(natural=(80, 48, 48), chest=(60, 40, 40, 20), skin=(60, 40, 40))


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


def pixels(manifest, row):
    return np.asarray(Image.open(manifest.file(row)))


def test_each_phantom_is_a_task_without_errors(library):
    made = make_phantoms(library, sizes=SMALL)
    assert set(made) == set(PHANTOMS) == set(library.names())
    for name, manifest in made.items():
        assert check_task(library, name).errors == ()
        assert pixels(manifest, 0).shape == ((64, 64, 3) if name == "skin_phantom" else (64, 64))
    assert made["natural_phantom"].labels == tuple(TEXTURES)
    assert not made["natural_phantom"].patients_known
    assert made["chest_phantom"].kind is Kind.MULTILABEL


def test_the_chest_phantom_has_sites_devices_and_whole_patients(library):
    table = make_phantoms(library, ["chest_phantom"], sizes=SMALL)["chest_phantom"].table
    assert set(table["split"]) == {"train", "val", "test", "external"}
    assert ((table["split"] == "external") == (table["site"] == "B")).all()
    of_patient = table.groupby("patient_id")
    assert set(of_patient.size()) == {1, 2}
    shared = ["split", "site", "sex", "age_years", "g_device", *(f"y_{finding}" for finding in FINDINGS)]
    assert (of_patient[shared].nunique() == 1).all(axis=None)
    evaluate = {"test": {}, "site_b": {"split": ["external"]}}
    rows = task_rows(library, make_task(library, "chest_phantom", evaluate))
    assert len(rows.sets["site_b"].positions) == (table["site"] == "B").sum()


def test_the_seed_draws_everything(library, tmp_path):
    first = make_phantoms(library, sizes=SMALL)
    again = make_phantoms(make_library(tmp_path / "again"), sizes=SMALL)
    other = make_phantoms(make_library(tmp_path / "other"), seed=1, sizes=SMALL)
    for name in PHANTOMS:
        assert first[name].table_hash == again[name].table_hash != other[name].table_hash
        np.testing.assert_array_equal(pixels(first[name], 5), pixels(again[name], 5))
        assert first[name].file(5).read_bytes() == again[name].file(5).read_bytes()


def test_a_phantom_does_not_depend_on_which_others_are_made(library, tmp_path):
    alone = make_phantoms(library, ["skin_phantom"], sizes=SMALL)["skin_phantom"]
    among = make_phantoms(make_library(tmp_path / "all"), sizes=SMALL)["skin_phantom"]
    assert alone.table_hash == among.table_hash
    np.testing.assert_array_equal(pixels(alone, 3), pixels(among, 3))


def test_only_what_is_missing_is_made_unless_named(library):
    first = make_phantoms(library, ["skin_phantom"], sizes=SMALL)["skin_phantom"]
    before = first.file(0).stat().st_ino
    assert set(make_phantoms(library, sizes=SMALL)) == {"natural_phantom", "chest_phantom"}
    assert first.file(0).stat().st_ino == before
    assert make_phantoms(library, sizes=SMALL) == {}
    assert set(make_phantoms(library, ["skin_phantom"], sizes=SMALL)) == {"skin_phantom"}
    assert not list((library.home / "phantoms").glob("*.partial"))


def test_refusals(library):
    with pytest.raises(UserError, match="Did you mean 'skin_phantom'"):
        make_phantoms(library, ["skin_fantom"])
    library.home.mkdir()
    (library.home / "phantoms").write_text("in the way")
    with pytest.raises(UserError, match="phantoms cannot be written"):
        make_phantoms(library, sizes=SMALL)


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_look_the_same_in_a_mirror(name):
    stack = TEXTURES[name](np.random.default_rng(0), 400)
    stack = stack - stack.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(stack)) ** 2).mean(0)
    mirrored = (np.abs(np.fft.fft2(stack[:, :, ::-1])) ** 2).mean(0)
    near = slice(0, 12), slice(0, 12)
    assert np.corrcoef(power[near].ravel(), mirrored[near].ravel())[0, 1] > 0.97


def chest(findings, *, strength=1.0, shifted=False, seed=0):
    n = len(findings)
    return chest_images(
        np.random.default_rng(seed),
        findings,
        tuple(FINDINGS.values()),
        distractors=("rings",),
        weakened=np.full(n, True),
        weakening=strength,
        shifted=shifted,
    ).astype(float)


def test_a_weakened_finding_keeps_its_place_and_loses_strength():
    present, absent = np.ones((100, 3), bool), np.zeros((100, 3), bool)
    np.testing.assert_array_equal(chest(absent), chest(absent, strength=0.25))
    # The generators run in step: images of different strength differ in the findings alone, in proportion to it.
    whole, half, quarter = (chest(present) - chest(present, strength=s) for s in (0.0, 0.5, 0.75))
    assert whole.std() > 10
    assert half.std() / whole.std() == pytest.approx(0.5, abs=0.03)
    assert quarter.std() / whole.std() == pytest.approx(0.25, abs=0.03)
    assert np.corrcoef(whole.ravel(), half.ravel())[0, 1] > 0.97


def test_the_shifted_site_is_brighter_flatter_and_noisier():
    findings = np.ones((200, 3), bool)
    ours, theirs = chest(findings), chest(findings, shifted=True)
    assert theirs.mean() - ours.mean() == pytest.approx(25, abs=5)
    noise = [np.diff(np.diff(stack, axis=1), axis=2).std() / 2 for stack in (ours, theirs)]
    assert noise[1] > 1.4 * noise[0]
    smooth = [stack.reshape(200, 8, 8, 8, 8).mean((2, 4)).std((1, 2)).mean() for stack in (ours, theirs)]
    assert smooth[1] < 0.6 * smooth[0]


@pytest.mark.parametrize("draw", [natural_images, lambda rng, y: skin_images(rng, y, tuple(LESIONS.values()))])
def test_grey_level_gives_no_class_away(draw):
    classes = 4
    y = np.repeat(np.arange(classes), 200)
    grey = draw(np.random.default_rng(0), y).reshape(len(y), -1).mean(1)
    means = [grey[y == k].mean() for k in range(classes)]
    assert np.ptp(means) < 6 * grey.std() / np.sqrt(200)


def test_phantom_nets_form_a_ladder():
    parameters = []
    for width in (4, 8, 12):
        spec = ScaleSpec(factory="trainables.phantom_nets:phantom_net", arguments={"width": width}, input_size=32)
        card = scale_card(str(spec.factory))
        scale = ResolvedScale(
            name="net",
            factory=str(spec.factory),
            arguments=spec.arguments,
            input_size=32,
            factory_sha256=card.factory_sha256,
        )
        model = build_model(scale, num_outputs=3, seed=0)
        assert set(model.head) == {"head.weight", "head.bias"}
        parameters.append(model.parameters)
    assert parameters[0] < parameters[1] < parameters[2]


def test_planted_truths_speak_of_what_exists():
    assert {truth.kind for truth in PLANTED} == set(PlantedKind)
    for truth in PLANTED:
        assert truth.manifest in PHANTOMS
        assert truth.at_least is not None or truth.at_most is not None
        assert all(0 < fraction <= 1 for fraction in truth.data_fractions)
        assert (truth.groups is not None) == (truth.kind is PlantedKind.GROUP_GAP)
    assert "budget" in RECIPE
