"""The eight questions as data and sentences: planted truths are answered, nothing is worded above its grade."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from statsmodels.stats.multitest import multipletests

from dashboards.evidence import target_results
from dashboards.findings import findings, headlines, overview, summary
from dashboards.label_tables import SAVES
from dashboards.page import Chip, together
from dashboards.primary_family import absent_scale_effects
from dashboards.statistics import compare_with_best, label_efficiency, linear_contrast
from dashboards.tables import build_tables
from dashboards.verdict.belief import belief_answers
from dashboards.verdict.best import best_answers
from dashboards.verdict.document import VERDICT_SCHEMA, VerdictFile, schema_text, verdict_document
from dashboards.verdict.frame import ANSWERING, collect, questions
from dashboards.verdict.labels import label_answers
from dashboards.verdict.ledger import Ledger, read_of
from dashboards.verdict.where import where_answers
from dashboards.verdict.words import held_back
from search_spaces.ingested import IngestedStudy
from tests.dashboards import synthetic
from tests.dashboards.synthetic import evidence_of, make_study, make_synthetic

HEDGES = ("seems", "seem ", "No verdict", "not shown", "Undecided")
FIRM = ("helps", "hurts", "saves", "reaches", "does not reach", "grows", "shrinks", "makes no")


@cache
def planted():
    """Six seeds; ``natural`` needs a twentieth of the labels to be as good as ``random`` with all."""
    gain = {"0.05": 1.9, "0.2": 1.2, "1": 0.6}
    before = dict(synthetic.GAIN)
    synthetic.GAIN.update(gain)
    try:
        made = make_synthetic(seeds=6, patients=200)
    finally:
        synthetic.GAIN.update(before)
    kept = made.results[made.results["task"] == "skin"]
    return dataclasses.replace(made, results=kept, study=study_of(synthetic.FRACTIONS))


def study_of(fractions, **statistics):
    axes = {
        "model_scale": list(synthetic.SCALES),
        "pretraining_source": list(synthetic.SOURCES),
        "data_fraction": [float(f) for f in fractions],
        "task": ["skin"],
    }
    return make_study(seeds=6, axes=axes, statistics=_statistics() | statistics)


def _statistics():
    return {"baseline": "random", "groups": ["sex"], "delta": 0.01, "price_per_label": 2.5}


@cache
def evidence():
    return evidence_of(planted(), results=target_results(planted().results))


def part(edit=lambda rows: rows, *, sets=("test",), fractions=("0.05", "1"), **changes):
    """A third of the study, planned as such: by default the primary family alone, which is what most tests are about.

    Args:
        edit: What to do to the results.
        sets: Evaluation sets.
        fractions: Amounts.
        changes: Fields of the evidence.
    """
    rows = planted().results
    predictions = {key: p for key, p in planted().predictions.items() if key[1] in sets}
    made = dataclasses.replace(planted(), predictions=predictions, study=study_of(fractions))
    kept = target_results(rows[rows["data_fraction"].isin(fractions)])
    return evidence_of(made, results=edit(kept), **changes)


@cache
def tables():
    return build_tables(evidence())


@cache
def answers():
    return collect(evidence(), tables(), Ledger(this=read_of(evidence())))


def of(question, **values):
    return [
        a
        for a in answers()
        if a.question == question and all(getattr(a, name) == value for name, value in values.items())
    ]


def test_all_answers_stand_in_the_order_of_the_questions():
    numbers = [a.question for a in answers()]
    assert numbers == sorted(numbers)
    assert {1, 2, 3, 4, 8} <= set(numbers)
    assert [q.number for q in questions(evidence(), tables())] == list(range(1, 9))
    assert all(q.error_control for q in questions(evidence(), tables()))


def test_further_questions_are_added_by_one_function(monkeypatch):
    from dashboards.answers import Answer
    from dashboards.verdict import frame

    extra = Answer(question=5, word="harmed", sentence="x is harmed.", tone="bad", grade="A")
    monkeypatch.setattr(frame, "ANSWERING", (*ANSWERING, lambda evidence, tables: [extra]))
    found = collect(evidence(), tables())
    assert [a.question for a in found] == sorted(a.question for a in found)
    assert extra in found
    ledger = Ledger(this=read_of(evidence()))
    document = verdict_document(evidence(), tables(), found, ledger, "")
    assert document["questions"][4]["answers"][-1]["sentence"] == "x is harmed."


class TestHelp:
    """Question 1."""

    def test_every_contrast_is_answered_primary_ones_first(self):
        found = of(1)
        assert len(found) == len(tables().contrasts)
        primary = [bool(a.numbers["primary"]) for a in found]
        assert primary == sorted(primary, reverse=True)

    def test_numbers_hold_the_margins(self):
        answer = of(1, set="test", pretraining_source="natural", model_scale="small", data_fraction="0.05")[0]
        assert answer.word == "helps, meaningfully"
        assert answer.grade == "A"
        assert answer.numbers["p_not_worse"] < 0.001
        assert answer.numbers["p_equivalent"] > 0.9
        assert answer.numbers["not_worse"] is True
        assert answer.numbers["inner_low"] > answer.numbers["low"]

    def test_undecided_answers_claim_nothing(self):
        undecided = [a for a in of(1) if a.word == "undecided"]
        assert undecided
        assert all(a.grade is None and a.caps == () and a.tone == "open" for a in undecided)

    def test_a_declared_set_joins_the_family(self):
        study, sets = study_of(["0.05"], primary_sets=["test", "clinic_b"]), ("test", "clinic_b")
        contrasts = build_tables(part(sets=sets, fractions=["0.05"], study=study)).contrasts
        primary = contrasts[contrasts["primary"]]
        assert set(primary["set"]) == {"test", "clinic_b"}
        assert set(primary["correction"]) == {"Holm, whole study"}

    def test_a_declared_set_must_exist(self):
        from search_spaces.exceptions import UserError

        with pytest.raises(UserError, match=r"evaluation set 'nosuch'.*primary_sets"):
            make_study(statistics={"primary_sets": ["nosuch"]})


def _curve(answer):
    return answer.task, answer.set, answer.pretraining_source, answer.model_scale


class TestWhere:
    """Question 2."""

    def test_up_to_the_largest_amount_where_it_helps(self):
        answer = of(2, set="test", pretraining_source="natural", model_scale="small")[0]
        assert answer.word == "up to the largest amount"
        assert answer.data_fraction == "1"
        assert "up to 100 % (900 labelled images), the largest amount tried" in answer.sentence

    def test_a_source_without_effect_helps_nowhere(self):
        answer = of(2, set="test", pretraining_source="natural_meanvar", model_scale="small")[0]
        assert answer.word == "nowhere shown"
        assert (answer.grade, answer.caps, answer.data_fraction) == (None, (), None)

    def test_amounts_are_named_only_where_question_1_shows_help(self):
        place = {"set": "test", "pretraining_source": "natural", "model_scale": "small"}
        found, contrasts = of(2, **place)[0], tables().contrasts
        mine = np.logical_and.reduce([contrasts[name] == value for name, value in place.items()])
        silenced = contrasts.assign(verdict=contrasts["verdict"].mask(mine & contrasts["primary"], "undecided"))
        assert found.numbers["helps_at"]
        assert found.numbers["unconfirmed_at"] == ""
        changed = dataclasses.replace(tables(), contrasts=silenced)
        answers_then = where_answers(evidence(), changed)
        [answer] = [a for a in answers_then if _curve(a) == _curve(found) and "helps_at" in a.numbers]
        assert (answer.word, answer.tone, answer.data_fraction) == ("nowhere shown", "open", None)
        assert answer.numbers["helps_at"] == ""
        assert answer.numbers["unconfirmed_at"] == found.numbers["helps_at"]
        assert "no comparison of question 1 is" in answer.sentence

    def test_no_curve_helps_somewhere_that_helps_nowhere_in_question_1(self):
        good = {_curve(a) for a in of(1) if a.tone == "good"}
        reach = {_curve(a) for a in of(2) if "helps_at" in a.numbers and a.tone == "good"}
        assert reach
        assert reach <= good

    def test_scale_effects_are_differences_of_differences_within_one_ladder(self):
        rows = tables().scale_effects
        assert set(rows["kind"]) == {"difference of differences"}  # two scales have no slope of their own
        row = rows[(rows["set"] == "test") & (rows["pretraining_source"] == "natural")].iloc[0]
        from dashboards.cell_tables import view
        from dashboards.reading import task_estimates

        (estimates,) = task_estimates(evidence())
        task = view(evidence(), estimates)
        cells = {
            (scale, source): task.runs((scale, source, row["data_fraction"]), "test")
            for scale in ("small", "large")
            for source in ("natural", "random")
        }
        signs = {("large", "natural"): 1.0, ("large", "random"): -1.0}
        signs |= {("small", "natural"): -1.0, ("small", "random"): 1.0}
        expected = linear_contrast([(signs[key], runs) for key, runs in cells.items()])
        assert row["estimate"] == pytest.approx(expected.value)
        assert (row["low"], row["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert (row["smallest"], row["largest"]) == ("small", "large")

    def test_scales_of_two_ladders_make_no_claim_about_scale(self):
        made = part(lambda rows: rows.assign(ladder=rows["model_scale"]), fractions=["0.05"])
        assert build_tables(made).scale_effects.empty
        assert len(build_tables(part(fractions=["0.05"])).scale_effects)

    def test_three_scales_of_a_ladder_have_a_slope(self):
        from dashboards.where_tables import SLOPE

        rows = planted().results
        more = rows[rows["model_scale"] == "large"].assign(model_scale="huge", parameters=4_000_000)
        more["trial_id"] = more["trial_id"] + "h"
        predictions = dict(planted().predictions)
        wanted = set(rows.loc[rows["model_scale"] == "large", "trial_id"])
        predictions |= {(t + "h", s): p for (t, s), p in planted().predictions.items() if t in wanted}
        both = pd.concat([rows, more])
        both = both[(both["data_fraction"] == "0.05") & both["seed"].isin(["0", "1", "2"])]
        made = evidence_of(
            planted(), results=target_results(both), predictions=predictions, plan=synthetic.make_plan(None, None)
        )
        effects = build_tables(made).scale_effects
        slopes = effects[effects["kind"] == SLOPE]
        assert len(slopes) == 2 * 2  # two sources, two sets
        assert not slopes["primary"].any()
        assert slopes["model_scale"].str.contains("3 scales").all()


class TestBest:
    """Question 3."""

    def test_the_set_is_that_of_the_statistics(self):
        from dashboards.cell_tables import view
        from dashboards.reading import task_estimates

        (estimates,) = task_estimates(evidence())
        task = view(evidence(), estimates)
        cells = {cell: task.runs(cell, "test") for cell in task.cells if cell[2] == "0.05"}
        cost = {cell: task.facts[cell]["parameters"] for cell in cells}
        expected = compare_with_best(cells, 0.01, cost=cost)
        rows = tables().best_sets
        mine = rows[(rows["set"] == "test") & (rows["data_fraction"] == "0.05")]
        members = {(r["model_scale"], r["pretraining_source"]) for r in mine[mine["member"]].to_dict("records")}
        assert members == {cell[:2] for cell in expected.members}
        answer = of(3, set="test", data_fraction="0.05")[0]
        assert (answer.model_scale, answer.pretraining_source) == expected.cheapest[:2]
        assert answer.numbers["members"] == len(expected.members)

    def test_of_equally_cheap_cells_the_baseline_is_taken(self):
        null = make_synthetic(seeds=5, patients=60, null=True)
        rows = null.results[(null.results["task"] == "brain") & (null.results["data_fraction"] == "1")]
        made = build_tables(evidence_of(null, results=target_results(rows))).best_sets
        cheapest = made[made["cheapest_by_parameters"] & (made["set"] == "test")].iloc[0]
        members = made[made["member"] & (made["set"] == "test") & (made["model_scale"] == "small")]
        assert cheapest["model_scale"] == "small"
        assert cheapest["pretraining_source"] == "random" or "random" not in set(members["pretraining_source"])

    def test_a_cheapest_that_is_not_shown_to_be_near_the_best_says_how_far_it_may_be(self):
        sets = tables().best_sets
        place = (sets["set"] == "test") & (sets["data_fraction"] == "0.05")
        chosen = place & sets["cheapest_by_parameters"]

        def said(**columns):
            edited = sets.assign(**{name: sets[name].mask(chosen, value) for name, value in columns.items()})
            made = best_answers(evidence(), dataclasses.replace(tables(), best_sets=edited))
            return next(a for a in made if (a.set, a.data_fraction) == ("test", "0.05"))

        far = said(within_delta=False, difference=-0.417, low=-0.9)
        assert "−0.417 to the best of the others, at worst −0.900: not shown to be worse, nor to be within 0.01" in (
            far.sentence
        )
        assert (far.numbers["difference"], far.numbers["low"], far.numbers["within_delta"]) == (-0.417, -0.9, False)
        assert "not shown to be worse" not in said(within_delta=True).sentence

    @pytest.mark.parametrize(
        ("cheapest", "verdict", "says"),
        [
            ("random", "helps, meaningfully", "natural is better at small by question 1."),
            ("random", "undecided", None),
            ("natural", "hurts", "random is better at small by question 1."),
            ("natural", "helps", None),
        ],
    )
    def test_a_cheapest_that_question_1_shows_to_be_worse_says_so(self, cheapest, verdict, says):
        sets, contrasts = tables().best_sets, tables().contrasts
        here = (sets["set"] == "test") & (sets["data_fraction"] == "0.05") & (sets["model_scale"] == "small")
        chosen = here & (sets["pretraining_source"] == cheapest)
        assert chosen.sum() == 1
        place = (sets["set"] == "test") & (sets["data_fraction"] == "0.05")
        sets = sets.assign(
            cheapest_by_parameters=sets["cheapest_by_parameters"].mask(place, False).mask(chosen, True),
            member=sets["member"].mask(chosen, True),
            within_delta=sets["within_delta"].mask(chosen, False),
        )
        mine = (contrasts["set"] == "test") & (contrasts["data_fraction"] == "0.05") & contrasts["primary"]
        assert (mine & (contrasts["model_scale"] == "small") & (contrasts["pretraining_source"] == "natural")).any()
        contrasts = contrasts.assign(verdict=contrasts["verdict"].mask(mine, "undecided"))
        one = mine & (contrasts["model_scale"] == "small") & (contrasts["pretraining_source"] == "natural")
        contrasts = contrasts.assign(verdict=contrasts["verdict"].mask(one, verdict))
        made = best_answers(evidence(), dataclasses.replace(tables(), best_sets=sets, contrasts=contrasts))
        answer = next(a for a in made if (a.set, a.data_fraction) == ("test", "0.05"))
        assert (f"But {says}" in answer.sentence) if says else ("But" not in answer.sentence)

    def test_costs_that_were_not_recorded_leave_the_set(self):
        made = part(lambda rows: rows.assign(parameters=np.nan).drop(columns="train_s"))
        found = [a for a in collect(made, build_tables(made)) if a.question == 3]
        assert {a.word for a in found} == {"cost not recorded"}
        assert all(a.numbers["members"] >= 1 for a in found)


class TestLabels:
    """Question 4."""

    def test_a_planted_saving_is_found_with_its_censoring_and_price(self):
        answer = of(4, set="test", pretraining_source="natural", model_scale="small")[0]
        assert answer.word == SAVES
        assert answer.data_fraction == "0.05"
        assert answer.numbers["left_censored"] is True
        assert answer.numbers["share_saved"] == pytest.approx(1 - 45 / 900)
        assert answer.numbers["share_saved_with_val"] == pytest.approx(1 - 145 / 1000)
        assert answer.numbers["share_of_patients_saved"] == pytest.approx(1 - 22 / 450)
        assert answer.numbers["price_saved"] == pytest.approx(855 * 2.5)
        assert answer.numbers["area_low"] > 0
        for part in ("45 images or fewer", "95 % fewer training images", "86 % with the 100 images of validation"):
            assert part in answer.sentence

    def test_the_tests_are_those_of_the_statistics(self):
        from dashboards.cell_tables import view
        from dashboards.reading import task_estimates
        from dashboards.statistics import Labels

        (estimates,) = task_estimates(evidence())
        task = view(evidence(), estimates)
        amounts = {"0.05": 45, "0.2": 180, "1": 900}
        sides = [{f: task.runs(("large", s, f), "test") for f in amounts} for s in ("natural_meanvar", "random")]
        labels = {f: Labels(images=n, patients=n // 2, val_images=100, val_patients=50) for f, n in amounts.items()}
        expected = label_efficiency(*sides, labels, 0.01)
        rows = tables().label_tests
        mine = rows[(rows["set"] == "test") & (rows["pretraining_source"] == "natural_meanvar")]
        mine = mine[mine["model_scale"] == "large"]
        assert list(mine["excluded"]) == [t.excluded for t in expected.tests]
        assert list(mine["to_full"]) == pytest.approx([t.to_full.value for t in expected.tests])

    def test_subsets_of_different_orders_are_not_compared_over_amounts(self):
        def odd(rows):
            moved = (rows["data_fraction"] == "0.05") & (rows["seed"] == "3")
            return rows.assign(order_hash=rows["order_hash"].mask(moved, "another"))

        found = build_tables(part(odd))
        assert set(found.label_savings["n_seeds"]) == {5}
        assert found.label_savings["notes"].str.contains("different subsets: 3").all()
        same_amount = found.contrasts[(found.contrasts["data_fraction"] == "0.05")]
        assert set(same_amount["n_seeds"]) == {6}  # at one amount both sides have the same subset


class TestBelief:
    """Question 8."""

    def test_each_source_and_set_has_its_grade_and_reasons(self):
        graded = [a for a in of(8) if a.pretraining_source]
        assert {(a.pretraining_source, a.set) for a in graded} == {
            (source, name) for source in ("natural", "natural_meanvar") for name in ("test", "clinic_b")
        }
        assert {a.word for a in graded} == {"grade A"}
        assert all("no patient in both training and evaluation" in a.sentence for a in graded)

    def test_lost_trials_are_counted_over_the_family(self):
        (lost,) = [a for a in of(8) if "primary_contrasts" in a.numbers]
        assert (lost.word, lost.numbers["with_lost_trials"]) == ("nothing lost", 0)
        lost_one = "pretraining_source == 'natural' and data_fraction == '0.05'"
        made = part(lambda rows: rows.drop(index=rows.query(lost_one).index[0]))
        (lost,) = [a for a in collect(made, build_tables(made)) if "primary_contrasts" in a.numbers]
        assert lost.numbers["with_lost_trials"] == 1
        assert "scored at chance" in lost.sentence

    def test_a_cell_without_any_result_is_named_and_counts_in_the_family(self):
        gone = "pretraining_source == 'natural' and model_scale == 'small' and data_fraction == '0.05'"
        made = part(lambda rows: rows.drop(index=rows.query(gone).index))
        found = build_tables(made)
        (lost,) = [a for a in collect(made, found) if "primary_contrasts" in a.numbers]
        assert (lost.word, lost.tone, lost.numbers["absent_contrasts"]) == ("comparisons missing", "bad", 1)
        assert "natural on skin at 5 % (small)" in lost.sentence
        primary = found.contrasts[found.contrasts["primary"]]
        assert len(primary) == 7
        expected = multipletests([*primary["p"], 1.0], method="holm")[1][:7]
        assert primary["p_adjusted"].to_numpy() == pytest.approx(expected)
        # The difference of differences at that amount cannot be made either, and counts in its family of four.
        effects = found.scale_effects[found.scale_effects["primary"]]
        assert absent_scale_effects(made, found.scale_effects) == [("skin", "nets", "natural", "0.05", "test")]
        assert len(effects) == 3
        expected = multipletests([*effects["p"], 1.0], method="holm")[1][:3]
        assert effects["p_adjusted"].to_numpy() == pytest.approx(expected)
        chances = found.of("probability_contrasts")
        chances = chances[chances["primary"].astype(bool)]
        assert len(chances) == 7
        expected = multipletests([*chances["p"], 1.0], method="holm")[1][:7]
        assert chances["p_adjusted"].to_numpy() == pytest.approx(expected)

    def test_a_comparison_without_a_common_seed_counts_in_the_family(self):
        def apart(rows):
            cell = (rows["model_scale"] == "small") & (rows["data_fraction"] == "0.05")
            odd = rows["seed"].astype(int) % 2 == 1
            gone = cell & ((rows["pretraining_source"] == "natural") & odd)
            gone |= cell & ((rows["pretraining_source"] == "random") & ~odd)
            return rows[~gone]

        primary = build_tables(part(apart)).contrasts.query("primary")
        untested = primary["p"].isna()
        assert primary.loc[untested, "n_seeds"].tolist() == [0]
        assert len(primary) == 8
        expected = multipletests(primary["p"].fillna(1.0), method="holm")[1][~untested]
        assert primary.loc[~untested, "p_adjusted"].to_numpy() == pytest.approx(expected)
        assert primary.loc[untested, "p_adjusted"].isna().all()
        assert primary.loc[untested, "verdict"].tolist() == ["undecided"]

    def test_failures_of_ingested_studies_are_counted(self):
        ingested = IngestedStudy.parse(
            {
                "schema": 1,
                "name": "others",
                "ingested": {"file": "a.csv", "sha256": "0", "rows": 6},
                "primary": {"skin": "auc_macro"},
                "statistics": {"baseline": "random"},
            },
            "others",
        )
        made = evidence_of(planted(), results=evidence().results, ingested=ingested)
        (unknown,) = [a for a in belief_answers(made, tables()) if a.word == "lost trials not known"]
        assert unknown.tone == "open"
        seen = dataclasses.replace(made, failures=pd.DataFrame([synthetic.failure()]))
        assert not [a for a in belief_answers(seen, tables()) if a.word == "lost trials not known"]

    def test_without_any_comparison_all_are_missing(self):
        made = part(lambda rows: rows[rows["pretraining_source"] == "random"])
        (lost,) = [a for a in collect(made, build_tables(made)) if "primary_contrasts" in a.numbers]
        assert (lost.word, lost.numbers["absent_contrasts"], lost.numbers["primary_contrasts"]) == (
            "comparisons missing",
            8,
            0,
        )


def test_nothing_is_worded_stronger_than_its_grade():
    few = part(lambda rows: rows[rows["seed"].isin(["0", "1", "2"])], fractions=synthetic.FRACTIONS)
    made = collect(few, build_tables(few))
    claims = [a for a in made if a.question < 8 and a.caps and a.word != "no verdict"]
    assert len(claims) > 5
    for answer in claims:
        first = answer.sentence.split(";")[0]
        assert any(hedge in first for hedge in HEDGES), answer.sentence
    shared = {key: dataclasses.replace(p, shared_patients=4) for key, p in part().predictions.items()}
    leaking = part(predictions=shared)
    leaked = collect(leaking, build_tables(leaking))
    for answer in (a for a in leaked if a.question < 8):
        assert answer.tone == "open", answer.sentence
        firm = any(f"natural {verb}" in answer.sentence for verb in FIRM)
        assert not firm or answer.sentence.startswith(("No verdict", "Undecided")), answer.sentence
        assert answer.word == "no verdict" or answer.grade is None, answer.sentence
    assert {a.grade for a in leaked if a.pretraining_source and a.question == 8} == {"F"}


def test_the_weakest_contrast_behind_an_answer_decides():
    contrasts = tables().contrasts
    weaker = contrasts.copy()
    one = (contrasts["data_fraction"] == "0.2") & (contrasts["pretraining_source"] == "natural")
    weaker.loc[one, ["grade", "wording", "cap"]] = ["C", "suggests", "patients unknown"]
    where = {"task": "skin", "set_name": "test", "source": "natural"}
    assert held_back(contrasts, **where).states
    held = held_back(weaker, **where)
    assert (held.grade, str(held.wording), held.caps) == ("C", "suggests", ("patients unknown",))
    assert held_back(weaker, **where, fractions=("1",)).states
    nothing = held_back(contrasts, task="nosuch", set_name="test")
    assert (nothing.grade, nothing.states) == (None, False)


@pytest.mark.parametrize(
    ("seeds", "grade", "caps"),
    [(5, "A", ()), (4, "B", ("fewer than 5 seeds",)), (2, "C", ("fewer than 3 seeds",))],
)
def test_the_seeds_of_the_answer_itself_hold_it_back(seeds, grade, caps):
    held = held_back(tables().contrasts, task="skin", set_name="test", source="natural", n_seeds=seeds)
    assert (held.grade, held.caps, held.states) == (grade, caps, not caps)


def test_scale_and_best_answers_rest_on_their_own_seeds():
    few = dataclasses.replace(
        tables(),
        scale_effects=tables().scale_effects.assign(n_seeds=2, word="grows with scale"),
        best_sets=tables().best_sets.assign(n_seeds=4),
    )
    (scale, *_) = [a for a in where_answers(evidence(), few) if "ladder" in a.numbers]
    assert (scale.grade, scale.caps) == ("C", ("fewer than 3 seeds",))
    assert "seems to grow" in scale.sentence
    (best, *_) = best_answers(evidence(), few)
    assert (best.grade, best.caps) == ("B", ("fewer than 5 seeds",))
    assert "seems to be" in best.sentence


def test_cells_are_compared_with_the_best_on_their_common_seeds():
    lost = "pretraining_source == 'natural' and seed in ('4', '5') and data_fraction == '0.05'"
    made = build_tables(part(lambda rows: rows.drop(index=rows.query(lost).index)))
    rows = made.best_sets[(made.best_sets["data_fraction"] == "0.05") & (made.best_sets["left_out"] == "")]
    assert set(rows["n_seeds"]) == {4}
    reach = made.reach[(made.reach["pretraining_source"] == "natural") & (made.reach["set"] == "test")]
    assert set(reach["n_seeds"]) == {4}
    saved = made.label_savings[(made.label_savings["pretraining_source"] == "natural")]
    assert saved.loc[saved["data_fraction"] == "0.05", "n_seeds"].eq(4).all()


class TestEquivalence:
    """Question 2, no meaningful difference at every amount: a claim like any other."""

    @staticmethod
    def answer(**columns):
        reach = tables().reach.iloc[:1].assign(helps_at="", hurts_at="", same_at="0.05, 0.2, 1", amounts=3)
        contrasts = tables().contrasts.assign(**columns)
        (found, *_) = where_answers(
            evidence(), dataclasses.replace(tables(), reach=reach.assign(crossing_shown=False), contrasts=contrasts)
        )
        return found

    def test_states(self):
        found = self.answer()
        assert (found.word, found.tone, found.grade) == ("nowhere; no meaningful difference", "even", "A")
        assert "makes no meaningful difference" in found.sentence

    def test_is_not_said_beyond_the_gates(self):
        found = self.answer(wording="no verdict", grade="F", cap="3 patients in both training and evaluation")
        assert (found.word, found.tone, found.grade) == ("no verdict", "open", "F")
        assert found.sentence.startswith("No verdict on where")
        hedged = self.answer(wording="suggests", grade="C", cap="patients unknown")
        assert "seems to make no meaningful difference" in hedged.sentence


class TestFullBaseline:
    """Question 4 rests on the baseline with all labels."""

    FULL = ("random", "1")

    def labels(self, edit):
        made = part(edit)
        return label_answers(made, build_tables(made))

    def of_full(self, rows):
        return (rows["pretraining_source"] == self.FULL[0]) & (rows["data_fraction"] == self.FULL[1])

    def test_without_it_nothing_is_saved_or_reached(self):
        found = self.labels(lambda rows: rows[~self.of_full(rows)])
        assert found
        for answer in found:
            assert (answer.word, answer.tone, answer.grade) == ("not assessable", "open", None)
            assert "the baseline has no result with all labels" in answer.sentence
            assert answer.numbers["share_saved"] is None

    def test_its_few_seeds_hold_a_saving_back(self):
        found = self.labels(lambda rows: rows[~(self.of_full(rows) & rows["seed"].isin(["2", "3", "4", "5"]))])
        saving = [a for a in found if a.word == SAVES]
        assert saving
        for answer in saving:
            assert answer.numbers["n_seeds"] == 2
            assert answer.grade == "C"
            assert "fewer than 3 seeds" in answer.caps
            assert "seems to save" in answer.sentence

    def test_a_baseline_that_was_still_improving_holds_a_saving_back(self):
        def rising(rows):
            return rows.assign(still_rising=rows["still_rising"].astype(object).mask(self.of_full(rows), True))

        saving = [a for a in self.labels(rising) if a.word == SAVES]
        assert saving
        assert all("random with all labels was still improving when training stopped" in a.caps for a in saving)
        assert all(a.grade in ("B", "C") for a in saving)


def test_the_mean_benefit_of_a_loss_is_positive_if_the_loss_is_smaller():
    made = build_tables(part(lambda rows: rows.assign(primary="nll"), study=None))
    rows, contrasts = made.label_savings, made.contrasts
    assert set(rows["metric"]) == {"nll"}
    for row in rows.to_dict("records"):
        same = contrasts["pretraining_source"].eq(row["pretraining_source"])
        same &= contrasts["model_scale"].eq(row["model_scale"])
        estimates = contrasts.loc[same, "estimate"]
        if estimates.lt(0).all() or estimates.gt(0).all():
            assert np.sign(row["area"]) == -np.sign(estimates.iloc[0])
        assert row["area_low"] <= row["area"] <= row["area_high"]
    assert rows["area"].notna().all()
    assert any(row["area"] > 0 for row in rows.to_dict("records") if row["pretraining_source"] == "natural")


class TestSetsAndSubgroups:
    """Findings on shifted sets and subgroups are worded no stronger than the gates allow."""

    @staticmethod
    def badges(**columns):
        held = dataclasses.replace(tables(), contrasts=tables().contrasts.assign(**columns))
        blocks = findings(evidence(), held, ())
        found = [f for b in blocks if b.heading in ("Away from the test set", "Subgroups") for f in b.findings]
        return [f for f in found if f.badge != "undecided"], headlines(evidence(), held, ())

    def test_stated(self):
        found, lines = self.badges()
        assert {(f.badge, f.tone, f.grade) for f in found} == {("worse", "bad", "A")}
        assert any("skin on clinic_b" in line for line in lines)

    def test_suggested(self):
        found, lines = self.badges(wording="suggests", grade="C", cap="patients unknown")
        assert {(f.badge, f.tone, f.grade) for f in found} == {("suggests: worse", "open", "C")}
        assert all("seems to be worse" in f.text and "patients unknown" in f.detail for f in found)
        assert any("seems to be worse" in line for line in lines)

    def test_no_verdict(self):
        found, lines = self.badges(wording="no verdict", grade="F", cap="3 patients in both training and evaluation")
        assert {(f.badge, f.tone, f.grade) for f in found} == {("no verdict", "open", "F")}
        assert not any("worse" in line for line in lines)


class TestDocument:
    """``verdict.json``."""

    def test_is_valid_strict_json_of_its_schema(self):
        ledger = Ledger(this=read_of(evidence()))
        document = verdict_document(evidence(), tables(), answers(), ledger, summary(evidence(), tables()))
        text = json.dumps(document, allow_nan=False)
        again = VerdictFile.model_validate(json.loads(text))
        assert again.schema_ == VERDICT_SCHEMA == 2
        assert len(again.questions) == 8
        assert sum(len(q.answers) for q in again.questions) == len(answers())
        assert again.statistics.price_per_label == 2.5

    def test_readers_that_are_not_python_have_a_schema(self):
        schema = json.loads(schema_text())
        check = Draft202012Validator(schema)
        Draft202012Validator.check_schema(schema)
        ledger = Ledger(this=read_of(evidence()))
        document = verdict_document(evidence(), tables(), answers(), ledger, "")
        check.validate(document)
        document["schema"] = VERDICT_SCHEMA + 1
        document["questions"][0]["answers"][0]["question"] = 9
        document["contrasts"][0]["verdict"] = "significant"
        document["shifted_sets"][0]["drop"] = "0.1"
        del document["subgroups"][0]["group"]
        document["not_assessable"] = [{"task": "skin"}]
        places = {tuple(error.absolute_path)[:1] for error in check.iter_errors(document)}
        wrong = ("schema", "questions", "contrasts", "shifted_sets", "subgroups", "not_assessable")
        assert places == {(name,) for name in wrong}

    @pytest.mark.parametrize("name", ["shifted_sets", "subgroups"])
    def test_rows_of_shifted_sets_and_subgroups_are_typed(self, name):
        ledger = Ledger(this=read_of(evidence()))
        document = verdict_document(evidence(), tables(), answers(), ledger, "")
        assert document[name]
        for change in ({"unknown": 1}, {"p_holm": "small"}, {"cells": 0}, {"set": None}):
            broken = document | {name: [document[name][0] | change]}
            with pytest.raises(ValidationError):
                VerdictFile.model_validate(broken)

    def test_an_answer_of_no_question_is_refused(self):
        ledger = Ledger(this=read_of(evidence()))
        document = verdict_document(evidence(), tables(), answers(), ledger, "")
        document["questions"][0]["answers"][0]["question"] = 9
        with pytest.raises(ValidationError):
            VerdictFile.model_validate(document)

    def test_every_field_is_described(self):
        from tests.conftest import ROOT

        text = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
        for name in VerdictFile.model_fields:
            assert f"`{name.removesuffix('_')}`" in text
        for question in questions(evidence(), tables()):
            assert question.text in text


def test_the_summary_tells_what_is_hedged_from_what_has_no_verdict():
    def said(**columns):
        contrasts = tables().contrasts
        held = contrasts["primary"] & contrasts["verdict"].ne("undecided")
        edited = contrasts.assign(**{name: contrasts[name].mask(held, value) for name, value in columns.items()})
        return summary(evidence(), dataclasses.replace(tables(), contrasts=edited))

    assert "because of" not in said()
    leak = said(wording="no verdict", cap="3 patients in both training and evaluation")
    assert "No verdict because of: 3 patients in both training and evaluation." in leak
    assert "Seems to" not in leak
    assert "“Seems to” because of: fewer than 5 seeds." in said(wording="suggests", cap="fewer than 5 seeds")


def test_the_overview_has_a_row_per_task_source_and_set():
    rows = overview(evidence(), answers())
    assert [(r.source, r.set) for r in rows] == [
        ("natural", "test"),
        ("natural_meanvar", "test"),
        ("natural", "clinic_b"),
        ("natural_meanvar", "clinic_b"),
    ]
    assert [len(r.helps) for r in rows] == [4] * 4
    assert {r.grade for r in rows} == {"A"}
    assert {chip.word for chip in rows[0].labels} == {SAVES}


class TestOneWording:
    """Badges, overview, sentences and the first line of ``run`` say the same of one contrast, whatever its grade."""

    @staticmethod
    def said(grade, wording, cap):
        """Badges, chips and sentences of the primary contrasts that are decided; and the summary."""
        contrasts = tables().contrasts.assign(grade=grade, wording=wording, cap=cap)
        held = dataclasses.replace(tables(), contrasts=contrasts)
        found = collect(evidence(), held)
        decided = [a for a in found if a.question == 1 and a.numbers["primary"] and a.word != "undecided"]
        texts = {a.sentence for a in decided}
        blocks = findings(evidence(), held, found)
        badges = {f.badge for b in blocks for f in b.findings if f.text in texts}
        chips = {c.word for row in overview(evidence(), found) if row.set == "test" for c in row.helps}
        assert decided
        return badges, chips - {"undecided"}, texts, summary(evidence(), held), len(decided)

    @pytest.mark.parametrize(("grade", "cap"), [("A", ""), ("B", "")])
    def test_stated(self, grade, cap):
        badges, chips, texts, first, n = self.said(grade, "states", cap)
        assert badges == chips <= {"helps", "helps, meaningfully", "no meaningful difference", "hurts"}
        assert not any("seems" in text for text in texts)
        assert "seem" not in first
        assert sum(map(int, re.findall(r"(\d+) (?:helps?|hurts?|makes? no)\b", first))) == n

    @pytest.mark.parametrize(("grade", "cap"), [("B", "fewer than 5 seeds"), ("C", "patients unknown")])
    def test_suggested(self, grade, cap):
        badges, chips, texts, first, n = self.said(grade, "suggests", cap)
        assert badges == chips
        assert all(word.startswith("seems to ") for word in badges)
        assert all("seems to" in text for text in texts)
        assert sum(map(int, re.findall(r"(\d+) seems? to ", first))) == n
        assert not re.search(r"[1-9]\d* (?:helps?|makes? no)\b", first)

    def test_no_verdict(self):
        badges, chips, texts, first, n = self.said("F", "no verdict", "3 patients in both training and evaluation")
        assert badges == chips == {"no verdict"}
        assert all(text.startswith("No verdict on") for text in texts)
        assert f"{n} {'has' if n == 1 else 'have'} no verdict" in first


def test_many_answers_of_one_cell_stand_together_by_their_word():
    chips = [Chip(label=f"{n} %", word="undecided", tone="open") for n in (1, 5, 10, 50)]
    helps = Chip(label="100 %", word="helps", tone="good")
    assert together(chips) == tuple(chips)
    assert together([*chips, dataclasses.replace(chips[0], label="75 %")])[0].label == "all 5"
    few, many = together([chips[0], helps, *chips[1:]])[1], together([chips[0], helps, *chips[1:]])[0]
    assert (few, many.label, many.word) == (helps, "1 %, 5 %, 10 %, 50 %", "undecided")
    held = dataclasses.replace(helps, held=True)
    assert len(together([*chips, helps, held])) == 3, "what is held back stands apart"
