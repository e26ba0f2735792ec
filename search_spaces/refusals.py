"""What an MLflow server's refusal means, for all who ask one."""

from __future__ import annotations

_UNKNOWN_HOST = "Invalid Host header"
"""How the answer begins that MLflow gives to a name that it was not told (``mlflow.server.security_utils``)."""


def refusal_advice(said: str) -> str:
    """What to do after an answer 401 or 403.

    Args:
        said: What the server said.
    """
    if _UNKNOWN_HOST in said:
        return "the server was not told the host name of this address: name it in its option --allowed-hosts"
    return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN"
