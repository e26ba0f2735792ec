"""What of a URI messages show."""

from __future__ import annotations

import pytest

from search_spaces.uris import hide_password, is_arrows_own


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("http://ann:secret@mlflow:5000 is away", "http://ann:***@mlflow:5000 is away"),
        ("s3://KEY:se/cr+et@bucket/x?region=eu: no", "s3://KEY:***@bucket/x?region=eu: no"),
        ("abfs://a@b/x?client_id=1&client_secret=geheim&y=2", "abfs://a@b/x?client_id=1&client_secret=***&y=2"),
        ("https://a.b/c?X-Amz-Signature=123 and ?sig=4", "https://a.b/c?X-Amz-Signature=*** and ?sig=***"),
    ],
)
def test_passwords_and_secret_options_are_hidden_and_nothing_else(written: str, shown: str) -> None:
    assert hide_password(written) == shown


def test_what_arrow_opens_is_known_by_its_scheme() -> None:
    assert [is_arrows_own(uri) for uri in ("s3://b", "gs://b/x?y", "memory://b", "/data", "hf://b")] == [
        True,
        True,
        False,
        False,
        False,
    ]
