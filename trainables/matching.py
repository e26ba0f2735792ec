"""Strict matching of a checkpoint's tensors with a model's backbone, and what to say when they do not match.

A checkpoint that is loaded leniently is the classic way to benchmark a random network. Here every tensor of the
backbone must be found by name and shape, and every tensor of the checkpoint must have a place or be left out by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.catalogue import KeyRule
from search_spaces.exceptions import UserError
from trainables.key_maps import KeyMap

_COUNTER = "num_batches_tracked"
"""Batch norm's count of steps. It affects nothing at the fixed momentum that is usual, and old files lack it."""
_VARIANCE = "running_var"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A checkpoint that fits.

    Attributes:
        tensors: Name in the model -> tensor of the checkpoint; the whole backbone but ``missing``.
        missing: Batch norm counters that the checkpoint lacks.
        dropped: The checkpoint's tensors that were left out: by ``drop`` or as the head (prefixes stripped), by
            ``keep`` (as in the file), or because only a part of the model was asked for.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    dropped: tuple[str, ...]


def match_backbone(
    model: Mapping[str, Tensor],
    head: Iterable[str],
    checkpoint: Mapping[str, Tensor],
    what: str,
    strip_prefix: Sequence[str] = (),
    drop: Sequence[str] = (),
    *,
    keep: str | None = None,
    rename: Sequence[KeyRule] = (),
    wanted: Callable[[str], bool] | None = None,
) -> Match:
    """Find every backbone tensor of a model in a checkpoint.

    Args:
        model: State dict of the model.
        head: Names of its head's tensors, which are never loaded.
        checkpoint: The checkpoint's tensors.
        what: Names the checkpoint and the model; starts the message.
        strip_prefix: Removed from the start of each name, each at most once, in this order.
        drop: Prefixes, after stripping, of tensors to leave out.
        keep: Prefix of the tensors that count, removed before ``strip_prefix``; the others are left out.
        rename: Applied to each name after ``strip_prefix``.
        wanted: Whether a name belongs to the part of the model that is to be filled; what the checkpoint has elsewhere
            is left out. None is the whole backbone.

    Raises:
        UserError: Something is missing, left over, of another shape, or not finite; or every weight is 0.
    """
    names = KeyMap(keep=keep, strip_prefix=tuple(strip_prefix), rename=tuple(rename))
    found, not_kept = names.apply(checkpoint, what)
    head = set(head)
    left_out = {n for n in found if n in head or n.startswith(tuple(drop))}
    elsewhere = {n for n in found if wanted is not None and not wanted(n)}
    offered = {n: t for n, t in found.items() if n not in left_out | elsewhere}
    backbone = {n: t for n, t in model.items() if n not in head and (wanted is None or wanted(n))}
    problem = _Problem(
        backbone=backbone,
        offered=offered,
        missing=[n for n in backbone if n not in offered and not _is_counter(n)],
        misfits=[n for n, t in backbone.items() if n in offered and _misfit(t, offered[n])],
        leftover=[n for n in offered if n not in backbone],
        left_out=left_out,
        strip_prefix=strip_prefix,
        keys=[k for k in checkpoint if k not in not_kept],
    )
    if problem.exists:
        raise UserError(problem.text(what))
    tensors = {n: offered[n] for n in backbone if n in offered}
    _refuse_bad_numbers(tensors, what)
    _refuse_nothing_but_zeros(tensors, problem.needed, what)
    counters = tuple(n for n in backbone if n not in offered)
    return Match(tensors=tensors, missing=counters, dropped=tuple(sorted(left_out | elsewhere | set(not_kept))))


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def _misfit(expected: Tensor, got: Tensor) -> bool:
    return (
        expected.shape != got.shape or expected.is_floating_point() != got.is_floating_point() or not _has_numbers(got)
    )


def _has_numbers(tensor: Tensor) -> bool:
    """Not so of sparse tensors, and of those that were saved without their numbers (torch's meta device)."""
    return tensor.layout == torch.strided and not tensor.is_meta


def _refuse_bad_numbers(tensors: Mapping[str, Tensor], what: str) -> None:
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t.float()).all())]
    if bad:
        raise UserError(f"{what}: {len(bad)} tensors hold numbers that are not finite: {_some(bad)}")
    negative = [n for n, t in tensors.items() if n.endswith(_VARIANCE) and bool((t.float() < 0).any())]
    if negative:
        raise UserError(f"{what}: {len(negative)} running variances are below 0: {_some(negative)}")


