"""Three phantom data sets with planted truths, made by code in seconds: what the demo trains on and must find again.

``natural_phantom``  eight classes of texture; a stand-in for natural images, to pretrain on.
``chest_phantom``    three findings, several images per patient, two devices, two sites (B only in split ``external``).
``skin_phantom``     four classes of lesion.

Findings and lesions are drawn with the textures of the natural phantom (``trainables.phantom_images``).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import Column, Kind, Split
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.phantom_images import TEXTURES, chest_images, natural_images, skin_images

FINDINGS = {"reticulation": "crosshatch", "septal_lines": "columns", "bands": "rows"}
"""Finding of the chest phantom -> its texture."""

LESIONS = {"naevus": "blobs", "melanoma": "crosshatch", "keratosis": "dots", "carcinoma": "rings"}
"""Class of the skin phantom -> its texture."""

_DISTRACTORS = ("rings", "speckle")
_FINDING_PREVALENCE = 0.35
_LESION_PREVALENCE = (0.4, 0.2, 0.2, 0.2)
_PORTABLE_SHARE = 0.35
_PORTABLE_STRENGTH = 0.25
_IMPORTER = "phantoms-1"

Drawn = tuple[pd.DataFrame, NDArray[np.uint8]]
"""Rows without paths, and their images in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSizes:
    """How much to make. Patients of the chest phantom have one or two images each; all others have one.

    Attributes:
        natural: Images of the natural phantom in train, val and test.
        chest: Patients of the chest phantom in train, val, test and external (site B).
        skin: Lesions of the skin phantom in train, val and test.
    """

    natural: tuple[int, int, int] = (1200, 200, 200)
    chest: tuple[int, int, int, int] = (400, 100, 300, 300)
    skin: tuple[int, int, int] = (600, 150, 350)


def make_phantoms(
    library: TaskLibrary,
    names: Iterable[str] | None = None,
    *,
    seed: int = 0,
    sizes: PhantomSizes | None = None,
) -> dict[str, Manifest]:
    """Draw phantoms, write their images under ``<home>/phantoms`` and save their manifests.

    Args:
        library: Where to save.
        names: Which of ``PHANTOMS``; if not given, all that the library lacks.
        seed: Draws everything; each phantom has its own stream.
        sizes: How much to make.

    Returns:
        The manifests that were made, by name.

    Raises:
        UserError: No phantom of that name, or the home cannot be written to.
    """
    known = set(library.names())
    wanted = [name for name in PHANTOMS if name not in known] if names is None else list(names)
    for name in wanted:
        if name not in PHANTOMS:
            raise UserError(unknown("phantom", name, PHANTOMS))
    folder = library.home / "phantoms"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            return {name: _make(library, name, seed, sizes or PhantomSizes()) for name in wanted}
    except OSError as error:
        raise UserError(f"phantoms cannot be written to {folder}: {error}; set SCALECURVES_HOME") from error


def _make(library: TaskLibrary, name: str, seed: int, sizes: PhantomSizes) -> Manifest:
    phantom = PHANTOMS[name]
    rng = np.random.default_rng([seed, list(PHANTOMS).index(name)])
    table, images = phantom.draw(rng, sizes)
    ids = [f"{name.split('_')[0]}{k:05d}" for k in range(len(table))]
    table.insert(0, Column.IMAGE_ID, ids)
    table.insert(1, Column.PATH, [f"{image_id}.png" for image_id in ids])
    if not phantom.patients_known:
        table.insert(2, Column.PATIENT_ID, ids)
    root = library.home / "phantoms" / name
    _write_images(root, table[Column.PATH], images)
    manifest = Manifest(
        name=name,
        kind=phantom.kind,
        labels=phantom.labels,
        table=table,
        root=root,
        importer=_IMPORTER,
        patients_known=phantom.patients_known,
        grouping=phantom.grouping,
        notes=("Phantom images with planted truths; they say nothing about patients.",),
    )
    return library.save(manifest, overwrite=True)


