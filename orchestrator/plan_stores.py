"""Whether the image stores of a study fit into the limit of the cache, all together."""

from __future__ import annotations

from collections.abc import Collection

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from trainables.library import TaskLibrary
from trainables.shards import Layout
from trainables.store import is_store, store_path
from trainables.store_cache import LIMIT_VARIABLE, cache_limit


def check_stores(stores: Collection[tuple[str, int, int]], library: TaskLibrary) -> None:
    """Refuse a limit that cannot hold all stores of a study at once: they would evict each other while it runs.

    Counted are the stores that trials read and, as it is there while a smaller one is made from it, the largest of the
    originals that are still to be made; other stores of the cache may go.

    Args:
        stores: Manifest, storage size and working side in pixels of each.
        library: Where manifests and stores are.

    Raises:
        UserError: The limit is lower, or no size.
        DataError: Images are missing.
    """
    limit = cache_limit()
    if limit is None:
        return
    kept = {store: _size_bytes(library, store[0], store[2]) for store in stores}
    whole = {(name, size) for name, size, side in stores if side == size}
    originals = {(name, size) for name, size, side in stores if _is_made_from_larger(library, name, size, side)}
    passing = max((_size_bytes(library, *original) for original in originals - whole), default=0)
    needed = sum(kept.values()) + passing
    if needed > limit:
        largest = max(kept, key=lambda store: kept[store])
        raise UserError(
            f"the image stores of this study take {needed / 1e9:.2f} GB at once ({len(kept)} stores, the largest of "
            f"{largest[0]!r} at {largest[2]} px with {kept[largest] / 1e9:.2f} GB): more than {LIMIT_VARIABLE} = "
            f"{limit / 1e9:.2f} GB allows. Raise it, choose a smaller protocol.storage_size, or run a part with --only"
        )


def _size_bytes(library: TaskLibrary, name: str, side: int) -> int:
    manifest = library.load(name)
    return Layout(images=len(manifest), side=side, masks=manifest.kind is Kind.SEGMENTATION).size_bytes


def _is_made_from_larger(library: TaskLibrary, name: str, storage_size: int, side: int) -> bool:
    if side == storage_size:
        return False
    return not is_store(store_path(library.home, library.content_hash(library.load(name)), storage_size, side))
