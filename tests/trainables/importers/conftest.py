from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``table.csv`` with the given text and a small image for each name in its first column."""

    def write(text: str, images: bool = True, name: str = "table.csv") -> Path:
        lines = [line.strip() for line in text.strip().splitlines()]
        file = tmp_path / name
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for i, line in enumerate(lines[1:] if images else []):
            path = tmp_path / line.split(",")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 8), i, dtype=np.uint8)).save(path)
        return file

    return write
