"""What is printed of the data sets that can be imported by name."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from trainables.importers.catalogue import shipped_map, shipped_names, variants
from trainables.importers.column_map import ColumnMap


def print_available(console: Console) -> None:
    """Name, title, needs, origin, licence, counts and variants of every data set."""
    for name in shipped_names():
        column_map = shipped_map(name)
        console.print(f"[bold]{escape(name)}[/bold]  {escape(column_map.title)}", highlight=False)
        facts = Table.grid(padding=(0, 2))
        for key, value in _facts(column_map, variants(name)).items():
            facts.add_row(key, escape(value))
        console.print(Padding(facts, (0, 0, 1, 2)), highlight=False)
    console.print(
        "Import one with: python -m orchestrator.tasks import DATA_SET PATH --name NAME [--variant VARIANT]. "
        "A data set that is not here: docs/datasets.md",
        highlight=False,
    )


def _facts(column_map: ColumnMap, changed: dict[str, str]) -> dict[str, str]:
    about = column_map.about
    facts = {"kind": column_map.kind.value} if column_map.reader != "npz" else {}
    facts |= {"needs": about.needs, "obtained": about.obtained, "licence": about.licence}
    if counts := column_map.expected.flat():
        facts["counts"] = ", ".join(
            f"{count} {key.removeprefix('split.').replace('label.', 'with ')}" for key, count in counts.items()
        )
    if about.notes:
        facts["notes"] = "\n".join(about.notes)
    if changed:
        facts["variants"] = "\n".join(f"{name}: {title}" for name, title in changed.items())
    return facts
