"""What an uncertain or blank label is in training. Evaluation masks both, whatever is written here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import Kind

PolicyName = Literal["ignore", "ones", "zeros", "lsr_ones", "lsr_zeros"]
"""An uncertain label is masked, 1, 0, or at each access a fresh uniform draw (``SMOOTHED``)."""

LabelPolicy = PolicyName | dict[str, PolicyName]
"""One policy for all labels, or label -> policy; labels that are not named are ``ignore``."""

BlankPolicy = Literal["mask", "zero"]

SMOOTHED: dict[PolicyName, tuple[float, float]] = {"lsr_ones": (0.55, 0.85), "lsr_zeros": (0.0, 0.3)}
"""Bounds of the draws: label smoothing regularisation of uncertain labels (Pham et al. 2021, Neurocomputing 437,
U-Ones+LSR and U-Zeros+LSR), as in the code of Hosseinzadeh Taher et al. 2021."""

_CLASS_KINDS = (Kind.MULTICLASS, Kind.ORDINAL)


def settled_policy(
    policy: LabelPolicy, blank: BlankPolicy, labels: Sequence[str], kind: Kind, where: str
) -> LabelPolicy:
    """The policy with every label of the task named; one name if it is the same for all.

    Args:
        policy: As written.
        blank: As written.
        labels: The task's labels.
        kind: The task's kind.
        where: The task's place in the study, for messages.

    Raises:
        UserError: A label that the task lacks, or a policy that a task of classes cannot have.
    """
    if kind in _CLASS_KINDS and (isinstance(policy, dict) or policy in SMOOTHED or blank != "mask"):
        raise UserError(
            f"{where}: label policies are for labels of their own (binary, multilabel); this task is {kind}, whose "
            "images of no known class are left out. Drop label_policy and blank"
        )
    if not isinstance(policy, dict):
        return policy
    for label in policy:
        if label not in labels:
            raise UserError(unknown("label of the task", label, labels, f"{where}.label_policy"))
    by_label: dict[str, PolicyName] = {label: policy.get(label, "ignore") for label in labels}
    names = set(by_label.values())
    return names.pop() if len(names) == 1 else by_label


def policy_of(policy: LabelPolicy, label: str) -> PolicyName:
    """The policy of one label."""
    return policy.get(label, "ignore") if isinstance(policy, dict) else policy
