"""Commands and YAML that the documents show, for tests that hold them to the code."""

from __future__ import annotations

import importlib
import re
import shlex
import textwrap

import typer

from tests.conftest import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md")


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language, without the indentation of the list that they stand in."""
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(match[2]) for match in found]


def commands(text: str) -> list[str]:
    """Lines behind ``$`` of the console blocks, continued ones joined."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(blocks(text, "console")))
    return [line.strip()[2:] for line in joined.splitlines() if line.strip().startswith("$ ")]


def ours(text: str) -> list[list[str]]:
    """Module and arguments of each of our commands, in console blocks and in indented ones."""
    lines = [*commands(text), *re.findall(r"^    (python -m .*)$", text, re.MULTILINE)]
    found = [re.search(r"python -m ((?:orchestrator|cluster)\.\w+)((?:'[^']*'|[^|<>'])*)", line) for line in lines]
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
