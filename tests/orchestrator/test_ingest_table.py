"""A table of others' results: what is kept, what is refused, and that all problems are told at once."""

from __future__ import annotations

import pandas as pd
import pytest

from orchestrator.ingest_table import Written, read_table
from search_spaces.exceptions import UserError
from search_spaces.names import State

HEADING = "task,model_scale,pretraining_source,data_fraction,seed,metric,value,status"


def table(tmp_path, *lines, heading=HEADING, name="others.csv"):
    path = tmp_path / name
    path.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    return path


def read(path, renames=None, **written):
    return read_table(path, Written(renames=renames or {}, **written))


def refusal(path, **how):
    with pytest.raises(UserError) as error:
        read(path, **how)
    return str(error.value)


def test_a_repeated_row_is_dropped_counted_and_the_last_finished_one_kept(tmp_path):
    path = table(
        tmp_path,
        "chest,r50,random,full,0,auc,0.80,finished",
        "chest,r50,random,full,0,auc,0.81,finished",
        "chest,r50,random,1,0,auc,,failed",
        "chest,r50,random,full,1,auc,0.70,finished",
        "chest,r50,random,full,1,auc,0.70,finished",
        "chest,r50,random,full,2,auc,0.6,running",
        "chest,r50,random,full,3,auc,,diverged",
        "chest,r50,random,full,3,auc,,diverged",
    )
    got = read(path)
    assert [(row.seed.label, row.value) for row in got.rows if row.state is State.COMPLETE] == [
        ("0", 0.81),
        ("1", 0.70),
    ]
    assert [row.seed.label for row in got.rows if row.state is State.FAILED] == ["3"]
    assert (got.duplicates.rows, got.duplicates.differing) == (4, 1)
    assert (got.read, got.unfinished) == (8, 1)


def test_every_problem_is_told_at_once_with_its_rows(tmp_path):
    message = refusal(
        table(
            tmp_path,
            "chest,r50,random,full,0,auc,inf,finished",
            "chest,,random,full,0,auc,0.8,finished",
            "chest,r50,random,200,x,auc,abc,finished",
            "chest,r50,random,full,1,auc,1.3,finished",
            "chest,r50,random,full,2,auc,0.9,what",
            "chest,r50,natural,full,2,auc,1e300,finished",
        )
    )
    assert "others.csv: 8 problems" in message
    assert "- row 2: value inf is infinite" in message
    assert "- row 3: model_scale is blank" in message
    assert "- row 4: data_fraction '200' is no share in (0, 1]; write 10% or images=200" in message
    assert "- row 4: seed 'x'" in message
    assert "- row 4: value 'abc' is no number" in message
    assert "- row 5: auc lies in [0, 1], got 1.3" in message
    assert "- row 6: status 'what'" in message
    assert "- row 7: value 1e300 is infinite" in message


def test_percent_is_found_and_refused_with_what_to_say(tmp_path):
    lines = [f"chest,r50,random,full,{s},auc,{80 + s},finished" for s in range(3)]
    lines += [f"chest,r50,random,full,{s},nll,0.4,finished" for s in range(3)]
    path = table(tmp_path, *lines)
    message = refusal(path)
    assert (
        message == "others.csv: 1 problem\n- 3 values of auc look like percent, such as 80 in row 2: say --scale 0.01"
    )
    values = {(row.metric, row.seed.subset): row.value for row in read(path, scale=0.01).rows}
    assert values["auc", 2] == pytest.approx(0.82)
    assert values["nll", 2] == 0.4, "only metrics that lie in [0, 1] are scaled"
    mixed = table(tmp_path, *lines, "chest,r50,natural,full,0,auc,0.8,finished")
    assert "but 1 are not: bring all to one scale first" in refusal(mixed)


