"""Where a command reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dashboards.tracking import resolve_tracking_uri
from search_spaces.home import scalecurves_home
from trainables.filesystems import below
from trainables.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a command reads and writes.

    Attributes:
        home: Imported tasks and image stores.
        storage: Path or URI of the record's files.
        tracking_uri: MLflow; ``MLFLOW_TRACKING_URI`` or a SQLite file in the home if None.
        address: Ray: ``local``, ``auto`` or an address.
    """

    home: Path
    storage: str
    tracking_uri: str | None = None
    address: str = "local"

    @classmethod
    def of(
        cls,
        home: Path | None = None,
        storage: str | None = None,
        tracking_uri: str | None = None,
        address: str = "local",
    ) -> Places:
        """Places as a user names them; what is not given follows from the home, that from ``SCALECURVES_HOME``."""
        if home is not None and not tracking_uri:
            tracking_uri = resolve_tracking_uri(None, home)
        home = (home or scalecurves_home()).expanduser().resolve()
        place = storage or str(home / "storage")
        if "://" not in place:
            place = str(Path(place).expanduser().resolve())
        return cls(home=home, storage=place, tracking_uri=tracking_uri, address=address)

    def storage_of(self, study: str) -> Storage:
        """A study's own part of the storage: two studies may train one trial under the same id."""
        return Storage(below(self.storage, study))
