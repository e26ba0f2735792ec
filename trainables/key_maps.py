"""Names of a checkpoint's tensors, turned into those of a model by declared steps: keep, strip, rename."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from search_spaces.catalogue import KeyRule
from search_spaces.exceptions import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """How names are changed; see ``search_spaces.source_specs.CheckpointSource``.

    Attributes:
        keep: Prefix of the tensors that count, removed from their names; None keeps all.
        strip_prefix: Removed from the start of each name, each at most once, in this order.
        rename: Applied to each name, one after the other.
    """

    keep: str | None = None
    strip_prefix: tuple[str, ...] = ()
    rename: tuple[KeyRule, ...] = ()

    def name(self, key: str) -> str | None:
        """The model's name for a key of the file; None if it is left out."""
        if self.keep is not None:
            if not key.startswith(self.keep):
                return None
            key = key.removeprefix(self.keep)
        for prefix in self.strip_prefix:
            key = key.removeprefix(prefix)
        for rule in self.rename:
            key = re.sub(rule.pattern, rule.to, key)
        return key

    def apply(self, checkpoint: Mapping[str, Tensor], what: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Tensors by their new names, and the keys that were left out.

        Args:
            checkpoint: Key of the file -> tensor.
            what: Names the checkpoint; starts the message.

        Raises:
            UserError: Two keys become one name, or nothing is kept.
        """
        found: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        left_out: list[str] = []
        for key, tensor in checkpoint.items():
            name = self.name(key)
            if name is None:
                left_out.append(key)
                continue
            if name in found:
                why = "once prefixes are stripped" if not self.rename else "once names are mapped"
                raise UserError(f"{what}: {origin[name]!r} and {key!r} are both {name!r} {why}")
            found[name], origin[name] = tensor, key
        if checkpoint and not found:
            raise UserError(
                f"{what}: no name of the checkpoint starts with keep: {self.keep!r} (they look like "
                f"{_some(list(checkpoint))})"
            )
        return found, tuple(left_out)


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f", ... ({len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
