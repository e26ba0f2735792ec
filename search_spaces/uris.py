"""URIs as messages may show them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_ARROWS_OWN = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"})

_PASSWORD = re.compile(r"(://[^/:@\s]*):\S*@")
_SECRET_OPTION = re.compile(r"([?&][^=&\s]*(?:secret|password|token|key|sig)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


def hide_password(text: str) -> str:
    """The text without what only the owner of a URI in it should know: its password, and options named like secrets.

    A secret key may hold slashes, so that all up to the last ``@`` of a word is taken for it.
    """
    return _SECRET_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def is_arrows_own(uri: str) -> bool:
    """Whether pyarrow opens URIs of this scheme: one that it does not take is wrong, and fsspec would misread it."""
    return urlsplit(uri).scheme in _ARROWS_OWN
