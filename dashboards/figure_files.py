"""SVG and PNG of every figure of a report. Many figures are drawn by several processes: each takes about a second.

The processes are started as commands, not by ``multiprocessing``, which would run the caller's main script once more.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dashboards.plots import AnyPlot
from dashboards.static import render

PER_PROCESS = 12
"""Least figures that are worth a process of their own, which takes two seconds to start."""

Draw = Callable[[AnyPlot], tuple[bytes, bytes]]


def write_figures(plots: Sequence[AnyPlot], folder: Path, draw: Draw = render) -> None:
    """Write ``<key>.svg`` and ``<key>.png`` of each figure.

    Args:
        plots: What to draw; keys are unique.
        folder: Is there, and is empty.
        draw: Gives SVG and PNG; any other than ``static.render`` stays in this process.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cpus, len(plots) // PER_PROCESS) if draw is render else 1
    if workers < 2:
        _write(plots, folder, draw)
        return
    shares = [plots[k::workers] for k in range(workers)]
    with tempfile.TemporaryDirectory(prefix="scalecurves-figures-") as temporary:
        running = [_start(share, Path(temporary) / f"{k}.pickle", folder) for k, share in enumerate(shares[1:])]
        try:
            _write(shares[0], folder, draw)
        finally:
            for process in running:
                process.wait()
    # A process that was killed, as for want of memory, leaves its figures to this one.
    _write([plot for plot in plots if not (folder / f"{plot.key}.png").is_file()], folder, draw)


def _start(plots: Sequence[AnyPlot], file: Path, folder: Path) -> subprocess.Popen[bytes]:
    file.write_bytes(pickle.dumps(list(plots)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-m", "dashboards.figure_files", str(file), str(folder)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _write(plots: Sequence[AnyPlot], folder: Path, draw: Draw) -> None:
    for plot in plots:
        svg, png = draw(plot)
        (folder / f"{plot.key}.svg").write_bytes(svg)
        partial = folder / f".{plot.key}.part"
        partial.write_bytes(png)
        partial.replace(folder / f"{plot.key}.png")  # last and whole: what has it is done


def main() -> None:
    """Draw the figures in the pickle file of the first argument into the folder of the second."""
    _write(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), render)


if __name__ == "__main__":
    main()
