"""Tables of what networks keep: drift from the start, likeness of trained networks, first filters, weights.

Every number is read beside a null: the same measure with the images of one network permuted, and networks that were
never trained. Intervals are over seeds alone; images are fixed. All of it is exploratory: nothing is tested.

Layers are shared out to several processes where there are many networks.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.evidence import Evidence, trials_by_cell
from dashboards.processes import cpus, help_out, payload_of, shared_out
from dashboards.representations import KeptMoment, TrialRepresentations
from dashboards.set_groups import random_generator
from dashboards.statistics import (
    Representation,
    SeedInterval,
    SeedKey,
    Similarity,
    debiased_cka,
    mean_cca,
    pair_interval,
    permutation_null,
    procrustes,
    pwcca,
    seed_interval,
    svcca,
)
from dashboards.statistics.similarity import Measure
from search_spaces.amounts import Seed
from search_spaces.names import Moment

NAMES = ("representation_drift", "representation_pairs", "filter_correlation", "weight_distance")
"""File names of the tables; the last two are those of ``dashboards.weight_tables``."""

CKA, CCA, SVCCA, PWCCA, PROCRUSTES = "debiased CKA", "mean CCA", "SVCCA", "PWCCA", "Procrustes"
MEASURES: dict[str, Measure] = {
    CKA: debiased_cka,
    CCA: mean_cca,
    SVCCA: svcca,
    PWCCA: pwcca,
    PROCRUSTES: procrustes,
}
_REDUCED = frozenset({CCA, PWCCA})
"""Measures that ``representations.components`` reduces a layer for; SVCCA has its own reduction."""

PERMUTATIONS = 10
PER_PROCESS = 100
"""Least layers of networks that are worth a process of their own, which takes two seconds to start."""

HELD_BYTES = 2**30
"""Most that activations of one layer with their decompositions may take in each process."""

_COPIES = 2
"""Of a layer's activations in memory, centred and as an orthonormal basis; all else is small."""

