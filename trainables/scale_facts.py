"""Facts about scales that identity needs, where they can be had without torch: it takes seconds and 600 MB to import.

``trainables.models.scale_card`` says the same of every scale, with torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.identity import ScaleCard
from trainables.shipped_cards import shipped_cards
from trainables.user_modules import written_factory

LIBRARIES = ("timm", "torchvision")
"""What stands before the colon of a factory that is in no module of the user's."""

_OWN = __name__.partition(".")[0]


def known_facts(text: str, import_paths: Sequence[str] = ()) -> ScaleCard | None:
    """Facts about a scale, if they can be had without torch.

    Args:
        text: The factory, as in a study.
        import_paths: Folders in which a user's module is looked up first.
    """
    module, colon, function = text.partition(":")
    if not colon or module in LIBRARIES:
        cards = shipped_cards()
        return cards.facts(text) if cards else None
    code = written_factory(module, function, import_paths)
    if code is None:
        return None
    return ScaleCard(input_size=None, factory_sha256=None if module.partition(".")[0] == _OWN else code)
