"""Python in a process of its own that must not import what takes seconds and hundreds of megabytes."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "timm", "torchvision", "ray", "mlflow")


def run_light(code: str) -> list[str]:
    """What the code prints, in words; fails if one of ``HEAVY`` is imported by its end."""
    check = f"import sys; heavy = {set(HEAVY)!r} & set(sys.modules); assert not heavy, heavy"
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.split()
