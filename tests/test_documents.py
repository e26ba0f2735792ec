"""What README, docs and examples show is what the code takes: studies, parts of studies, commands, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from orchestrator.sweep import app
from search_spaces.expand import expand
from search_spaces.files import LoadedStudy, adopt_study, load_study
from search_spaces.identity import Cards, ScaleCard, TaskCard
from search_spaces.resolve import resolve_ids
from search_spaces.study import Study
from search_spaces.yaml_text import UniqueKeyLoader
from tests.conftest import ROOT
from tests.documents import DOCUMENTS, blocks, commands, ours, parse
from tests.search_spaces.examples import raw_study

EXAMPLES = sorted((ROOT / "examples").glob("*/study.yaml"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = {"schema" if name == "schema_" else name for name in Study.model_fields}
NO_STUDIES = {"our_hospital", "hospital_v1"}
"""Column map and catalogue entry among the YAML of the docs, which their own tests read."""
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _shown() -> Iterator[tuple[str, str]]:
    """Document and text of every YAML block."""
    for document in DOCUMENTS:
        for number, text in enumerate(blocks(document.read_text(encoding="utf-8"), "yaml")):
            yield f"{document.relative_to(ROOT)}-{number}", text


SHOWN = dict(_shown())
WHOLE = {name: text for name, text in SHOWN.items() if re.search(r"^axes:", text, re.MULTILINE)}
PARTS = {name: text for name, text in SHOWN.items() if set(yaml.safe_load(text)) <= KEYS and name not in WHOLE}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", "/weights")


def loaded(text: str, folder: Path) -> LoadedStudy:
    """The study of a YAML text, as from a file."""
    file = folder / "my_study.yaml"
    file.write_text(text, encoding="utf-8")
    return load_study(str(file))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_examples_are_studies_of_as_many_trials_as_they_say(file: Path) -> None:
    study = load_study(str(file)).study
    assert study.name == file.parent.name
    [said] = {int(number) for number in re.findall(r"^#.*?(\d+) trials", file.read_text(), re.MULTILINE)}
    assert len(expand(study).targets) == said


def test_no_example_is_left_out() -> None:
    assert [file.parent for file in EXAMPLES] == sorted(f for f in (ROOT / "examples").iterdir() if f.is_dir())


@pytest.mark.parametrize("name", WHOLE)
def test_whole_studies_of_the_docs_are_accepted_and_expanded(name: str, tmp_path: Path) -> None:
    expansion = expand(loaded(WHOLE[name], tmp_path).study)
    assert expansion.targets
    assert all(exclusion.reason for exclusion in expansion.exclusions)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_studies_of_the_docs_are_accepted(name: str) -> None:
    part: dict[str, Any] = yaml.load(PARTS[name], Loader=UniqueKeyLoader)
    raw = raw_study()
    raw["tasks"] |= dict.fromkeys("AB", raw["tasks"]["chest"])
    for key, value in part.items():
        raw[key] = raw[key] | value if key in ("scales", "sources", "tasks") else value
    assert adopt_study(raw).study


def test_every_yaml_block_is_looked_at() -> None:
    assert {name.partition("-")[0] for name in WHOLE} == {"README.md", "docs/formats.md"}
    others = [yaml.safe_load(text) for name, text in SHOWN.items() if name not in WHOLE and name not in PARTS]
    assert {raw.get("name") or next(iter(raw)) for raw in others} == NO_STUDIES
    assert len(SHOWN) == sum(file.read_text(encoding="utf-8").count("```yaml") for file in DOCUMENTS)


def _readme_ids(folder: Path, name: str | None = None, spec: dict[str, Any] | None = None) -> set[str]:
    """Trial ids of README's study, with a further evaluation set if one is named."""
    raw = yaml.safe_load(WHOLE["README.md-0"])
    if name is not None:
        raw["tasks"]["chest"]["evaluate"][name] = spec
    study = loaded(yaml.safe_dump(raw), folder).study
    scaling = {"default": ((0.5,) * 3, (0.5,) * 3)}
    scale = ScaleCard(input_size=224, revision={"default": "timm/any"}, normalise=scaling)
    cards = Cards(
        scales=dict.fromkeys(study.scales, scale),
        files={str(folder / "weights" / "ours_r50.pth"): "0" * 64},
        tasks={"chest": TaskCard(manifest_hash="a", kind="multilabel", labels=("effusion", "nodule"))},
    )
    return set(resolve_ids(study, expand(study).trials, cards))


def test_the_set_that_the_readme_adds_later_needs_no_training(tmp_path: Path) -> None:
    added = re.search(r"evaluate my_study\.yaml --on (\w+) +# a set added later, (\{.*\}):", README)
    assert added is not None
    before = _readme_ids(tmp_path)
    assert _readme_ids(tmp_path, added[1], yaml.safe_load(added[2])) == before
    assert not _readme_ids(tmp_path, "added", {"where": {"sex": "F"}, "held_out": True}) & before, "as it says"
    [on] = [p for p in get_command(app).commands["evaluate"].params if p.name == "on"]
    assert "held_out" in on.help


@pytest.mark.parametrize(
    "words",
    [words for file in DOCUMENTS for words in ours(file.read_text(encoding="utf-8"))],
    ids=" ".join,
)
def test_commands_take_what_is_written(words: list[str]) -> None:
    parse(words[0], words[1:])


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_files_that_are_named_exist_and_commands_on_them_are_whole(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (file.parent / link).exists()] == []
    for line in commands(text):
        for named in re.findall(r"examples/\S+", line):
            assert (ROOT / named).is_file(), line
            unset = [v for v in _VARIABLE.findall((ROOT / named).read_text()) if f"{v}=" not in line]
            assert not unset or not named.endswith(".yaml"), f"{line}: {unset} not set"
        if line.startswith("ray job submit") and "orchestrator.sweep run" in line:
            assert " --out " in line, "the report would end with the job's temporary folder"
