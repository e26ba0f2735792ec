"""A table of a million images, imported and drawn from: ``python -m benchmarks.manifest [--quick]``.

The table is made here: 14 labels (1, 0, blank, uncertain), patients with one to seven images, examinations, sites, sex,
age and two group columns, no split. Timed in one fresh process: the import as ``tasks import csv --unopened`` does it
(columns found, labels read, patients split, manifest written), and the subsets of 8 fractions times 10 seeds with
their hashes. Seconds are of the wall clock; those of the CPU stand beside them, for machines that others use, too.
``--quick`` takes 50,000 images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

LABELS = tuple(f"finding_{k:02d}" for k in range(14))
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.75, 1.0)
SEEDS = 10
IMAGES, QUICK_IMAGES = 1_000_000, 50_000
MOST_PER_PATIENT = 7
TARGETS = {"import_s": 60.0, "subsets_s": 30.0, "peak_mib": 2048.0}


def make_table(path: Path, images: int) -> None:
    """Write the CSV file of an imaginary data set of this size."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, MOST_PER_PATIENT + 1, images)
    patient = np.repeat(np.arange(images), sizes)[:images]
    number = np.arange(images)
    columns: dict[str, object] = {
        "image": [f"images/{p // 1000:04d}/p{p:07d}/view{i:07d}.jpg" for p, i in zip(patient, number, strict=True)],
        "patient_id": [f"p{p:07d}" for p in patient],
        "study_id": [f"s{i // 2:07d}" for i in number],
        "site": np.array(["north", "south", "east"])[patient % 3],
        "sex": np.array(["F", "M", ""])[rng.choice(3, images, p=[0.48, 0.48, 0.04])[patient]],
        "age": np.array([*map(str, range(100)), ""])[rng.integers(0, 101, images)[patient]],
        "view": np.array(["AP", "PA", "lateral"])[rng.integers(0, 3, images)],
        "scanner": np.array([f"scanner {k}" for k in range(12)])[rng.integers(0, 12, images)],
    }
    for k, label in enumerate(LABELS):
        share = 0.3 / (k + 1)
        columns[label] = np.array(["1", "0", "", "-1"])[rng.choice(4, images, p=[share, 0.6, 0.35 - share, 0.05])]
    pd.DataFrame(columns).to_csv(path, index=False)


def measure(table: Path, home: Path) -> dict[str, float]:
    """Import the table, draw every subset; seconds, memory, and counts that show what was done."""
    from trainables.importers import ImportOptions, import_csv
    from trainables.library import TaskLibrary
    from trainables.subsets import SubsetPool

    started, cpu = time.perf_counter(), time.process_time()
    options = ImportOptions(name="large", label_columns=LABELS, group_columns=("view", "scanner"), unopened=True)
    library = TaskLibrary(home)
    library.save(import_csv(table, options))
    imported = {"import_s": time.perf_counter() - started, "import_cpu_s": time.process_time() - cpu}

    started, cpu = time.perf_counter(), time.process_time()
    hashes = draw_all(SubsetPool, library)
    drawn = {"subsets_s": time.perf_counter() - started, "subsets_cpu_s": time.process_time() - cpu}
    return {**imported, **drawn, "subsets": len(hashes), "different": len(set(hashes))}


def draw_all(pool_of: type, library: object) -> list[str]:
    """Hashes of the subsets of all fractions and seeds."""
    from search_spaces.amounts import Amount
    from search_spaces.names import Kind
    from search_spaces.trial import ResolvedTask
    from trainables.evaluation_sets import task_rows

    task = ResolvedTask(
        name="large", manifest="large", manifest_hash="", kind=Kind.MULTILABEL, labels=LABELS, primary="auc_macro"
    )
    rows = task_rows(library, task)  # type: ignore[arg-type]
    pool = pool_of(rows.pool(LABELS), LABELS, Kind.MULTILABEL)
    amounts = [Amount(kind="fraction", value=fraction) for fraction in FRACTIONS]
    return [order.draw(amount).subset_hash for order in map(pool.order, range(SEEDS)) for amount in amounts]


def main() -> None:
    """Make the table, measure in a fresh process, print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=2, type=Path, metavar=("TABLE", "HOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    images = QUICK_IMAGES if arguments.quick else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        table, home = Path(folder, "table.csv"), Path(folder, "home")
        make_table(table, images)
        result, peak = _in_fresh_process(table, home)
    measured = {"images": images, **result, "peak_mib": peak}
    for name, value in measured.items():
        target = f"  (target: at most {TARGETS[name]:g})" if name in TARGETS and not arguments.quick else ""
        print(f"{name:12} {value:12.1f}{target}")
    print(json.dumps({name: round(value, 2) for name, value in measured.items()}))


def _in_fresh_process(table: Path, home: Path) -> tuple[dict[str, float], float]:
    """What ``measure`` found, and the largest resident memory of its process in MiB."""
    command = [sys.executable, "-m", "benchmarks.manifest", "--measure", str(table), str(home)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, peak = psutil.Process(child.pid), 0
    while child.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    printed = child.communicate()[0]
    if child.returncode:
        raise SystemExit(f"the measured process ended with {child.returncode}")
    return json.loads(printed.splitlines()[-1]), peak / 2**20


if __name__ == "__main__":
    main()
