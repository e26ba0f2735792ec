"""The study file of a record that was not run here but read from a table of others' results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.models import StrictModel
from search_spaces.study import StatisticsSpec


class Origin(StrictModel):
    """The table that was read last.

    Attributes:
        file: Its name, without the folder.
        sha256: Of its bytes.
        rows: Its data rows.
    """

    file: str
    sha256: str
    rows: int


class IngestedStudy(StrictModel):
    """What is known of others' study beyond its results.

    Attributes:
        name: Name of the study; that of its MLflow experiment.
        ingested: Where the results come from.
        primary: Task -> metric that leads the report.
        statistics: How results are compared.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    ingested: Origin
    primary: dict[str, str]
    statistics: StatisticsSpec = StatisticsSpec()
