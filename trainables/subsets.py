"""Training subsets: one patient order per subset seed, and the prefixes of it.

All amounts of one task and subset seed come from the same order of the patients, so that a smaller subset lies inside
every larger one of its kind. The rule (``search_spaces.identity.SUBSET_RULE``):

1. An *outcome* is what a class can be: each class of a multiclass or ordinal task; positive and negative of each
   label of a binary or multilabel one. A patient has the outcomes of its images; an unknown label is none.
2. A patient's stratum is the rarest outcome that it has, counted in patients of the pool.
3. Within a stratum patients are ordered by a hash of seed and patient id; the i-th of n stands at (i - u) / n with u
   drawn per stratum: systematic sampling with a random start (Cochran 1977, Sampling Techniques, chapter 8). A prefix
   of k of N patients holds each stratum's share k n / N to within 1 + (H - 2) n / N patients, where H is the number of
   strata (docs/subsets.md has the proof), and hits it on average over seeds.
4. An amount counted in images takes the prefix whose number of images is nearest to it, the larger of two equally near
   ones, never fewer than one patient. ``per_class: k`` takes the first k patients of each outcome instead.
5. For every outcome that is then missing the first patient who has it is taken in as well. These forced patients are
   counted. The same patient is forced at every smaller amount, so subsets stay nested.
6. Validation that is scaled is the prefix of the validation patients' own order, under the same seed, whose number of
   images is nearest to the share that was drawn of the training images; at least one patient, and every outcome that
   validation has (forced as in 5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from search_spaces.amounts import Amount
from search_spaces.exceptions import UserError
from search_spaces.identity import SUBSET_RULE, digest
from search_spaces.names import Column, Kind
from search_spaces.results import SubsetFacts

Outcome = tuple[str, int]
"""A label and its value (1 or 0); of a multiclass task the class and 1."""


class EmptyCell(UserError):  # noqa: N818 (a finding about a cell that plans turn into an exclusion, not a fault)
    """The cell cannot be trained; the message is the reason for its exclusion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """The training images of one amount and subset seed.

    Attributes:
        rows: Ascending positions in the pool, shape (images,), int64.
        places: Ascending places of its patients in the order, from 0, shape (patients,), int64.
        patients: Number of patients.
        forced_patients: Patients beyond the amount, taken in because an outcome would be missing.
        positives: Label -> positive images (multiclass: images of the class).
        negatives: Label -> images that are known not to have it (multiclass: images of other classes).
        subset_hash: First 16 hexadecimal digits of the sha256 of the sorted image ids.
        order_hash: The same of the patient order, equal for all amounts of a pool and seed.
        pool_images: Images of the pool.
        pool_patients: Patients of the pool.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    patients: int
    forced_patients: int
    positives: dict[str, int]
    negatives: dict[str, int]
    subset_hash: str
    order_hash: str
    pool_images: int
    pool_patients: int

    @property
    def share(self) -> float:
        """Share of the pool's images, in (0, 1]."""
        return len(self.rows) / self.pool_images

    def facts(self, *, val_images: int, val_patients: int, patients_known: bool, val_hash: str = "") -> SubsetFacts:
        """What the record keeps of this subset."""
        return SubsetFacts(
            subset_hash=self.subset_hash,
            order_hash=self.order_hash,
            images=len(self.rows),
            patients=self.patients,
            forced_patients=self.forced_patients,
            positives=self.positives,
            negatives=self.negatives,
            pool_images=self.pool_images,
            pool_patients=self.pool_patients,
            val_images=val_images,
            val_patients=val_patients,
            val_hash=val_hash,
            patients_known=patients_known,
        )


def draw_subset(pool: pd.DataFrame, labels: Sequence[str], kind: str, amount: Amount, subset_seed: int) -> Subset:
    """The training subset of one cell and seed. See the module for the rule.

    Args:
        pool: All training rows: ``image_id``, ``patient_id`` and ``y_<label>`` (1, 0; NaN and -1 are unknown) or ``y``
            (position in ``labels``; -1 is unknown). Row order and index have no influence.
        labels: Labels (classes) to learn.
        kind: binary, multilabel, multiclass or ordinal.
        amount: How much.
        subset_seed: Draws the patient order.

    Raises:
        UserError: More is asked than the pool holds.
        EmptyCell: Less than one patient is asked, or the pool lacks a class altogether.
    """
    return SubsetPool(pool, labels, kind).order(subset_seed).draw(amount)


