"""Everything that is wrong with a table, told at once and with row numbers."""

from __future__ import annotations

from search_spaces.exceptions import UserError

_ROWS_SHOWN = 8
_PROBLEMS_SHOWN = 20


class Problems:
    """Collects what a user must change; rows with the same complaint are listed together."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def add(self, message: str, row: int | None = None) -> None:
        """A complaint, about one row of the table (the heading is row 1) or about all of it."""
        rows = self._rows.setdefault(message, [])
        if row is not None:
            rows.append(row)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def lines(self) -> list[str]:
        """One line per complaint: ``rows 3, 7 and 12 more: ...``."""
        return [f"{_rows_text(rows)}{message}" for message, rows in self._rows.items()]

    def raise_if_any(self, where: str) -> None:
        """Tell all of them: how many, and the first in full.

        Raises:
            UserError: There are any.
        """
        if not self._rows:
            return
        lines = self.lines()
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        more = len(lines) - _PROBLEMS_SHOWN
        rest = [f"- and {more} more"] if more > 0 else []
        raise UserError("\n".join([f"{where}: {count}", *(f"- {line}" for line in lines[:_PROBLEMS_SHOWN]), *rest]))


def _rows_text(rows: list[int]) -> str:
    if not rows:
        return ""
    shown = ", ".join(str(row) for row in rows[:_ROWS_SHOWN])
    more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}: "
