"""URIs as messages may show them."""

from __future__ import annotations

import re


def hide_password(text: str) -> str:
    """The text without the password of a URI in it."""
    return re.sub(r"(://[^/:@\s]*):[^@/\s]*@", r"\1:***@", text)
