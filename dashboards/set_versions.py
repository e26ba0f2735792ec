"""One evaluation set may have been another one when some trials were scored: all results must be of the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dashboards.estimates import chance_of_set
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign, design_of, other_groups
from dashboards.statistics import Influence, metric_names


class SetVersions:
    """What each evaluation set of a task was, by trial, read from truth, patients and images.

    Args:
        columns: Subgroup columns to look for.

    Attributes:
        designs: Set -> the design of the version that is used, once ``settle`` has chosen it; till then the first.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._versions: dict[str, list[tuple[SetDesign, PredictionSet]]] = {}
        self._of: dict[tuple[str, str], int] = {}
        self._shared: dict[tuple[str, str], int | None] = {}
        self._other_groups: dict[tuple[str, str], str] = {}
        self.designs: dict[str, SetDesign] = {}

    def add(self, trial_id: str, prediction: PredictionSet) -> SetDesign:
        """The design that a trial's predictions are about.

        Raises:
            ValueError: The predictions do not fit together (``design_of``, ``other_groups``).
        """
        if len(prediction.logits) != len(prediction.patient):
            raise ValueError(f"{len(prediction.logits)} rows of logits for {len(prediction.patient)} images")
        if not len(prediction.logits):
            raise ValueError("no image")
        known = self._versions.get(prediction.name, [])
        number = next((i for i, (design, _) in enumerate(known) if design.fits(prediction)), len(known))
        differing = other_groups(known[number][1], prediction, self._columns) if number < len(known) else ""
        if number == len(known):
            design = design_of(prediction, self._columns)
            known = self._versions.setdefault(prediction.name, [])
            known.append((design, prediction))
            self.designs.setdefault(prediction.name, known[0][0])
        self._of[trial_id, prediction.name] = number
        unsure = not prediction.same_ids and prediction.shared_patients != 0
        self._shared[trial_id, prediction.name] = None if unsure else prediction.shared_patients
        if differing:
            self._other_groups[trial_id, prediction.name] = differing
        return known[number][0]

    def of(self, trial_id: str, name: str) -> SetDesign:
        """The design that a trial was scored on."""
        return self._versions[name][self._of[trial_id, name]][0]

    def usual(self, name: str) -> SetDesign:
        """The design that most trials so far were scored on; of equals the first."""
        number, _ = self._usual(name)
        return self._versions[name][number][0]

    def settle(self) -> Iterator[tuple[str, str, str]]:
        """Choose the version of each set that most trials were scored on (of equals the first that was read).

        What results on other versions say of patients and subgroups counts no more.

        Yields:
            (trial_id, set, what differs) of every result on another one.
        """
        for name, known in self._versions.items():
            used, trials = self._usual(name)
            self.designs[name] = known[used][0]
            self._versions[name] = [known[used]]
            for (trial_id, other), number in list(self._of.items()):
                if other == name and number != used:
                    del self._shared[trial_id, name]
                    self._other_groups.pop((trial_id, name), None)
                    yield trial_id, name, _difference(known[number][1], known[used][1], trials)
                if other == name:
                    self._of[trial_id, name] = 0

    def with_other_groups(self) -> Iterator[tuple[str, str, str]]:
        """(trial_id, set, what differs) of every result whose subgroup values are not those that are used.

        Used are those of the first result on a version, for all of its results: a patient is in one subgroup.
        """
        for (trial_id, name), what in self._other_groups.items():
            yield trial_id, name, what

    def _usual(self, name: str) -> tuple[int, int]:
        """The number of the version that most trials so far were scored on, and how many."""
        counts = Counter(number for (_, other), number in self._of.items() if other == name)
        return max(counts.items(), key=lambda found: (found[1], -found[0]))

    def labels(self, name: str) -> tuple[str, ...]:
        """Labels of a set, once settled."""
        return self._versions[name][0][1].labels

    def chance(self, name: str, metric: str) -> Influence | None:
        """A run on the set that knows its prevalences alone, once settled; None if its kind has no such metric."""
        design, prediction = self._versions[name][0]
        if metric not in metric_names(prediction.kind, prediction.labels):
            return None
        classes = design.class_set(metric)
        return chance_of_set(metric, prediction, design.index, classes)

    def shared_patients(self, name: str) -> int | None:
        """The most patients that any result says are in training too; None if one does not know.

        Once settled, of results on the version that is used alone.
        """
        counts = {count for (_, other), count in self._shared.items() if other == name}
        return None if None in counts else max(count for count in counts if count is not None)


def _difference(found: PredictionSet, used: PredictionSet, trials: int) -> str:
    which = f"set {found.set_hash} instead of {used.set_hash}, " if found.set_hash and used.set_hash else ""
    return f"{which}{_what_differs(found, used)} ({trials} trials)"


def _what_differs(found: PredictionSet, used: PredictionSet) -> str:
    if found.labels != used.labels:
        return f"labels {', '.join(found.labels)} instead of {', '.join(used.labels)}"
    if len(found.image) != len(used.image):
        return f"{len(found.image)} images; the one that is used has {len(used.image)}"
    if not np.array_equal(found.image, used.image):
        same = set(found.image.tolist()) == set(used.image.tolist())
        return f"the {len(used.image)} images of the one that is used {'in another order' if same else 'are others'}"
    what = "labels" if np.array_equal(found.patient, used.patient) else "patients"
    return f"other {what} of the same {len(used.image)} images than in the one that is used"