OTHER_SEED, SAME_SEED = "different", "same"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial with what it kept."""

    seed: Seed
    kept: TrialRepresentations

    def at(self, moment: Moment) -> KeptMoment:
        """One of its two moments."""
        return self.kept.initial if moment is Moment.INITIAL else self.kept.final


Cell = tuple[str, str]
"""Source, amount."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The trials of one task and scale, which have the same layers and the same probe.

    Attributes:
        task, scale: Of what.
        cells: (source, amount) -> its runs.
        layers: Bottom first.
        baseline: Source that others are compared with.
        level: Of intervals.
        components: Principal components that a wider layer is reduced to for canonical correlations; None for none.
    """

    task: str
    scale: str
    cells: dict[Cell, list[Run]]
    layers: tuple[str, ...]
    baseline: str
    level: float
    components: int | None = None

    @property
    def coordinates(self) -> dict[str, Any]:
        """First columns of its rows."""
        return {"task": self.task, "model_scale": self.scale}


def blocks(evidence: Evidence) -> Iterator[Block]:
    """Tasks and scales of which trials kept something, amounts from small to large.

    Trials that saw another probe or other layers than most of their block (the study was changed between them) are
    left out.
    """
    kept = evidence.representations
    if evidence.results.empty or not kept:
        return
    asked = evidence.study.representations if evidence.study else None
    rank = amount_ranks(evidence.results["data_fraction"].astype(str), mean_images(evidence.results))
    for (task, scale), rows in evidence.results.groupby(["task", "model_scale"], sort=False):
        cells: dict[Cell, list[Run]] = {}
        for (_, source, fraction), trials in sorted(trials_by_cell(rows).items(), key=lambda item: rank[item[0][2]]):
            runs = [Run(seed=_seed(seed), kept=kept[i]) for seed, i in trials.items() if i in kept]
            if runs:
                cells[source, fraction] = runs
        versions = [_version(run) for runs in cells.values() for run in runs]
        if not versions:
            continue
        version = max(versions, key=versions.count)
        alike = {cell: [run for run in runs if _version(run) == version] for cell, runs in cells.items()}
        yield Block(
            task=str(task),
            scale=str(scale),
            cells={cell: runs for cell, runs in alike.items() if runs},
            layers=version[1],
            baseline=evidence.baseline,
            level=1 - evidence.alpha,
            components=asked.components if asked else None,
        )


def _seed(key: SeedKey) -> Seed:
    assert isinstance(key, Seed)
    return key


def _version(run: Run) -> tuple[str, tuple[str, ...], int | None]:
    return run.kept.final.probe_hash, run.kept.final.layers, run.kept.final.positions


class Layer:
    """One layer of a block: every network's activations, read once, and similarities, worked out once.

    Networks of one start put out the same before training, below a cut even those of several: they count as one.

    Args:
        block: The trials.
        name: The layer.
    """

    def __init__(self, block: Block, name: str) -> None:
        self._block, self._name = block, name
        self._contents: dict[str, str] = {}
        self._held: dict[str, dict[int | None, Representation | str]] = {}
        self._known: dict[tuple[str, str, str], Similarity] = {}

    def similarity(self, measure: str, one: KeptMoment, other: KeptMoment) -> Similarity:
        """A measure of two networks; NaN with a note where it is not estimable."""
        key = (measure, self._content(one), self._content(other))
        if key not in self._known:
            a, b = self.representation(one, measure), self.representation(other, measure)
            bad = next((part for part in (a, b) if isinstance(part, str)), "")
            if isinstance(a, str) or isinstance(b, str):
                self._known[key] = Similarity(value=math.nan, images=0, dims=(0, 0), note=bad)
            else:
                self._known[key] = MEASURES[measure](a, b)
        return self._known[key]

    def mutual(self, measure: str, one: KeptMoment, other: KeptMoment) -> Similarity:
        """The same of two networks of which none is the reference: PWCCA is the mean of both directions."""
        found = self.similarity(measure, one, other)
        if measure != PWCCA:
            return found
        return replace(found, value=(found.value + self.similarity(measure, other, one).value) / 2)

    def representation(self, of: KeptMoment, measure: str) -> Representation | str:
        """The activations as a measure takes them, or why they cannot be used."""
        forms = self._forms(of)
        components = self._block.components if measure in _REDUCED else None
        if components is not None and components not in forms:
            whole = forms[None]
            forms[components] = whole if isinstance(whole, str) else whole.reduced(components)
        return forms[components]

    def _forms(self, of: KeptMoment) -> dict[int | None, Representation | str]:
        """Components (None for all) -> activations; those that were asked for longest ago are forgotten first."""
        key = self._content(of)
        forms = self._held.pop(key, None) or {None: self._read(of)}
        self._held[key] = forms
        whole = forms[None]
        if not isinstance(whole, str):
            most = max(2, HELD_BYTES // (_COPIES * max(1, whole.centred.nbytes)))
            while len(self._held) > most:
                del self._held[next(iter(self._held))]
        return forms

    def _read(self, of: KeptMoment) -> Representation | str:
        try:
            return Representation(of.layer(self._name))
        except ValueError as error:
            return str(error)

    def _content(self, of: KeptMoment) -> str:
        if of.key not in self._contents:
            self._contents[of.key] = of.content(self._name)
        return self._contents[of.key]


Rows = list[dict[str, Any]]


def _layer_rows(block: Block, depth: int) -> tuple[Rows, Rows]:
    """Rows of ``representation_drift`` and of ``representation_pairs`` of one layer."""
    layer, place = Layer(block, block.layers[depth]), {"layer": block.layers[depth], "depth": depth}
    return _drift_rows(block, layer, place), _pair_rows(block, layer, place)


def _all_layer_rows(found: Sequence[Block]) -> list[tuple[Rows, Rows]]:
    """The same of every layer, block by block and bottom first."""
    pieces = _pieces(found)
    networks = sum(len(runs) for block, depth in pieces for runs in found[block].cells.values())
    number = min(cpus(), len(pieces), networks // PER_PROCESS) - 1
    made = shared_out("dashboards.representation_tables", found, max(number, 0), _work(found), len(pieces))
    return [rows for _, rows in sorted(zip(pieces, made, strict=True), key=lambda pair: pair[0])]


def _work(found: Sequence[Block]) -> Callable[[int, object], tuple[Rows, Rows]]:
    pieces = _pieces(found)

    def work(piece: int, _: object) -> tuple[Rows, Rows]:
        block, depth = pieces[piece]
        return _layer_rows(found[block], depth)

    return work


def _pieces(found: Sequence[Block]) -> list[tuple[int, int]]:
    """(block, layer), widest layers first: processes then end at about the same time."""

    def width(piece: tuple[int, int]) -> int:
        block = found[piece[0]]
        return next(iter(block.cells.values()))[0].kept.final.shape(block.layers[piece[1]])[-1]

    pieces = [(number, depth) for number, block in enumerate(found) for depth in range(len(block.layers))]
    return sorted(pieces, key=width, reverse=True)


def _drift_rows(block: Block, layer: Layer, place: Mapping[str, Any]) -> Rows:
    """Each network after training against itself before."""
    found: dict[tuple[Cell, str], dict[SeedKey, float]] = {}
    rows = []
    for cell, runs in block.cells.items():
        for measure in MEASURES:
            similar = {run.seed: layer.similarity(measure, run.kept.initial, run.kept.final) for run in runs}
            values: dict[SeedKey, float] = {seed: s.value for seed, s in similar.items()}
            found[cell, measure] = values
            first = next(iter(similar.values()))
            rows.append(
                block.coordinates
                | {"pretraining_source": cell[0], "data_fraction": cell[1], **place, "measure": measure}
                | shown(seed_interval(values, block.level), block.level)
                | _null(block, layer, measure, runs[0], (*cell, str(place["layer"])))
                | {"images": first.images, "dimensions": max(first.dims), "note": _note(similar.values())}
            )
    for row in rows:
        own = found[(row["pretraining_source"], row["data_fraction"]), row["measure"]]
        base = found.get(((block.baseline, row["data_fraction"]), row["measure"]), {})
        is_baseline = row["pretraining_source"] == block.baseline
        both = {} if is_baseline else {seed: own[seed] - base[seed] for seed in own if seed in base}
        row |= _difference(seed_interval(both, block.level))
    return rows


def _difference(interval: SeedInterval) -> dict[str, Any]:
    """A source's drift minus the baseline's, paired by seed."""
    return {"difference": interval.value, "difference_low": interval.low, "difference_high": interval.high}


def _null(block: Block, layer: Layer, measure: str, run: Run, key: tuple[str, ...]) -> dict[str, Any]:
    """The same measure with the images of one side permuted, of one run of the cell."""
    a, b = (layer.representation(of, measure) for of in (run.kept.initial, run.kept.final))
    if isinstance(a, str) or isinstance(b, str):
        return {"null_mean": math.nan, "null_high": math.nan}
    rng = random_generator("representations", block.task, block.scale, measure, *key)
    observed = layer.similarity(measure, run.kept.initial, run.kept.final).value
    null = permutation_null(MEASURES[measure], a, b, rng, PERMUTATIONS, observed)
    return {"null_mean": null.mean, "null_high": null.quantile}


def _pair_rows(block: Block, layer: Layer, place: Mapping[str, Any]) -> Rows:
    """Networks of two seeds of one source, and of each source and the baseline, before and after training."""
    rows = []
    for (one, other, fraction), seeds in _pairings(block):
        first, second = block.cells[one, fraction], block.cells[other, fraction]
        if seeds == SAME_SEED:
            pairs = _of_one_seed(first, second)
        else:
            pairs = pairs_within(first) if one == other else _of_other_starts(itertools.product(first, second))
        for moment, measure in itertools.product(Moment, MEASURES if pairs else ()):
            similar = {(a.seed, b.seed): layer.mutual(measure, a.at(moment), b.at(moment)) for a, b in pairs}
            values = {seeds_of: s.value for seeds_of, s in similar.items()}
            rows.append(
                block.coordinates
                | {"pretraining_source": one, "other_source": other, "seeds": seeds, "data_fraction": fraction}
                | {**place, "moment": str(moment), "measure": measure}
                | shown(_pair_mean(values, seeds, block.level), block.level)
                | {"note": _note(similar.values())}
            )
    return rows


def _pairings(block: Block) -> Iterator[tuple[tuple[str, str, str], str]]:
    """(source, other source, amount) and whether the two have one seed."""
    for source, fraction in block.cells:
        yield (source, source, fraction), OTHER_SEED
        if source != block.baseline and (block.baseline, fraction) in block.cells:
            yield (source, block.baseline, fraction), OTHER_SEED
            yield (source, block.baseline, fraction), SAME_SEED


def _of_one_seed(one: Sequence[Run], other: Sequence[Run]) -> list[tuple[Run, Run]]:
    by_seed = {run.seed: run for run in other}
    return [(run, by_seed[run.seed]) for run in one if run.seed in by_seed]


def pairs_within(runs: Iterable[Run]) -> list[tuple[Run, Run]]:
    """Runs of one source that started apart, each pair once, with the smaller init seed first."""
    return _of_other_starts(itertools.combinations(sorted(runs, key=lambda run: run.seed.init), 2))


def _of_other_starts(pairs: Iterable[tuple[Run, Run]]) -> list[tuple[Run, Run]]:
    return [(a, b) for a, b in pairs if a.seed.init != b.seed.init]


def _pair_mean(values: Mapping[tuple[Seed, Seed], float], seeds: str, level: float) -> SeedInterval:
    if seeds == SAME_SEED:
        return seed_interval({a: value for (a, _), value in values.items()}, level)
    return mean_of_pairs(values, level)


def mean_of_pairs(values: Mapping[tuple[Seed, Seed], float], level: float) -> SeedInterval:
    """Mean over pairs of initialisations, those of several subsets averaged first."""
    by_init: dict[tuple[int, int], list[float]] = {}
    for (a, b), value in values.items():
        by_init.setdefault((a.init, b.init), []).append(value)
    return pair_interval({pair: float(np.mean(found)) for pair, found in by_init.items()}, level)


def shown(interval: SeedInterval, level: float) -> dict[str, Any]:
    """Columns of a mean with its interval."""
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": level,
        "n_seeds": interval.seeds,
        "n_pairs": interval.pairs,
    }


def _note(similar: Iterable[Similarity]) -> str:
    return next((s.note for s in similar if s.note), "")


def representation_tables(evidence: Evidence, further: Callable[[Block], dict[str, Rows]]) -> dict[str, pd.DataFrame]:
    """Every table; one without rows has no columns either.

    Args:
        evidence: The study.
        further: Rows of filters and weights of a block (``dashboards.weight_tables``).
    """
    rows: dict[str, Rows] = {name: [] for name in NAMES}
    found = list(blocks(evidence))
    for drift, pairs in _all_layer_rows(found):
        rows["representation_drift"] += drift
        rows["representation_pairs"] += pairs
    for block in found:
        for name, of_block in further(block).items():
            rows[name] += of_block
    return {name: pd.DataFrame(of_table) for name, of_table in rows.items()}


def main() -> None:
    """Work on the layers of the folder in the first argument that are free."""
    folder = Path(sys.argv[1])
    found = cast("list[Block]", payload_of(folder))
    help_out(folder, _work(found), len(_pieces(found)))


if __name__ == "__main__":
    main()
