"""Who may import whom (docs/architecture.md), by walking the imports and by importing in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search_spaces", "trainables", "dashboards", "cluster", "orchestrator")
ALLOWED = {
    "search_spaces": set(),
    "trainables": {"search_spaces"},
    "dashboards": {"search_spaces"},
    "cluster": {"search_spaces"},
    "orchestrator": {"search_spaces", "trainables", "dashboards", "cluster"},
}
FORBIDDEN = {
    "search_spaces": {"torch", "ray", "mlflow", "numpy", "pandas", "pyarrow", "timm", "sklearn", "scipy"},
    "trainables": {"mlflow", "plotly", "matplotlib"},
    "dashboards": {"torch", "ray", "timm", "torchvision"},
    "cluster": {"torch", "timm", "mlflow"},
    "orchestrator": {"timm", "torchvision"},
}
RAY_TRAIN = {"trainables/gang.py"}
TORCH_FREE = (
    "search_spaces.files",
    "search_spaces.resolve",
    "search_spaces.home",
    "trainables.manifest",
    "trainables.library",
    "trainables.subsets",
    "trainables.evaluation_sets",
    "trainables.storage",
    "dashboards.statistics",
    "dashboards.report",
    "orchestrator.api",
    "orchestrator.broker",
    "orchestrator.leases",
    "orchestrator.prune",
    "orchestrator.why",
    "orchestrator.tasks",
)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[tuple[str, bool]]:
    """(module, whether at the top level of the file) of every import that is ever executed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    typing_only = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for block in typing_only for inner in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add((node.module, id(node) in top))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_their_layer_allows(package):
    wrong = []
    for path in files(package):
        for module, _ in imported(path):
            root = module.split(".")[0]
            if root in PACKAGES and root != package and root not in ALLOWED[package]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
            if root in FORBIDDEN[package]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_ray_in_trainables_only_in_the_gang_and_lazily():
    wrong = []
    for path in files("trainables"):
        for module, top in imported(path):
            if module.split(".")[0] == "ray" and (top or str(path.relative_to(ROOT)) not in RAY_TRAIN):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_only_the_record_writes_to_mlflow():
    """Reading is the dashboards' right; in orchestrator, mlflow is imported by the record's own modules alone."""
    users = {p.name for p in files("orchestrator") if any(m.split(".")[0] == "mlflow" for m, _ in imported(p))}
    assert users == {"experiment.py", "delivery.py"}


def test_statistics_are_pure():
    """No files, no plotting, no tracking in dashboards.statistics."""
    for path in files("dashboards/statistics"):
        roots = {m.split(".")[0] for m, _ in imported(path)}
        assert not roots & {"mlflow", "plotly", "matplotlib", "pathlib", "pyarrow", "os"}, path


def test_light_modules_stay_light():
    """Torch costs half a gigabyte in every process that imports it; these run in many processes or at every command."""
    code = "import sys; {}; heavy = {{'torch', 'timm'}} & set(sys.modules); assert not heavy, heavy"
    for module in TORCH_FREE:
        ran = subprocess.run(
            [sys.executable, "-c", code.format(f"import {module}")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{module}: {ran.stderr[-400:]}"
