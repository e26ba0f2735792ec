"""Order and place of labelled amounts: by the images that they gave, or by what was written where nobody said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd


def mean_images(results: pd.DataFrame) -> dict[str, float]:
    """Amount -> labelled training images, mean over trials; amounts of which none is known are left out.

    Args:
        results: Columns data_fraction and n_images; others do not matter.
    """
    if not {"data_fraction", "n_images"} <= set(results.columns):
        return {}
    means = results.groupby(results["data_fraction"].astype(str))["n_images"].mean().dropna()
    return {str(label): float(n) for label, n in means.items()}


def amount_ranks(labels: Iterable[str], images: Mapping[str, float]) -> dict[str, float]:
    """Amount -> its place from the smallest: by images if all are known, else by the number written.

    Args:
        labels: Such as ``0.05`` or ``patients=9``.
        images: Of those of which it is known.
    """
    ordered = sorted(set(labels), key=written_amount)
    if all(label in images for label in ordered):
        ordered = sorted(ordered, key=lambda label: images[label])
    return {label: float(i) for i, label in enumerate(ordered)}


def written_amount(label: str) -> tuple[str, float]:
    """Kind and number of an amount's label: ``("", 0.05)``, ``("patients", 9.0)``."""
    kind, _, n = label.rpartition("=")
    return kind, float(n)


def amount_positions(cells: pd.DataFrame) -> tuple[pd.Series[float], bool]:
    """Where the amounts of one task stand on an axis, smallest first, and whether that is in images.

    Args:
        cells: Columns data_fraction and images (NaN where the number is not known).

    Returns:
        Amount -> images; where any is not known, the shares or counts as they were written, or 1, 2, ... if those are
        of several kinds.
    """
    images = cells.groupby("data_fraction", sort=False)["images"].mean().sort_values()
    if images.notna().all():
        return images, True
    written = {str(label): written_amount(str(label)) for label in images.index}
    ranks = amount_ranks(written, {})
    one_kind = len({kind for kind, _ in written.values()}) == 1
    places = {label: written[label][1] if one_kind else rank + 1 for label, rank in ranks.items()}
    return pd.Series(places, dtype=float).sort_values(), False
