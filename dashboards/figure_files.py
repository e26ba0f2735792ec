"""SVG and PNG of every figure of a report. Many figures are drawn by several processes: each takes about a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from dashboards.exchange import take
from dashboards.plots import AnyPlot
from dashboards.processes import cpus, helpers, payload_of
from dashboards.static import render

PER_PROCESS = 12
"""Least figures that are worth a process of their own, which takes two seconds to start."""

Draw = Callable[[AnyPlot], tuple[bytes, bytes]]


@contextmanager
def figures_being_written(plots: Sequence[AnyPlot], folder: Path, draw: Draw = render) -> Iterator[None]:
    """``<key>.svg`` and ``<key>.png`` of each figure: further processes draw while the caller does something else.

    At the end the caller's process helps with what is left.

    Args:
        plots: What to draw; keys are unique.
        folder: Is there, and is empty.
        draw: Gives SVG and PNG; any other than ``static.render`` stays in this process.
    """
    number = min(cpus(), len(plots) // PER_PROCESS) - 1 if draw is render else 0
    with helpers("dashboards.figure_files", list(plots), max(number, 0), str(folder)) as helping:
        yield
        _write(plots, folder, helping.folder, draw)
        helping.wait()
        # A process that was killed, as for want of memory, leaves its figures to this one.
        for plot in plots:
            if not (folder / f"{plot.key}.png").is_file():
                _write_one(plot, folder, draw)


def write_figures(plots: Sequence[AnyPlot], folder: Path, draw: Draw = render) -> None:
    """The same, with nothing done meanwhile."""
    with figures_being_written(plots, folder, draw):
        pass


def _write(plots: Sequence[AnyPlot], folder: Path, shared: Path, draw: Draw) -> None:
    """Every figure that no other process has taken."""
    for number, plot in enumerate(plots):
        if take(shared, number):
            _write_one(plot, folder, draw)


def _write_one(plot: AnyPlot, folder: Path, draw: Draw) -> None:
    svg, png = draw(plot)
    (folder / f"{plot.key}.svg").write_bytes(svg)
    partial = folder / f".{plot.key}.part"
    partial.write_bytes(png)
    partial.replace(folder / f"{plot.key}.png")  # last and whole: what has it is done


def main() -> None:
    """Draw the figures of the folder in the first argument that are free into the folder of the second."""
    shared, folder = map(Path, sys.argv[1:3])
    _write(cast("list[AnyPlot]", payload_of(shared)), folder, shared, render)


if __name__ == "__main__":
    main()