class SubsetPool:
    """The training rows of a task, made ready once for all seeds.

    Args:
        pool: See ``draw_subset``.
        labels: Labels (classes) to learn.
        kind: binary, multilabel, multiclass or ordinal.

    Raises:
        EmptyCell: The pool is empty.
    """

    def __init__(self, pool: pd.DataFrame, labels: Sequence[str], kind: str) -> None:
        if not len(pool):
            raise EmptyCell("the task has no training images")
        self.outcomes, image_has = _image_outcomes(pool, tuple(labels), kind)
        self._classes = kind in (Kind.MULTICLASS, Kind.ORDINAL)
        self.patients, self.patient_of_row = _sorted_names(pool[Column.PATIENT_ID])
        counts = [np.bincount(self.patient_of_row[has], minlength=len(self.patients)) for has in image_has.T]
        self.images_with: NDArray[np.int32] = np.stack(counts, axis=1).astype(np.int32)
        """Images of each patient with each outcome, shape (patients, outcomes); patients in order of their ids."""
        self.images: NDArray[np.int64] = np.bincount(self.patient_of_row, minlength=len(self.patients))
        """Images of each patient, shape (patients,)."""
        self._ids, self._sorted_rows = _sorted_lines(pool[Column.IMAGE_ID])

    def order(self, subset_seed: int) -> PatientOrder:
        """The order of the patients under one subset seed."""
        return PatientOrder(self, subset_seed)

    def labels_of(self, patients: NDArray[np.bool_]) -> tuple[dict[str, int], dict[str, int]]:
        """Label -> positive images, and label -> negative images, of these patients."""
        counts = self.images_with[patients].sum(axis=0).tolist()
        counted: dict[Outcome, int] = dict(zip(self.outcomes, counts, strict=True))
        positives = {label: n for (label, value), n in counted.items() if value == 1}
        if self._classes:
            return positives, {label: sum(counts) - n for label, n in positives.items()}
        return positives, {label: counted.get((label, 0), 0) for label in positives}

    def hash_of(self, rows: NDArray[np.bool_]) -> str:
        """First 16 hexadecimal digits of the sha256 of the sorted ids of these images, joined by line ends."""
        lines = self._ids.filter(pa.array(rows[self._sorted_rows]))
        _, offsets, text = lines.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[lines.offset :]
        return hashlib.sha256(memoryview(text)[ends[0] : ends[len(lines)] - 1]).hexdigest()[:16]


class PatientOrder:
    """The order of a pool's patients under one subset seed; draws every amount from it.

    Args:
        pool: The training rows.
        subset_seed: Draws the order.
    """

    def __init__(self, pool: SubsetPool, subset_seed: int) -> None:
        self._pool = pool
        has = pool.images_with > 0
        order = _interleave(pool.patients, _strata(has), pool.outcomes, subset_seed)
        self._place = np.empty(len(order), dtype=np.int64)
        """Place of each patient in the order, shape (patients,); patients in order of their ids."""
        self._place[order] = np.arange(len(order))
        self._order: NDArray[np.int64] = order
        self._has: NDArray[np.bool_] = has[order]
        """Whether the patient at a place has an outcome, shape (patients, outcomes)."""
        self._images_reached: NDArray[np.int64] = np.cumsum(pool.images[order])
        self.patients: tuple[str, ...] = tuple(pool.patients[order])
        """Patient ids in order."""
        self.order_hash: str = digest("\n".join(self.patients))

    def draw(self, amount: Amount) -> Subset:
        """The subset of one amount.

        Raises:
            UserError: More is asked than the pool holds.
            EmptyCell: Less than one patient is asked, or the pool lacks a class altogether.
        """
        self._refuse_missing_outcomes()
        chosen = self._per_class(int(amount.value)) if amount.kind == "per_class" else self._prefix(amount)
        return self._subset(chosen)

    def draw_share(self, share: float) -> Subset:
        """The prefix nearest to a share of the images, with every outcome that the pool has; see rule 6.

        Args:
            share: In (0, 1].
        """
        length = self._length_nearest(share * float(self._images_reached[-1]))
        return self._subset(np.arange(len(self.patients)) < length)

    def _subset(self, chosen: NDArray[np.bool_]) -> Subset:
        """The subset of the patients at these places and of those that have to be forced in."""
        asked = int(chosen.sum())
        missing = self._has.any(axis=0) & ~self._has[chosen].any(axis=0)
        chosen[self._has.argmax(axis=0)[missing]] = True
        pool, of_patient = self._pool, chosen[self._place]
        in_subset = of_patient[pool.patient_of_row]
        positives, negatives = pool.labels_of(of_patient)
        return Subset(
            rows=np.flatnonzero(in_subset),
            places=np.flatnonzero(chosen),
            patients=int(chosen.sum()),
            forced_patients=int(chosen.sum()) - asked,
            positives=positives,
            negatives=negatives,
            subset_hash=pool.hash_of(in_subset),
            order_hash=self.order_hash,
            pool_images=len(pool.patient_of_row),
            pool_patients=len(self.patients),
        )

    def _refuse_missing_outcomes(self) -> None:
        absent = [_describe(o) for o, n in zip(self._pool.outcomes, self._has.sum(axis=0), strict=True) if not n]
        if absent:
            raise EmptyCell(
                f"no training image is {', '.join(absent)}; leave such labels out with the task's labels, "
                f"or choose other rows with its where"
            )

    def _per_class(self, k: int) -> NDArray[np.bool_]:
        """The first k patients of each outcome, as a mask over places in the order."""
        for outcome, n in zip(self._pool.outcomes, self._has.sum(axis=0), strict=True):
            if n < k:
                raise UserError(
                    f"per_class: {k} patients asked, but only {n} have an image that is {_describe(outcome)}"
                )
        return np.asarray((self._has & (np.cumsum(self._has, axis=0) <= k)).any(axis=1))

    def _prefix(self, amount: Amount) -> NDArray[np.bool_]:
        """The prefix of the order that an amount asks for, as a mask over places in the order."""
        length = int(amount.value) if amount.kind == "patients" else self._length_reaching(amount)
        if length > len(self.patients):
            raise UserError(f"{length} patients asked, but the training set holds {len(self.patients)}")
        return np.arange(len(self.patients)) < length

    def _length_reaching(self, amount: Amount) -> int:
        """Patients in the prefix whose number of images is nearest to the amount."""
        total = int(self._images_reached[-1])
        images = amount.value * total if amount.kind == "fraction" else amount.value
        if images > total:
            raise UserError(f"{images:g} images asked, but the training set holds {total}")
        if images / total * len(self.patients) < 0.5:
            raise EmptyCell(
                f"{amount.label} of {total} images of {len(self.patients)} patients is fewer than one patient"
            )
        return self._length_nearest(images)

    def _length_nearest(self, images: float) -> int:
        """Patients in the prefix whose number of images is nearest; the larger of two equally near, at least one."""
        after = int(np.searchsorted(self._images_reached, images))
        before = int(self._images_reached[after - 1]) if after else 0
        nearer_before = images - before < int(self._images_reached[after]) - images
        return max(1, after if nearer_before else after + 1)