def test_columns_under_other_names(tmp_path):
    heading = "dataset,arch,Source,shots,seed,metric,value,n_image,colour"
    path = table(tmp_path, "chest,r50,random,full,0,auc,0.8,100,red", heading=heading)
    message = refusal(path)
    assert "column 'task' is missing; perhaps --map dataset=task" in message
    assert "--map arch=model_scale" in message
    assert "--map Source=pretraining_source" in message
    assert "--map shots=data_fraction" in message
    assert "unknown column 'n_image'. Did you mean 'n_images'? Say --map n_image=n_images, or drop it" in message
    renames = {"dataset": "task", "arch": "model_scale", "Source": "pretraining_source", "shots": "data_fraction"}
    got = read(path, {**renames, "n_image": "n_images"})
    assert got.ignored == ("colour",)
    assert got.rows[0].counts == {"n_images": 100.0}
    wrong = refusal(path, renames={**renames, "n_image": "n_imges"})
    assert "--map n_image=n_imges: unknown column or metric 'n_imges'. Did you mean 'n_images'?" in wrong


def test_metrics_under_other_names_and_one_that_is_not_written(tmp_path):
    path = table(tmp_path, "chest,r50,random,full,0,score,0.8,", "chest,r50,random,full,0,f1,0.8,")
    got = read(path, {"score": "auc"})
    assert [row.metric for row in got.rows] == ["auc", "f1"]
    assert got.unknown_metrics == {"f1": 1}
    heading = "task,model_scale,pretraining_source,data_fraction,seed,value"
    assert read(table(tmp_path, "c,r,random,1,0,0.8", heading=heading), only_metric="AUROC").rows[0].metric == "auc"


def test_facts_of_one_trial_must_agree(tmp_path):
    heading = "task,model_scale,pretraining_source,data_fraction,seed,metric,value,n_images,set"
    message = refusal(
        table(
            tmp_path,
            "chest,r50,random,full,0,auc,0.8,100,test",
            "chest,r50,random,full,0,nll,0.4,200,test",
            "derm,r50,random,full,0,auc,0.8,100,site-b",
            "eye,r50,random,full,0,auc,0.8,100,val",
            "fundus,r50,random,full,0,auc,0.8,100,clinic",
            heading=heading,
        )
    )
    assert "set 'site-b': letters, digits and _ only" in message
    assert "set 'val'" in message
    assert "row 3: n_images of chest · r50 · random · 1 · 0 is 100 and 200 (first in row 2)" in message
    assert "task 'fundus' has no row of the set 'test' (only clinic)" in message


def test_parquet_semicolons_and_byte_order_marks(tmp_path):
    columns = HEADING.split(",")
    frame = pd.DataFrame([["chest", "r50", "random", 0.1, 0, "auc", 0.8, None]], columns=columns)
    frame.to_parquet(tmp_path / "others.parquet")
    (tmp_path / "semi.csv").write_text(
        "\ufeff" + HEADING.replace(",", ";") + "\nchest;r50;random;0.1;0;auc;0.8;\n", "utf-8"
    )
    for name in ("others.parquet", "semi.csv"):
        row = read(tmp_path / name).rows[0]
        assert (row.axes, row.amount.label, row.seed.label, row.value) == (("chest", "r50", "random"), "0.1", "0", 0.8)


def test_tables_as_other_programs_write_them(tmp_path):
    """Capitals in the heading, a separator at the end of each row, rows without text, UTF-16, and an index column."""
    lines = ["chest,r50,random,full,0,auc,0.8,,", ",,,,,,,", "chest,r50,random,full,1,auc,inf,"]
    path = table(tmp_path, *lines, heading="Task,Model Scale,PRETRAINING_SOURCE,data_fraction,Seed,Metric,Value,status")
    assert "- row 4: value inf is infinite" in refusal(path)
    path.write_text(path.read_text("utf-8").replace("inf", "0.9"), encoding="utf-16")
    got = read(path)
    assert [(row.number, row.value) for row in got.rows] == [(2, 0.8), (4, 0.9)]
    assert (got.read, got.blank) == (2, 1)


