"""What is published of the weights that a study starts from: how good a source was before it was carried over."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dashboards.evidence import Evidence
from search_spaces.catalogue import CatalogueEntry, catalogue
from search_spaces.source_specs import ByScaleSource, CheckpointSource, TimmSource
from search_spaces.study import Study

INTRO = (
    "What the catalogue knows of published weights that sources start from. The upstream top-1 is the accuracy on "
    "ImageNet in per cent as published: of a linear classifier on frozen features, or of the network itself "
    "(supervised). Nothing is computed from it here."
)

_FACTS = ("data", "images", "method", "epochs", "upstream_top1", "upstream_kind")
_NUMBERS = ("images", "epochs", "upstream_top1")


def source_table(evidence: Evidence) -> pd.DataFrame:
    """One row per source and scale with finished trials whose weights are an entry of the catalogue.

    Returns:
        ``pretraining_source``, ``model_scale``, ``entry``; then as published, see ``CatalogueEntry``: ``data``,
        ``images``, ``method``, ``epochs``, ``upstream_top1`` (per cent), ``upstream_kind``; NaN and empty where it is
        not known. No column without such a source.
    """
    if evidence.study is None or evidence.results.empty:
        return pd.DataFrame()
    used = evidence.results[["pretraining_source", "model_scale"]].astype(str).drop_duplicates()
    rows = []
    for source, scale in used.itertuples(index=False):
        found = _published(evidence.study, source, scale)
        if found is not None:
            rows.append({"pretraining_source": source, "model_scale": scale, **_facts(*found)})
    return pd.DataFrame(rows)


def _facts(name: str, entry: CatalogueEntry) -> dict[str, Any]:
    absent = {fact: float("nan") if fact in _NUMBERS else "" for fact in _FACTS}
    known = {fact: getattr(entry, fact) for fact in _FACTS if getattr(entry, fact) is not None}
    return {"entry": name} | absent | known


def _published(study: Study, source: str, scale: str) -> tuple[str, CatalogueEntry] | None:
    """The entry of a source's weights, by its name, or by the tag under which timm has the same; of weights themselves
    alone, not of what a transform or a trial makes of them."""
    try:
        found = study.source(source)
    except KeyError:
        return None
    weights = found.by_scale.get(scale) if isinstance(found, ByScaleSource) else found
    if isinstance(weights, CheckpointSource):
        entry = catalogue().get(weights.catalogue or "")
        return (str(weights.catalogue), entry) if entry is not None and entry.kind == "weights" else None
    if isinstance(weights, TimmSource):
        factory = study.scale(scale).factory
        tagged = ((n, e) for n, e in catalogue().items() if e.timm == weights.timm and factory in e.architectures)
        return next(tagged, None)
    return None
