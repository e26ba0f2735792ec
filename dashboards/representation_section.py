"""The part of the page about what networks keep; a study that kept nothing has none."""

from __future__ import annotations

from dashboards.evidence import Evidence
from dashboards.evidence_sections import capped, named, not_drawn
from dashboards.filter_pictures import filter_pictures
from dashboards.page import Section
from dashboards.plots import AnyPlot
from dashboards.representation_plots import distance_plots, drift_plots, filter_plots, pair_plots
from dashboards.representation_tables import NAMES
from dashboards.statistics.similarity import IMAGES_PER_DIMENSION
from dashboards.tables import Tables


def representation_section(evidence: Evidence, tables: Tables) -> tuple[Section, ...]:
    """Drift, likeness of networks, first filters and weights."""
    drift, pairs, filters, distances = (tables.of(name) for name in NAMES)
    if not any(map(len, (drift, pairs, filters, distances))):
        return ()
    kinds: tuple[list[AnyPlot], ...] = (
        [*drift_plots(drift, pairs, evidence.baseline)] if len(drift) else [],
        [*pair_plots(pairs, evidence.baseline)] if len(pairs) else [],
        [*filter_plots(filters, evidence.baseline)] if len(filters) else [],
        [*filter_pictures(evidence)] if len(filters) else [],
        [*distance_plots(distances, evidence.baseline)] if len(distances) else [],
    )
    shown = [capped(plots) for plots in kinds]
    return (
        Section(
            anchor="representations",
            heading="Representations",
            intro="What is left of the start, and are networks of two starts alike? All networks saw the same images, "
            "none of them trained on. Exploratory: nothing is tested, intervals are over seeds alone and for these "
            f"images, and likeness is no evidence of transfer. {_reduction(evidence)} Read every number beside its "
            "nulls: images permuted, and networks that were never trained. Differences to "
            f"{evidence.baseline} are paired by seed.{not_drawn(*(rest for _, rest in shown))}",
            plots=tuple(plot for plots, _ in shown for plot in plots),
            folded=named(
                ("Each layer against its start", drift),
                ("Pairs of networks", pairs),
                ("First filters", filters),
                ("Distance of the weights from their start", distances),
            ),
        ),
    )


def _reduction(evidence: Evidence) -> str:
    """What is done about layers with many dimensions."""
    asked = evidence.study.representations if evidence.study else None
    rule = f"not estimable below {IMAGES_PER_DIMENSION} images per dimension"
    if asked is None or asked.components is None:
        return f"Canonical correlations are {rule}; SVCCA counts the components that hold 99 % of the variance."
    return (
        f"Canonical correlations (mean CCA, PWCCA) are those of at most {asked.components} leading principal "
        f"components of a layer, SVCCA's of the components that hold 99 % of its variance; they are {rule}."
    )
