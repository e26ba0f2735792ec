from __future__ import annotations

import pytest
import yaml

from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.files import load_study, presets, study_name
from search_spaces.study import ByScaleSource
from tests.search_spaces.examples import TEXT


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(TEXT)
    return path


def test_relative_checkpoints_lie_beside_the_study_file(file):
    source = load_study(str(file)).study.source("natural")
    assert isinstance(source, ByScaleSource)
    assert source.by_scale["resnet20"].file == str(file.parent / "cifar.th")


def test_a_checkpoint_that_is_a_link_keeps_the_name_that_was_written(file):
    (file.parent / "blob").write_bytes(b"weights")
    (file.parent / "cifar.th").symlink_to("blob")
    source = load_study(str(file)).study.source("natural")
    assert source.by_scale["resnet20"].file == str(file.parent / "cifar.th")


def test_environment_variables_are_expanded_but_not_kept(file, monkeypatch, tmp_path):
    file.write_text(TEXT.replace("cifar.th", '"${MY_WEIGHTS}/cifar.th"'))
    monkeypatch.setenv("MY_WEIGHTS", str(tmp_path / "w"))
    loaded = load_study(str(file))
    assert loaded.study.source("natural").by_scale["resnet20"].file == str(tmp_path / "w" / "cifar.th")
    assert "${MY_WEIGHTS}" in loaded.text


def test_files_named_by_a_variable_that_is_not_set_wait_for_the_plan(file, monkeypatch):
    monkeypatch.delenv("MY_WEIGHTS", raising=False)
    file.write_text(TEXT.replace("cifar.th", '"${MY_WEIGHTS}/cifar.th"'))
    assert load_study(str(file)).study.source("natural").by_scale["resnet20"].file == "${MY_WEIGHTS}/cifar.th"


def test_all_other_variables_that_are_not_set_are_refused_at_once(file, monkeypatch):
    for name in ("MY_TASK", "MY_GROUP"):
        monkeypatch.delenv(name, raising=False)
    text = TEXT.replace("manifest: ham10000", 'manifest: "${MY_TASK}"').replace("[sex, age_band]", '["${MY_GROUP}"]')
    file.write_text(text)
    with pytest.raises(UserError, match=r"MY_TASK is not set .* MY_GROUP is not set \(used in '\$\{MY_GROUP\}'\)"):
        load_study(str(file))


def test_a_value_that_leaves_an_axis_leaves_the_rules(file):
    """Rules name only what there is; what an upstream trial has, is still there."""
    first = "{when: {task: [chest, lgg_tumour]}, set: {lr: 0.02}}, {when: {task: lgg_tumour}, set: {lr: 0.03}}"
    rules = "priorities: [{when: {task: [lgg_tumour, ham10000]}, priority: 1}]"
    text = TEXT.replace("overrides: [", f"overrides: [{first}, ").replace("keep_weights: best", rules)
    file.write_text(text)
    study = load_study(str(file), ["task=ham10000"]).study
    assert [o.when for o in study.overrides] == [{"task": ["chest"]}, {"model_scale": "squeezenet"}]
    assert study.exclude == []
    assert study.execution.priorities[0].when == {"task": ["ham10000"]}
    assert len(expand(study).cells) == 2 * 4 * 3
    both = load_study(str(file), ["task=ham10000,lgg_tumour"]).study
    assert (len(both.overrides), len(both.exclude)) == (3, 1)


@pytest.mark.parametrize("upstream", ["{task: chest}", "{task: chest, data_fraction: 1.0}"])
def test_rules_on_the_amount_of_an_upstream_trial_stay(file, upstream):
    raw = yaml.safe_load(TEXT)
    raw["sources"]["staged"] = {"trial": yaml.safe_load(upstream)}
    raw["axes"]["pretraining_source"].append("staged")
    rule = {"when": {"task": "chest", "data_fraction": 1.0}, "set": {"lr": 0.02}}
    raw = {**raw, "overrides": [rule], "exclude": []}
    file.write_text(yaml.safe_dump(raw))
    study = load_study(str(file), ["data_fraction=0.2"]).study
    assert [o.when for o in study.overrides] == [{"task": "chest", "data_fraction": [1.0]}]


def test_rules_on_what_never_was_on_an_axis_are_still_refused(file):
    file.write_text(TEXT.replace("task: lgg_tumour, data", "task: lgg_tumours, data"))
    with pytest.raises(UserError, match="Did you mean 'lgg_tumour'"):
        expand(load_study(str(file), ["model_scale=squeezenet"]).study)


def test_set_changes_axes_seeds_and_protocol(file):
    changes = [
        "task=ham10000",
        "data_fraction=0.2,{patients: 9}",
        "seeds=2",
        "protocol.budget.steps=7",
        "protocol.lr=1e-2",
    ]
    study = load_study(str(file), [*changes, "statistics={}"]).study.model_copy(update={"exclude": []})
    assert len(expand(study).targets) == 2 * 4 * 2 * 2
    assert (study.protocol.budget.steps, study.protocol.lr) == (7, 0.01)


@pytest.mark.parametrize(
    ("change", "expected"),
    [("task", "--set takes"), ("tusk=a", "Did you mean 'task'"), ("task=a", "unknown task 'a'"), ("seeds=[", "YAML")],
)
def test_set_refuses_what_it_cannot_mean(file, change, expected):
    with pytest.raises(UserError, match=expected.replace("(", r"\(")):
        expand(load_study(str(file), [change]).study)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("name: a\nname: b\n", "given twice"), ("[1]", "must be a mapping"), ("a: [", "not valid YAML")],
)
def test_broken_files_are_refused(file, text, expected):
    file.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_study(str(file))


def test_files_that_cannot_be_read_as_text_are_refused(file):
    file.write_bytes(("# first line\n# Schädel\n" + TEXT).encode("cp1252"))
    with pytest.raises(UserError, match=r"study\.yaml is not UTF-8 \(line 2\); save it as UTF-8"):
        load_study(str(file))
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"study\.yaml cannot be read: Is a directory"):
        load_study(str(file))


def test_unknown_studies_are_refused():
    with pytest.raises(UserError, match="Did you mean 'demo'"):
        load_study("demoo")
    with pytest.raises(UserError, match="does not exist"):
        load_study("nowhere.yaml")
    with pytest.raises(UserError, match="no_such_module"):
        load_study("no_such_module:study")


def test_a_function_makes_the_same_study(file, tmp_path, monkeypatch):
    (tmp_path / "my_study.py").write_text(f"import yaml\ndef study():\n    return yaml.safe_load({TEXT!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_study("my_study:study").study == load_study(str(file)).study


def test_presets_are_valid_and_named_like_their_file():
    for name, text in presets().items():
        loaded = load_study(name)
        assert loaded.study.name == name == yaml.safe_load(text)["name"]
        assert expand(loaded.study).cells


def test_study_name(file):
    assert study_name(str(file)) == "skin_and_brain"
    assert study_name("finished_elsewhere") == "finished_elsewhere"