def _refuse_nothing_but_zeros(tensors: Mapping[str, Tensor], needed: int, what: str) -> None:
    """Refuse weights that are all 0: no image makes a difference to the features of such a network.

    Biases, running means, and the last normalisation weights of residual blocks may rightly be 0, and heads are not
    looked at: only tensors of two and more dimensions (convolutions, linear layers) count, and one number that is not 0
    is enough.

    Args:
        tensors: What fits.
        needed: Backbone tensors that a checkpoint must have.
        what: Starts the message.

    Raises:
        UserError: All of them hold zeros alone.
    """
    weights = {n: t for n, t in tensors.items() if t.ndim > 1 and t.is_floating_point()}
    if not weights or any(bool(t.float().any()) for t in weights.values()):
        return
    fitting = sum(not _is_counter(n) for n in tensors)
    lines = [
        f"{what}: the checkpoint holds no weights but zeros.",
        f"matched: {fitting} of {needed} backbone tensors, by name and shape",
        f"all 0: every one of the {len(weights)} weight tensors of two and more dimensions: {_some(list(weights))}",
        "hint: it looks like a file that was written before its weights were filled in: save or fetch it again",
    ]
    raise UserError("\n  ".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Why a checkpoint does not fit, and what the user might do about it."""

    backbone: Mapping[str, Tensor]
    offered: Mapping[str, Tensor]
    missing: Sequence[str]
    misfits: Sequence[str]
    leftover: Sequence[str]
    left_out: set[str]
    strip_prefix: Sequence[str]
    keys: Sequence[str]

    @property
    def needed(self) -> int:
        """Backbone tensors that a checkpoint must have."""
        return sum(not _is_counter(n) for n in self.backbone)

    @property
    def fitting(self) -> int:
        """Of them, those that it has with the right shape."""
        return self.needed - len(self.missing) - sum(not _is_counter(n) for n in self.misfits)

    @property
    def exists(self) -> bool:
        return bool(self.missing or self.misfits or self.leftover)

    def text(self, what: str) -> str:
        lines = [f"{what}: the checkpoint does not fit the model."]
        lines.append(f"matched: {self.fitting} of {self.needed} backbone tensors")
        if self.missing:
            lines.append(f"missing: {len(self.missing)} of {self.needed} backbone tensors: {_some(self.missing)}")
        if self.misfits:
            shown = [f"{n} is {_form(self.offered[n])}, must be {_form(self.backbone[n])}" for n in self.misfits]
            lines.append(f"of another shape: {len(self.misfits)}: {_some(shown)}")
        if self.leftover:
            lines.append(f"not in the model: {len(self.leftover)} of {len(self.keys)} tensors: {_some(self.leftover)}")
        lines += [f"hint: {hint}" for hint in self.hints()]
        return "\n  ".join(lines)

    def hints(self) -> list[str]:
        hints = [
            f"strip_prefix {prefix!r} starts no name of the checkpoint (they look like {_some(self.keys, 3)})"
            for prefix in self.strip_prefix
            if not any(prefix in key for key in self.keys)
        ]
        over_dropped = [n for n in self.missing if n in self.left_out]
        if over_dropped:
            hints.append(
                f"drop leaves out {len(over_dropped)} backbone tensors, such as {over_dropped[0]!r}: narrow it"
            )
        if prefixes := self.likely_prefixes():
            word = "add one of these to strip_prefix" if len(prefixes) > 1 else "add it to strip_prefix"
            listed = ", ".join(f"{p!r} ({n} tensors)" for p, n in prefixes)
            return [*hints, f"without a prefix the names would fit: {listed}: {word}"]
        if any(self.offered[n].is_meta for n in self.misfits):
            return [*hints, "names and shapes were saved without numbers (torch's meta device): save the weights again"]
        if channels := self.other_channels():
            return [
                *hints,
                f"the checkpoint was made for images of {channels} channel(s); this model reads 3 (RGB)",
            ]
        if any("pos_embed" in n for n in self.misfits):
            return [*hints, "position embeddings depend on the input size: give the scale that of the checkpoint"]
        return hints + self.other_network_or_drop(over_dropped)

    def likely_prefixes(self) -> list[tuple[str, int]]:
        """Prefixes whose removal would supply at least half of what is missing, and of how many tensors."""
        wanted = set(self.missing)
        counts: Counter[str] = Counter()
        for name in self.leftover:
            starts = [i + 1 for i, letter in enumerate(name) if letter == "."]
            counts.update(name[:i] for i in starts if name[i:] in wanted)
        return [(p, n) for p, n in counts.most_common(3) if 2 * n >= len(wanted)]

    def other_network_or_drop(self, over_dropped: Sequence[str]) -> list[str]:
        if self.misfits or (self.missing and not over_dropped):
            if 2 * self.fitting < self.needed:
                return [f"this looks like another network: {self.fitting} of {self.needed} backbone tensors fit"]
            return []
        prefixes = sorted({self.own_prefix(n) for n in self.leftover})
        if any("." in p.rstrip(".") for p in prefixes):
            return [
                "the checkpoint holds more than this model does in the same places "
                f"({_some(prefixes)}): it looks like another, larger network"
            ]
        if prefixes:
            return [
                f"if these belong to an old head or to training only, leave them out: drop: [{', '.join(prefixes)}]"
            ]
        return []

    def other_channels(self) -> int | None:
        """Input channels of the checkpoint's first convolution, if they are all that is wrong with its shape."""
        for name in self.misfits:
            got, expected = self.offered[name].shape, self.backbone[name].shape
            if len(got) == len(expected) == 4 and expected[1] == 3 and got[1] != 3:
                return int(got[1]) if (got[0], got[2:]) == (expected[0], expected[2:]) else None
        return None

    def own_prefix(self, name: str) -> str:
        """The shortest start of a left-over name that drops no backbone tensor."""
        parts = name.split(".")
        for depth in range(1, len(parts)):
            for prefix in (".".join(parts[:depth]), ".".join(parts[:depth]) + "."):
                if not any(n.startswith(prefix) for n in self.backbone):
                    return prefix
        return name


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.layout == torch.strided else " sparse"
    without = " without numbers" if tensor.is_meta else ""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{kind}{without}"


def _some(names: Sequence[str], shown: int = _SHOWN) -> str:
    more = f", ... ({len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
