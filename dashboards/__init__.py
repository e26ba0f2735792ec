"""What we learned: statistics, reading the record, figures and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dashboards.load import load_failures, load_predictions, load_results, load_study
    from dashboards.representations import load_representations

__all__ = ["load_failures", "load_predictions", "load_representations", "load_results", "load_study"]


def __getattr__(name: str) -> Any:
    """The readers of the record, imported at first use: they need pandas and MLflow, the statistics do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dashboards import load, representations

    return getattr(representations if name == "load_representations" else load, name)