def _write_images(root: Path, paths: Iterable[str], images: NDArray[np.uint8]) -> None:
    """Write the PNGs under a temporary folder, then move it. Uncompressed, so that every zlib writes the same bytes."""
    partial = root.with_name(f"{root.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        for path, pixels in zip(paths, images, strict=True):
            Image.fromarray(pixels).save(partial / path, compress_level=0)
        if root.exists():
            shutil.rmtree(root)
        partial.replace(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _splits(counts: Iterable[int]) -> NDArray[np.object_]:
    """The split of each of so many units, in the order train, val, test, external."""
    order = (Split.TRAIN, Split.VAL, Split.TEST, Split.EXTERNAL)
    return np.concatenate([np.full(n, split.value, dtype=object) for split, n in zip(order, counts, strict=False)])


def _people(rng: np.random.Generator, alike: NDArray[np.integer]) -> dict[str, NDArray[np.object_]]:
    """Sex and age, which mean nothing: reports should find no difference.

    Sex alternates among patients whose code in ``alike`` is the same, so that no chance imbalance looks like a gap.
    """
    patients = len(alike)
    sex = np.empty(patients, dtype=object)
    sex[np.lexsort((rng.random(patients), alike))] = np.resize(np.array(["F", "M"], dtype=object), patients)
    return {Column.SEX: sex, Column.AGE_YEARS: rng.integers(20, 90, patients).astype(object)}


def _draw_natural(rng: np.random.Generator, sizes: PhantomSizes) -> Drawn:
    splits = _splits(sizes.natural)
    y = rng.integers(0, len(TEXTURES), len(splits))
    return pd.DataFrame({Column.SPLIT: splits, Column.Y: y.astype(np.int16)}), natural_images(rng, y)


def _draw_chest(rng: np.random.Generator, sizes: PhantomSizes) -> Drawn:
    """Patients of site A, then of site B; the images of a patient share findings and device."""
    splits = _splits(sizes.chest)
    patients = len(splits)
    site = np.where(splits == Split.EXTERNAL, "B", "A").astype(object)
    findings = rng.random((patients, len(FINDINGS))) < _FINDING_PREVALENCE
    portable = rng.random(patients) < _PORTABLE_SHARE
    device = np.where(portable, "portable", "fixed").astype(object)
    of = np.repeat(np.arange(patients), rng.integers(1, 3, patients))
    alike = np.packbits(np.column_stack([portable, findings]), axis=1)[:, 0] + 256 * pd.factorize(splits)[0]
    columns = {
        Column.PATIENT_ID: np.array([f"p{k:04d}" for k in range(patients)], dtype=object),
        Column.SITE: site,
        Column.SPLIT: splits,
        **_people(rng, alike),
        f"{Column.GROUP_PREFIX}device": device,
        **{Column.LABEL_PREFIX + name: findings[:, k].astype(np.float32) for k, name in enumerate(FINDINGS)},
    }
    table = pd.DataFrame({name: values[of] for name, values in columns.items()})
    table[Column.AGE_YEARS] = table[Column.AGE_YEARS].astype(np.float32)
    images = [
        chest_images(
            rng,
            findings[of[rows]],
            tuple(FINDINGS.values()),
            distractors=_DISTRACTORS,
            weakened=portable[of[rows]],
            weakening=_PORTABLE_STRENGTH,
            shifted=shifted,
        )
        for shifted, rows in ((False, site[of] == "A"), (True, site[of] == "B"))
    ]
    return table, np.concatenate(images)


def _draw_skin(rng: np.random.Generator, sizes: PhantomSizes) -> Drawn:
    splits = _splits(sizes.skin)
    y = rng.choice(len(LESIONS), len(splits), p=_LESION_PREVALENCE)
    columns = {
        Column.PATIENT_ID: [f"l{k:04d}" for k in range(len(splits))],
        Column.SPLIT: splits,
        **_people(rng, pd.factorize(splits)[0] * len(LESIONS) + y),
        Column.Y: y.astype(np.int16),
    }
    table = pd.DataFrame(columns)
    table[Column.AGE_YEARS] = table[Column.AGE_YEARS].astype(np.float32)
    return table, skin_images(rng, y, tuple(LESIONS.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One phantom data set.

    Attributes:
        kind: What one label is.
        labels: Labels, or classes in the order of column ``y``.
        patients_known: Whether images are grouped.
        grouping: What ``patient_id`` holds.
        draw: Rows and images from a generator.
    """

    kind: Kind
    labels: tuple[str, ...]
    patients_known: bool
    grouping: str
    draw: Callable[[np.random.Generator, PhantomSizes], Drawn]


PHANTOMS: Mapping[str, Phantom] = {
    "natural_phantom": Phantom(
        kind=Kind.MULTICLASS,
        labels=tuple(TEXTURES),
        patients_known=False,
        grouping="image",
        draw=_draw_natural,
    ),
    "chest_phantom": Phantom(
        kind=Kind.MULTILABEL,
        labels=tuple(FINDINGS),
        patients_known=True,
        grouping="patient",
        draw=_draw_chest,
    ),
    "skin_phantom": Phantom(
        kind=Kind.MULTICLASS,
        labels=tuple(LESIONS),
        patients_known=True,
        grouping="lesion",
        draw=_draw_skin,
    ),
}
"""Name -> phantom."""


class PlantedKind(StrEnum):
    """What a planted truth is about."""

    SOURCE_GAIN = "source_gain"
    """Metric with the natural phantom's weights minus metric from random weights."""
    SITE_DROP = "site_drop"
    """Metric at site A minus metric at site B."""
    GROUP_GAP = "group_gap"
    """Metric of the first group minus metric of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedTruth:
    """Something that a report on the phantoms must find, as a range of the expected macro AUC difference.

    The ranges hold for ``trainables.phantom_nets`` of widths 6 to 12 under the recipe in ``RECIPE``, as means over
    seeds; they are wide enough for the noise of two seeds and 300 test patients.

    Attributes:
        kind: What is compared.
        manifest: Of which phantom.
        data_fractions: Where it holds.
        at_least: Smallest expected difference; None if there is no lower limit.
        at_most: Largest expected difference; None if there is no upper limit.
        groups: Group column and its two values, of a group gap.
        sources: Pretraining sources for which it holds; ``natural`` started from a trial on the natural phantom.
        sentence: The same in words.
    """

    kind: PlantedKind
    manifest: str
    data_fractions: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    groups: tuple[str, str, str] | None = None
    sources: tuple[str, ...] = ("random", "natural")
    sentence: str


RECIPE: Mapping[str, object] = {
    "budget": {"steps": 300},
    "optimizer": "sgd",
    "lr": 0.08,
    "weight_decay": 0.0005,
    "schedule": "constant",
    "warmup_fraction": 0.02,
    "ema_decay": 0.97,
    "global_batch_size": 32,
    "storage_size": 64,
    "evaluations": 4,
}
"""Protocol fields under which the planted truths were measured (all else at its default; input size 32)."""

PLANTED: tuple[PlantedTruth, ...] = (
    PlantedTruth(
        kind=PlantedKind.SOURCE_GAIN,
        manifest="chest_phantom",
        data_fractions=(0.02, 0.05),
        at_least=0.05,
        sentence="Pretraining on the natural phantom helps on the chest phantom with few labels.",
    ),
    PlantedTruth(
        kind=PlantedKind.SOURCE_GAIN,
        manifest="chest_phantom",
        data_fractions=(1.0,),
        at_least=-0.02,
        at_most=0.04,
        sentence="With all labels it helps little.",
    ),
    PlantedTruth(
        kind=PlantedKind.SOURCE_GAIN,
        manifest="skin_phantom",
        data_fractions=(0.02,),
        at_least=0.1,
        sentence="It helps much on the skin phantom with few labels.",
    ),
    PlantedTruth(
        kind=PlantedKind.SOURCE_GAIN,
        manifest="skin_phantom",
        data_fractions=(1.0,),
        at_least=-0.02,
        at_most=0.02,
        sentence="With all labels it makes no difference there.",
    ),
    PlantedTruth(
        kind=PlantedKind.SITE_DROP,
        manifest="chest_phantom",
        data_fractions=(1.0,),
        at_least=0.05,
        sentence="Performance falls at site B, whose images are flatter, brighter and noisier.",
    ),
    PlantedTruth(
        kind=PlantedKind.GROUP_GAP,
        manifest="chest_phantom",
        data_fractions=(1.0,),
        at_least=0.05,
        groups=("device", "fixed", "portable"),
        sentence="Findings are faint on portable devices, so performance is lower there.",
    ),
    PlantedTruth(
        kind=PlantedKind.GROUP_GAP,
        manifest="chest_phantom",
        data_fractions=(1.0,),
        at_least=-0.04,
        at_most=0.04,
        groups=("sex", "F", "M"),
        sentence="Sex makes no difference.",
    ),
)
"""What the phantoms hold; the demo's report is tested against it."""
