"""Text for the page: everything a user named is escaped."""

from __future__ import annotations

import html
import re


def unbroken(sentence: str) -> str:
    """Escaped text whose numbers stay with their units and relations at the end of a line."""
    joined = re.sub(r"(?<=\d) (?=%|seed|patient|cell)|(?<=\bp) (?=[=<>])|(?<=[=<>]) (?=\d)", "\u00a0", sentence)
    return escaped(joined)


def escaped(value: str) -> str:
    """For text and for attributes in double quotes."""
    return html.escape(value, quote=True)
