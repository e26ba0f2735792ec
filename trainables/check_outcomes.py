"""The checks of a task by name, and what one of them found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """What is asked of a task, as a statement that holds when the check is passed."""

    IMAGES = "every image can be read"
    MASKS = "every mask can be read and fits its image"
    CONSTANT = "no image has one single value"
    FAINT = "no image uses few of its values"
    SHADED = "no mask of one label has shades"
    PATIENTS_KNOWN = "patients are known"
    PATIENTS = "no patient is in two splits"
    EVALUATION_COPIES = "no image of an evaluation is repeated, byte for byte"
    OTHER_COPIES = "no other image is repeated, byte for byte"
    NEAR_COPIES = "no image of an evaluation has a near copy in training or validation"
    STORES = "image stores are as they were written"
    SPLITS = "train, val and test hold images"
    LABELS = "each label has positive and negative images in each split"
    FEW_PATIENTS = "each label has enough positive and negative patients in each split"
    UNLABELLED = "every image has a label"
    AGES = "every age is possible"
    METADATA = "what subgroups are made of is not largely missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one check found.

    Attributes:
        check: Which one.
        found: Number of its findings, in its own unit (images, patients, sets, labels); 0 where it is passed, None
            where it was not run.
        errors: In words, what must be put right before training.
        warnings: In words, what limits results.
    """

    check: Check
    found: int | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
