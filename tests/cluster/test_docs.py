"""Every command of docs/cluster.md is one of ours, and every object that it names is made by the manifests."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest
import typer

from cluster.fill import template
from tests.cluster.kube import MADE_BY_HAND
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text()


def commands() -> list[str]:
    """Lines behind ``$`` of the console blocks, continued ones joined."""
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    joined = re.sub(r"\\\n\s*", "", "\n".join(blocks))
    return [line.strip()[2:] for line in joined.splitlines() if line.strip().startswith("$ ")]


def ours() -> list[list[str]]:
    """Module and arguments of each of our commands, wherever in a line it stands."""
    found = [re.search(r"python -m ((?:orchestrator|cluster)\.\w+)([^|<>']*)", line) for line in commands()]
    return [[match[1], *shlex.split(match[2], comments=True)] for match in found if match]


def parse(module: str, words: list[str]) -> None:
    """As the command would before it starts; raises what it would say."""
    imported = importlib.import_module(module)
    if hasattr(imported, "app"):
        group = typer.main.get_command(imported.app)
        name, *words = words
        group.commands[name].make_context(name, words)  # type: ignore[attr-defined]
        return
    app = typer.Typer()
    app.command()(imported.main)
    typer.main.get_command(app).make_context(module, words)


@pytest.mark.parametrize("words", ours(), ids=" ".join)
def test_commands_take_what_is_written(words: list[str]) -> None:
    parse(words[0], words[1:])


def test_a_wrong_option_would_be_seen() -> None:
    assert len(ours()) == 6
    with pytest.raises(Exception, match="No such option"):
        parse("cluster.render", ["--study", "demo", "--workers", "1:1", "--name-space", "lab"])


def test_objects_that_are_named_exist() -> None:
    objects = [o for made in template().values() for o in made]
    kinds = {"deploy": "Deployment", "svc": "Service"}
    named = {match for line in commands() for match in re.findall(r"\b(deploy|svc)/([a-z]+)\b", line)}
    assert named == {("deploy", "toolbox"), ("deploy", "mlflow"), ("svc", "mlflow")}
    assert all(any((o["kind"], o["metadata"]["name"]) == (kinds[kind], name) for o in objects) for kind, name in named)
    for secret, keys in MADE_BY_HAND.items():
        for key in keys:
            assert any(f"generic {secret} --from-literal={key}=" in line for line in commands())


def test_links_and_folders_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"apply -k (cluster/\S+)", TEXT))
