"""The image, as far as it can be looked at without building it."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cluster.fill import template
from tests.cluster.kube import pods
from tests.conftest import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTRUCTIONS = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest), continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]


def of(word: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == word]


def test_every_instruction_is_one() -> None:
    assert {word for word, _ in instructions()} == INSTRUCTIONS
    assert instructions()[0][0] == "FROM"


def test_python_is_the_one_that_the_constraints_were_made_for() -> None:
    [base] = of("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-bookworm", base)
    assert version
    assert version[1] in SpecifierSet(PROJECT["project"]["requires-python"])
    assert f"Python {version[1]}," in (ROOT / "constraints.txt").read_text().splitlines()[0]


def sources() -> list[str]:
    return [source for rest in of("COPY") for source in shlex.split(rest)[:-1]]


def test_what_is_copied_exists_and_the_packages_are_all_there() -> None:
    assert all((ROOT / source).exists() for source in sources())
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages <= set(sources())


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(sources())
    assert any(fnmatch.fnmatch("**/__pycache__", line) for line in lines)


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    order = [(word, rest) for word, rest in instructions() if word in ("COPY", "RUN")]
    install = next(n for n, (word, rest) in enumerate(order) if "--requirement" in rest)
    code = next(n for n, (word, rest) in enumerate(order) if word == "COPY" and "orchestrator" in rest)
    assert install < code
    assert "--constraint constraints.txt" in order[install][1]


def test_the_requirements_are_those_of_the_project_and_each_is_pinned() -> None:
    [run] = [rest for rest in of("RUN") if "tomllib" in rest]
    words = shlex.split(run)
    printed = subprocess.run(
        [sys.executable, "-c", words[words.index("-c") + 1]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        requirement for name in ("postgres", "s3", "dicom", "remote", "segmentation") for requirement in extras[name]
    ]
    assert printed == PROJECT["project"]["dependencies"] + wanted
    pins = dict(
        re.split("==", line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, printed):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_pods_run_as_the_user_of_the_image() -> None:
    [user] = of("USER")
    assert any(f"--uid {user.partition(':')[0]}" in rest for rest in of("RUN"))
    made = [pod["spec"] for pod in pods([o for objects in template().values() for o in objects])]
    ours = [spec for spec in made if spec["containers"][0]["image"].startswith("scalecurves")]
    assert len(ours) == 5
    for spec in ours:
        context = spec["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_everything_that_a_pod_runs_is_in_the_image() -> None:
    [command] = of("CMD")
    commands = [json.loads(command)]
    for pod in pods([o for objects in template().values() for o in objects]):
        for container in pod["spec"]["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {})
            commands += [part["command"] for part in (container, hook) if "command" in part]
    modules = {words[2] for words in commands if words[:2] == ["python", "-m"]}
    assert modules == {"orchestrator.sweep", "cluster.drain", "mlflow"}
    assert all(importlib.util.find_spec(module) for module in modules)


def test_no_secret_and_no_address_of_a_registry_is_baked_in() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"(?i)(password|secret|api_key)\s*=", text)
    assert "--index-url" not in text


@pytest.mark.parametrize("package", PROJECT["tool"]["setuptools"]["packages"])
def test_every_file_that_a_package_reads_is_installed_with_it(package: str) -> None:
    folder = ROOT / package.replace(".", "/")
    nested = [init.parent for init in folder.glob("*/**/__init__.py")]
    held = {f for f in folder.rglob("*") if f.is_file() and not any(f.is_relative_to(n) for n in nested)}
    read = {f for f in held if f.suffix not in (".py", ".pyc") and f != DOCKERFILE}
    patterns = PROJECT["tool"]["setuptools"]["package-data"].get(package, [])
    assert read == {f for pattern in patterns for f in folder.glob(pattern)}


def test_every_package_is_installed() -> None:
    packages = PROJECT["tool"]["setuptools"]["packages"]
    tops = {package.partition(".")[0] for package in packages}
    found = {init.parent.relative_to(ROOT) for top in tops for init in (ROOT / top).rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in found} == set(packages)
