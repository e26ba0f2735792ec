"""Planted leaks are found by the plan and travel with the trials; nothing is said of what nobody looked at."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from orchestrator.entries import failed_entry
from search_spaces.contents import Overlap
from search_spaces.home import scalecurves_home
from search_spaces.names import Role, State
from search_spaces.results import TrialResult
from search_spaces.trial import Workspace
from tests.orchestrator.small_runs import plan_of
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from trainables.checks import check_task
from trainables.importers import ImportOptions, import_csv
from trainables.library import TaskLibrary


@pytest.fixture
def folder(tmp_path):
    write_study(tmp_path)
    return tmp_path


def leakage(plan, source):
    trial = next(t.trial for t in plan.targets if t.trial.cell.pretraining_source == source)
    return plan.resolver.resolved(trial, "a", Workspace(home="", storage="")).leakage


def test_near_copies_are_looked_for_once_the_task_has_been_checked(folder):
    library = TaskLibrary(scalecurves_home())
    file = rewrite_study(folder)
    unchecked = plan_of(file)
    assert leakage(unchecked, "random").near_copies == {"test": None, "site_b": None}
    (note,) = [n for n in unchecked.notes if "near copies" in n]
    assert note.startswith("near copies of training images are not checked in evaluation sets 'test', 'site_b' of task")
    assert "Run python -m orchestrator.tasks check spots before the study" in note
    table = library.load("spots").table
    train = table[(table["split"] == "train") & (table["site"] == "A")]["path"].iloc[0]
    scored = table[(table["split"] == "test") & (table["site"] == "A")]["path"].iloc[0]
    coarse = np.random.default_rng(0).integers(0, 255, (5, 5), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((20, 20)))
    Image.fromarray(smooth).save(folder / "spots" / train)
    Image.fromarray((smooth * 0.9 + 9).astype(np.uint8)).save(folder / "spots" / scored)
    check_task(library, "spots")
    plan = plan_of(file)
    assert not plan.problems
    (note,) = [n for n in plan.notes if "near copies" in n]
    assert note.startswith("evaluation set 'test' of task 'spots': 1 of its ")
    assert leakage(plan, "random").near_copies == {"test": 1, "site_b": 0}


def test_a_source_that_may_have_seen_the_task_is_noted_and_travels_with_its_trials(folder):
    options = ImportOptions(name="chexpert_small", label_name="spot", split=(0.5, 0.2, 0.3))
    TaskLibrary(scalecurves_home()).save(import_csv(folder / "spots" / "labels.csv", options))
    tasks = raw_study()["tasks"]
    tasks["spots"] = {"manifest": "chexpert_small", "primary": "auc"}
    tasks["other_spots"]["data_sets"] = ["ChexPhoto"]
    plan = plan_of(rewrite_study(folder, tasks=tasks))
    (note,) = [n for n in plan.notes if "may have seen" in n]
    assert note.startswith(
        "source 'spots_pre' may have seen images of task 'spots' (test): ChexPhoto and chexpert_small share images"
    )
    assert leakage(plan, "spots_pre").upstream_overlap == {"test": Overlap.POSSIBLE}
    assert leakage(plan, "random").upstream_overlap == {"test": Overlap.NO}


def test_images_of_equal_bytes_in_the_source_s_task_make_overlap_possible(folder):
    library = TaskLibrary(scalecurves_home())
    table = library.load("spots").table
    scored = table[(table["split"] == "test") & (table["site"] == "A")]["path"].iloc[0]
    other = library.load("other_spots").table
    learnt = other[other["split"] == "train"]["path"].iloc[0]
    shutil.copy(folder / "spots" / scored, folder / "other" / learnt)
    found = leakage(plan_of(rewrite_study(folder)), "spots_pre").upstream_overlap
    assert found == {"test": Overlap.POSSIBLE, "site_b": Overlap.NO}


def import_again(folder, name, of, patients):
    """Other images of patients of ``spots``, from a table in the same folder that names one of its files, too."""
    table = TaskLibrary(scalecurves_home()).load("spots").table
    lines = ["image,label,patient_id"]
    for patient in patients:
        first = table[table["patient_id"] == patient].iloc[0]
        pixels = np.asarray(Image.open(folder / "spots" / first["path"]))
        Image.fromarray(255 - pixels).save(folder / "spots" / f"{name}_{patient}.png")
        lines.append(f"{name}_{patient}.png,{first['y_spot']:.0f},{patient}")
    lines.append(f"{of['path']},{of['y_spot']:.0f},{of['patient_id']}")
    (folder / "spots" / f"{name}.csv").write_text("\n".join(lines))
    options = ImportOptions(name=name, label_name="spot", split=(0.5, 0.2, 0.3))
    TaskLibrary(scalecurves_home()).save(import_csv(folder / "spots" / f"{name}.csv", options))


def test_upstream_patients_are_compared_where_ids_of_two_imports_mean_the_same(folder):
    """Planted: a source's task holds other images of patients that the target is scored on."""
    table = TaskLibrary(scalecurves_home()).load("spots").table
    train = table[(table["split"] == "train") & (table["site"] == "A")]
    scored = table[(table["split"] == "test") & (table["site"] == "A")]
    learnt = list(dict.fromkeys(train["patient_id"]))
    import_again(folder, "again", train.iloc[0], learnt)
    import_again(folder, "planted", train.iloc[0], [*learnt, *dict.fromkeys(scored["patient_id"])])
    tasks = raw_study()["tasks"]
    tasks["other_spots"] = {"manifest": "again", "primary": "auc", "data_sets": ["spots"]}
    plan = plan_of(rewrite_study(folder, tasks=tasks))
    assert not plan.problems
    assert leakage(plan, "spots_pre").upstream_overlap == {"test": Overlap.NO, "site_b": Overlap.NO}
    plan.resolver.apart.clear()
    by_name = leakage(plan, "spots_pre").upstream_overlap
    assert by_name == {"test": Overlap.POSSIBLE, "site_b": Overlap.POSSIBLE}, "names alone cannot tell"
    tasks["other_spots"] = {"manifest": "planted", "primary": "auc"}
    (problem,) = plan_of(rewrite_study(folder, tasks=tasks)).problems
    assert problem.startswith("evaluation set 'test' of task 'spots': ")
    assert "images are of patients, or in files, that its source's task 'other_spots' trains" in problem


