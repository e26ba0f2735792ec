"""What one block of trials adds to the tables beyond "does it help", from its predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from dashboards.blocks import Block, SetRuns, group_columns, make_block
from dashboards.confidence_tables import probability_contrast_rows, probability_rows, stages
from dashboards.evidence import IN_DOMAIN, Evidence, SeenBlock
from dashboards.exclusions import Exclusion
from dashboards.harm_tables import gap_rows, harm_rows
from dashboards.measure_tables import measure_rows
from dashboards.overlap_tables import overlap_contrast_rows, overlap_rows
from dashboards.rate_tables import cross_rows, rate_rows
from dashboards.reliability_tables import reliability_rows
from dashboards.selective_tables import (
    coverage_rows,
    curve_rows,
    selective_contrast_rows,
    selective_influences,
    selective_rows,
)
from dashboards.set_groups import SetGroups, set_groups
from dashboards.shift_tables import detection_rows


@dataclass(slots=True, kw_only=True)
class BlockRows:
    """What a block adds.

    Attributes:
        rows: Name of a table -> rows.
        exclusions: Results that are not used.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)

    def add(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows to a table."""
        self.rows.setdefault(name, []).extend(rows)


class BlockTables:
    """Works on blocks; what depends on an evaluation set alone is worked out once.

    Args:
        evidence: The study.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._groups: dict[tuple[str, str], list[SetGroups]] = {}

    def rows(self, seen: SeenBlock, primary: frozenset[str]) -> BlockRows:
        """The rows of one task, scale and amount. Of masks no probabilities are kept, which most tables are about.

        Args:
            seen: Its predictions.
            primary: Amounts of the primary family of its task.
        """
        found = BlockRows()
        block = make_block(seen, self._evidence, primary)
        if seen.is_masks:
            found.add("overlap", overlap_rows(seen, block.level))
            found.add("overlap_contrasts", overlap_contrast_rows(seen, block))
            return found
        for runs in block.sets.values():
            found.add("measures", measure_rows(block, runs))
            self._add_groups(found, block, runs)
            _add_confidence(found, block, runs)
        found.add("ood_detection", detection_rows(block))
        found.exclusions += block.exclusions
        return found

    def _add_groups(self, found: BlockRows, block: Block, runs: SetRuns) -> None:
        groups = self._groups_of(block, runs)
        if groups is None:
            return
        found.add("harm", harm_rows(block, runs, groups))
        if block.primary:
            gaps, values = gap_rows(block, runs, groups)
            found.add("group_gaps", gaps)
            found.add("group_values", values)
        found.add("group_rates", rate_rows(block, runs, groups))
        found.add("cross_group_auc", cross_rows(block, runs, groups))
        found.add("group_coverage", coverage_rows(block, runs, groups))

    def _groups_of(self, block: Block, runs: SetRuns) -> SetGroups | None:
        """The subgroups of a set; a block that another process has read brings its own copy of what the set is.

        Kept by task: another task with the same images may know its patients under other subgroups, and its groups are
        permuted anew.
        """
        kept = self._groups.setdefault((block.task, runs.name), [])
        known = (groups for groups in kept if groups.design is runs.design)
        same = (groups for groups in kept if groups.design.fits(runs.any_prediction))
        if (groups := next(chain(known, same), None)) is not None:
            return groups
        attributes = group_columns(runs, self._evidence)
        if not attributes:
            return None
        kept.append(set_groups(runs, attributes))
        return kept[-1]


def _add_confidence(found: BlockRows, block: Block, runs: SetRuns) -> None:
    staged = stages(block, runs)
    found.add("probabilities", probability_rows(block, runs, staged))
    found.add("probability_contrasts", probability_contrast_rows(block, runs, staged))
    influences = selective_influences(runs)
    found.add("selective", selective_rows(block, runs, influences))
    found.add("selective_contrasts", selective_contrast_rows(block, runs, influences))
    if runs.name == IN_DOMAIN and block.primary:
        found.add("reliability", reliability_rows(block, runs, staged))
        found.add("risk_coverage", curve_rows(block, runs))