def test_a_file_that_was_cut_off_gives_no_numbers(tmp_path):
    rows = ["chest,r50,random,full,0,auc,0.8,", "chest,r50,random,full,1,auc"]
    assert "row 3: 6 fields where the heading has 8: is the file cut off?" in refusal(table(tmp_path, *rows))
    wide = table(tmp_path, "chest,r50,random,full,0,auc,0.8,,x")
    assert "row 2: 9 fields where the heading has 8: a field that holds the separator" in refusal(wide)
    assert "quotation mark not closed" in refusal(table(tmp_path, 'chest,"r50,random,full,0,auc,0.8,'))


def test_other_encodings_are_asked_for(tmp_path):
    path = table(tmp_path, "Schädel,r50,random,full,0,auc,0.8,")
    path.write_bytes(path.read_text("utf-8").encode("cp1252"))
    assert "line 2: invalid continuation byte). Save it as UTF-8, or say --encoding cp1252" in refusal(path)
    assert read(path, encoding="cp1252").rows[0].axes[0] == "Schädel"
    assert "--encoding 'cp-1' is not known" in refusal(path, encoding="cp-1")


def test_decimal_commas_are_asked_for_and_thousands_separators_refused(tmp_path):
    heading = "task;model_scale;pretraining_source;data_fraction;seed;metric;value;n_images"
    path = table(tmp_path, "chest;r50;random;12,5 %;0;auc;0,85;1200", heading=heading)
    message = refusal(path)
    assert "value '0,85' is no number; decimals need a point, or say --decimal ," in message
    assert "data_fraction '12,5 %' is not one of" in message
    row = read(path, decimal_comma=True).rows[0]
    assert (row.amount.label, row.value, row.counts) == ("0.125", 0.85, {"n_images": 1200.0})
    for written in ("12.000", "12,000", "1'200", "1 200"):
        path = table(tmp_path, f"chest;r50;random;1;0;auc;0.85;{written}", heading=heading)
        for comma in (False, True):
            assert "may have a thousands separator: write it without" in refusal(path, decimal_comma=comma)


def test_a_column_per_metric_is_told_what_to_do(tmp_path):
    heading = "task,model_scale,pretraining_source,data_fraction,seed,auc,nll"
    message = refusal(table(tmp_path, "chest,r50,random,full,0,0.8,0.4", heading=heading))
    assert "a column per metric (auc, nll): give a row per metric" in message
    assert "--map auc=value" not in message
    assert message.count("columns that are there") == 1


def test_a_column_that_may_be_the_evaluation_set_is_not_passed_over(tmp_path):
    heading = "task,model_scale,pretraining_source,data_fraction,seed,metric,value,split"
    path = table(tmp_path, "chest,r50,random,full,0,auc,0.8,test", heading=heading)
    assert "unknown column 'split'. Did you mean 'set'? Say --map split=set, or drop it" in refusal(path)
    assert read(path, {"split": "set"}).rows[0].set == "test"


def test_what_repeated_rows_differ_in_and_values_that_are_missing(tmp_path):
    heading = "task,model_scale,pretraining_source,data_fraction,seed,metric,value,fold,who"
    rows = [f"chest,r50,random,full,0,auc,0.8{fold},{fold},me" for fold in range(3)]
    got = read(table(tmp_path, *rows, "chest,r50,random,full,1,auc,nan,0,me", heading=heading))
    assert (got.duplicates.rows, got.duplicates.differing, got.duplicates.telling) == (2, 2, ("fold",))
    assert got.undefined == 1


def test_very_many_problems_are_counted_and_the_first_told(tmp_path):
    message = refusal(table(tmp_path, *(f"chest,r50,random,full,{s},auc,x{s}," for s in range(500))))
    assert message.startswith("others.csv: 500 problems")
    assert message.endswith("- and 480 more")
    assert len(message.splitlines()) == 22


def test_files_that_are_no_tables(tmp_path):
    assert "is no file" in refusal(tmp_path / "none.csv")
    (tmp_path / "x.parquet").write_bytes(b"no")
    assert "neither CSV" in refusal(tmp_path / "x.parquet")
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in refusal(tmp_path / "empty.csv")
    assert "no finished or failed row" in refusal(table(tmp_path))