def test_patients_that_train_and_select_are_found_before_anything_is_trained(folder):
    library = TaskLibrary(scalecurves_home())
    manifest = library.load("spots")
    table = manifest.table
    val = table.index[(table["split"] == "val") & (table["site"] == "A")][0]
    patients = table["patient_id"].copy()
    patients[val] = table["patient_id"][(table["split"] == "train") & (table["site"] == "A")].iloc[0]
    library.save(replace(manifest, table=table.assign(patient_id=patients)), overwrite=True)
    (problem,) = plan_of(rewrite_study(folder)).problems
    assert "task 'spots': 1 patients of manifest 'spots' are in both training and validation" in problem


def test_facts_are_tags_of_the_run_and_stay_out_of_the_identity(folder):
    plan = plan_of(rewrite_study(folder))
    target = next(t for t in plan.targets if t.trial.cell.pretraining_source == "spots_pre")
    trial = plan.resolver.resolved(target.trial, "a", Workspace(home="", storage=""))
    result = TrialResult(trial=trial, state=State.FAILED, started_at=0, finished_at=1)
    tags = failed_entry(result).tags
    assert tags["sc.upstream_overlap"] == '{"site_b":"no","test":"no"}'
    assert tags["sc.near_copies"] == '{"site_b":null,"test":null}'
    assert result.leakage.upstream_overlap == {"test": Overlap.NO, "site_b": Overlap.NO}
    plan.resolver.near_copies["spots"] = {"test": 5}
    assert plan.resolver.resolved(target.trial, "a", Workspace(home="", storage="")).trial_id == trial.trial_id
    search = plan.resolver.resolved(target.trial, "a", Workspace(home="", storage="")).model_copy(
        update={"role": Role.SEARCH, "leakage": None}
    )
    assert TrialResult(trial=search, state=State.FAILED, started_at=0, finished_at=1).leakage.near_copies == {}