def _image_outcomes(
    pool: pd.DataFrame, labels: tuple[str, ...], kind: str
) -> tuple[tuple[Outcome, ...], NDArray[np.bool_]]:
    """All outcomes, and which of them each image has, shape (images, outcomes)."""
    if kind in (Kind.MULTICLASS, Kind.ORDINAL):
        y = pool[Column.Y].to_numpy()
        return tuple((label, 1) for label in labels), y[:, None] == np.arange(len(labels))
    outcomes = tuple((label, value) for label in labels for value in (1, 0))
    columns = [pool[Column.LABEL_PREFIX + label].to_numpy() == value for label, value in outcomes]
    if kind == Kind.SEGMENTATION:
        # An organ that every image shows has pixels beside it to learn from: no image without it is needed.
        kept = [k for k, (_, value) in enumerate(outcomes) if value == 1 or columns[k].any()]
        outcomes, columns = tuple(outcomes[k] for k in kept), [columns[k] for k in kept]
    return outcomes, np.stack(columns, axis=1)


def _sorted_names(values: pd.Series[str]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """The different texts in order of their code points, and which of them each row has."""
    column = pa.array(values.astype("str"), type=pa.large_string())
    encoded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    names = encoded.dictionary.take(pa.array(order)).to_numpy(zero_copy_only=False)
    return np.asarray(names, dtype=object), position[encoded.indices.to_numpy()]


def _sorted_lines(values: pd.Series[str]) -> tuple[pa.Array, NDArray[np.int64]]:
    """The texts in order of their code points, each with a line end, and the row that each one comes from."""
    column = pa.array(values.astype("str"), type=pa.large_string())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    order = pc.sort_indices(column)
    end, between = pa.scalar("\n", pa.large_string()), pa.scalar("", pa.large_string())
    lines = pc.binary_join_element_wise(column.take(order), end, between)
    return lines, order.to_numpy().astype(np.int64)


def _strata(has: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rarest outcome of each patient, -1 for patients without any label; shape (patients,)."""
    rarest_first = np.argsort(has.sum(axis=0), kind="stable")
    stratum = rarest_first[has[:, rarest_first].argmax(axis=1)]
    return np.where(has.any(axis=1), stratum, -1)


def _interleave(
    names: NDArray[np.object_], strata: NDArray[np.int64], outcomes: Sequence[Outcome], seed: int
) -> NDArray[np.int64]:
    """Indices of the patients in order: each stratum in hash order, spread evenly from a random start."""
    draws = np.array([_uniform(seed, "patient", name) for name in names])
    place = np.empty(len(names))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        start = _uniform(seed, "start", "" if stratum < 0 else _describe(outcomes[stratum]))
        place[members[np.argsort(draws[members], kind="stable")]] = (np.arange(len(members)) + start) / len(members)
    # Ties between strata are broken by the patients' own draws, so that no label comes first by its name.
    return np.lexsort((draws, place))


def _uniform(seed: int, what: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing else: no library's random stream, no other patient."""
    bits = hashlib.sha256(f"{SUBSET_RULE}|{seed}|{what}|{name}".encode()).digest()
    return (int.from_bytes(bits[:8], "big") >> 11) / 2**53


def _describe(outcome: Outcome) -> str:
    label, value = outcome
    return label if value == 1 else f"not {label}"
