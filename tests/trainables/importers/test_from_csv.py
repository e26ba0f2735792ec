from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.dicom_files import write_dicom
from trainables.importers import BlankLabels, ImportOptions, import_csv
from trainables.importers.quarantine import repeated_ids

HEADER_ONLY = "image,label"


def options(**changes):
    return ImportOptions(**{"name": "t", "split": (0.5, 0.25, 0.25), **changes})


def test_conventional_columns_are_found_and_said(make_table):
    told: list[str] = []
    table = make_table("""image,label,patient_id,sex,age,site,split
        a.png,sick,p1,M,40,X,train
        b.png,normal,p2,female,063Y,X,valid
        c.png,normal,p3,,,Y,Test""")
    manifest = import_csv(table, options(), told.append)
    assert manifest.kind is Kind.BINARY
    assert manifest.labels == ("sick",)
    assert manifest.table["y_sick"].tolist() == [1, 0, 0]
    assert manifest.table["split"].tolist() == ["train", "val", "test"]
    assert manifest.table["sex"].tolist()[:2] == ["M", "F"]
    assert manifest.table["sex"].isna().tolist() == [False, False, True]
    assert manifest.table["age_years"].tolist()[:2] == [40, 63]
    assert manifest.table[["width", "height"]].iloc[0].tolist() == [8, 6]
    assert manifest.patients_known
    for role in ("image", "label", "patient", "sex", "age", "site", "split"):
        assert any(line.startswith(f"{role}: column") for line in told), role


def test_none_switches_detection_off(make_table):
    table = make_table("""image,label,patient_id,sex
        a.png,0,p1,M
        b.png,1,p1,F
        c.png,1,p2,F""")
    manifest = import_csv(table, options(patient_column="none", sex_column="none"))
    assert not manifest.patients_known
    assert manifest.grouping == "image"
    assert "sex" not in manifest.table
    assert any("patients are not known" in note for note in manifest.notes)
    assert any(line.startswith("split drawn") and "stratified by the rarest label" in line for line in manifest.notes)


def test_three_values_make_classes_in_order(make_table):
    table = make_table("""image,label
        a.png,10
        b.png,9
        c.png,
        d.png,100""")
    manifest = import_csv(table, options())
    assert manifest.kind is Kind.MULTICLASS
    assert manifest.labels == ("9", "10", "100")
    assert manifest.table["y"].tolist() == [1, 0, -1, 2]


def test_classes_give_order_and_names_to_numbers(make_table):
    table = make_table("""image,label
        a.png,0
        b.png,2
        c.png,1""")
    manifest = import_csv(table, options(classes=("mild", "moderate", "severe"), kind=Kind.ORDINAL))
    assert manifest.kind is Kind.ORDINAL
    assert manifest.labels == ("mild", "moderate", "severe")
    assert manifest.table["y"].tolist() == [0, 2, 1]


def test_separator_makes_a_multilabel_task(make_table):
    table = make_table("""image,label
        a.png,x;y
        b.png,
        c.png, y ;z""")
    manifest = import_csv(table, options(label_separator=";"))
    assert manifest.kind is Kind.MULTILABEL
    assert manifest.labels == ("x", "y", "z")
    assert manifest.table["y_x"].tolist()[::2] == [1, 0]
    assert manifest.table["y_y"].tolist()[::2] == [1, 1]
    assert manifest.table.loc[1, ["y_x", "y_y", "y_z"]].isna().all()


def test_flag_columns_keep_blank_and_uncertain(make_table):
    text = """image,edema,mass
        a.png,1.0,0
        b.png,-1,
        c.png,,True
        d.png,0,1"""
    manifest = import_csv(make_table(text), options(label_columns=("edema", "mass")))
    assert manifest.kind is Kind.MULTILABEL
    assert manifest.table["y_edema"].fillna(9).tolist() == [1, -1, 9, 0]
    assert manifest.table["y_mass"].fillna(9).tolist() == [0, 9, 1, 1]
    negative = import_csv(make_table(text), options(label_columns=("edema", "mass"), blank_labels=BlankLabels.NEGATIVE))
    assert negative.table["y_edema"].tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize("changes", [{}, {"label_separator": ";"}, {"kind": Kind.SEGMENTATION}])
def test_blanks_get_no_meaning_but_in_columns_of_0_and_1(make_table, changes):
    table = make_table("""image,label,mask
        a.png,0,a.png
        b.png,1,b.png""")
    with pytest.raises(UserError, match="--blank-labels negative applies to columns of 0 and 1"):
        import_csv(table, options(blank_labels=BlankLabels.NEGATIVE, **changes))


def test_one_flag_column_is_binary(make_table):
    table = make_table("""image,edema
        a.png,1
        b.png,0
        c.png,-1""")
    manifest = import_csv(table, options(label_columns=("edema",), label_name="oedema"))
    assert (manifest.kind, manifest.labels) == (Kind.BINARY, ("oedema",))
    assert manifest.table["y_oedema"].tolist() == [1, 0, -1]


def test_one_hot_columns_make_classes(make_table):
    text = """image,mel,nv,bcc
        a.png,1,0,0
        b.png,0,0,1
        c.png,,,"""
    manifest = import_csv(make_table(text), options(label_columns=("mel", "nv", "bcc"), kind=Kind.MULTICLASS))
    assert manifest.labels == ("mel", "nv", "bcc")
    assert manifest.table["y"].tolist() == [0, 2, -1]
    with pytest.raises(UserError, match=r"exactly one 1.*line 3"):
        import_csv(
            make_table(text.replace("b.png,0,0,1", "b.png,1,0,1")),
            options(label_columns=("mel", "nv", "bcc"), kind=Kind.MULTICLASS),
        )


@pytest.mark.parametrize(
    ("values", "changes", "positive"),
    [
        (("malignant", "benign"), {}, "malignant"),
        (("No Finding", "mass"), {}, "mass"),
        (("AP", "PA"), {}, "PA"),
        (("AP", "PA"), {"positive": "AP"}, "AP"),
        (("AP", "PA"), {"classes": ("PA", "AP")}, "AP"),
    ],
)
def test_which_value_is_positive(make_table, values, changes, positive):
    told: list[str] = []
    table = make_table(f"image,label\na.png,{values[0]}\nb.png,{values[1]}\nc.png,{values[1]}")
    manifest = import_csv(table, options(**changes), told.append)
    assert manifest.labels == (positive,)
    assert (manifest.table[f"y_{positive}"] == 1).tolist() == [v == positive for v in (values[0], values[1], values[1])]
    assert any(f"1 is {positive!r}" in line for line in told)


def test_zero_and_one_take_the_name_of_the_column(make_table):
    table = make_table("image,label\na.png,0\nb.png,1\nc.png,-1")
    assert import_csv(table, options()).labels == ("label",)
    assert import_csv(table, options(label_name="tumour")).labels == ("tumour",)
    assert import_csv(table, options(label_name="tumour")).table["y_tumour"].tolist() == [0, 1, -1]


def test_masks_without_labels_are_segmentation(make_table):
    table = make_table("""image,mask
        a.png,a.png
        b.png,b.png
        c.png,b.png""")
    manifest = import_csv(table, options())
    assert manifest.kind is Kind.SEGMENTATION
    assert manifest.labels == ("foreground",)
    assert manifest.label_columns == ()
    mask = manifest.mask(2)
    assert mask is not None
    assert mask.max() == 1  # file b.png holds ones
    (note,) = [line for line in manifest.notes if line.startswith("split drawn here")]
    assert note.endswith("not stratified (masks are not looked at)")


@pytest.mark.parametrize("unopened", [False, True])
def test_a_blank_mask_is_a_problem_of_its_row(make_table, unopened):
    table = make_table("image,mask\n" + "\n".join(f"{i}.png,{i}.png" for i in range(6)) + "\n6.png,\n7.png,")
    with pytest.raises(UserError, match=r"2 of 8 rows cannot be used \(2 no mask\)(.|\n)*line 8: (.|\n)*mask of zeros"):
        import_csv(table, options(unopened=unopened))
    aside = table.parent / "aside.csv"
    manifest = import_csv(table, options(unopened=unopened, quarantine=aside))
    assert manifest.set_aside == {"no mask": 2}
    assert pd.read_csv(aside)["where"].tolist() == ["line 8", "line 9"]


def test_group_columns_can_be_selected(make_table):
    table = make_table("""image,label,localization,grade
        a.png,0,face,1.0
        b.png,1,back,2.0
        c.png,1,face,""")
    manifest = import_csv(table, options(group_columns=("localization", "grade")))
    assert manifest.where({"localization": ["face"]}).tolist() == [True, False, True]
    assert manifest.where({"grade": 1}).tolist() == [True, False, False]
    assert manifest.where({"grade": "unknown", "g_localization": "face"}).tolist() == [False, False, True]


def test_official_split_without_val_gets_one_from_train(make_table):
    rows = "\n".join(f"{i}.png,{i % 2},p{i // 2},train" for i in range(40))
    table = make_table(f"image,label,patient_id,split\n{rows}\nx.png,0,q1,test\ny.png,1,q2,test")
    manifest = import_csv(table, options(split=(0.72, 0.08, 0.2)))
    counts = manifest.table["split"].value_counts()
    assert counts.to_dict() == {"train": 36, "val": 4, "test": 2}  # a tenth of the 20 patients of train
    assert manifest.table.groupby("patient_id")["split"].nunique().max() == 1
    assert any("has no val" in note for note in manifest.notes)


def test_patient_in_two_official_splits_is_told(make_table):
    table = make_table("""image,label,patient_id,split
        a.png,0,p1,train
        b.png,1,p1,test
        c.png,1,p2,val""")
    manifest = import_csv(table, options())
    assert any("'p1' (test, train)" in note for note in manifest.notes)


def test_patient_pattern_reads_the_path(make_table):
    table = make_table("""image,label
        patient01/s1/a.png,0
        patient01/s2/b.png,1
        patient02/s1/c.png,1""")
    manifest = import_csv(table, options(patient_pattern=r"patient(\d+)"))
    assert manifest.table["patient_id"].tolist() == ["01", "01", "02"]
    assert manifest.patients_known
    with pytest.raises(UserError, match=r"does not fit 3 of 3 paths, such as 'patient01/s1/a.png'"):
        import_csv(table, options(patient_pattern=r"case(01)"))
    with pytest.raises(
        UserError, match=r"1 of 3 rows(.|\n)*line 4: --patient-pattern 'patient\(01\)' does not fit path"
    ):
        import_csv(table, options(patient_pattern=r"patient(01)"))


def test_grouping_is_noted_and_blank_groups_stand_alone(make_table):
    table = make_table("""image,label,lesion
        a.png,0,L1
        b.png,1,
        c.png,1,""")
    manifest = import_csv(table, options(patient_column="lesion", grouping="lesion"))
    assert manifest.grouping == "lesion"
    assert manifest.table["patient_id"].tolist() == ["L1", "b.png", "c.png"]
    assert any("holds the lesion" in note for note in manifest.notes)
    assert any("2 images have no lesion" in note for note in manifest.notes)


def test_paths_without_suffix_or_folder_are_found_by_name(make_table, tmp_path):
    table = make_table("image,label\nimages_1/a.png,0\nimages_2/b.png,1\nimages_2/c.png,1")
    table.write_text("image,label\na,0\nb,1\nc,1\n")
    manifest = import_csv(table, options())
    assert manifest.table["image_id"].tolist() == ["a", "b", "c"]
    assert manifest.table["path"].tolist() == ["images_1/a.png", "images_2/b.png", "images_2/c.png"]
    table.write_text("image,label\na.png,0\nb.png,1\n")
    assert import_csv(table, options()).table["path"].tolist() == ["images_1/a.png", "images_2/b.png"]


def test_absolute_and_backslash_paths(make_table, tmp_path):
    table = make_table("image,label\nimages/a.png,0\nimages/b.png,1")
    table.write_text(f"image,label\n{tmp_path}/images/a.png,0\n{tmp_path}/images/b.png,1\n")
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    manifest = import_csv(table.rename(elsewhere / "t.csv"), options())
    assert manifest.root == tmp_path / "images"
    assert manifest.table["image_id"].tolist() == ["a.png", "b.png"]
    (elsewhere / "t.csv").write_text("image,label\nimages\\a.png,0\nimages\\b.png,1\n")
    manifest = import_csv(elsewhere / "t.csv", options(image_root=tmp_path))
    assert manifest.table["path"].tolist() == ["images/a.png", "images/b.png"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_byte_order_mark(make_table, tmp_path, separator):
    make_table("image,label\na.png,0\nb.png,1")
    text = "image,label\na.png,0\nb.png,1\n".replace(",", separator)
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert len(import_csv(tmp_path / "t.csv", options())) == 2


def test_windows_table_is_read_and_said(make_table, tmp_path):
    make_table("image,label\na.png,0\nb.png,1")
    told: list[str] = []
    (tmp_path / "t.csv").write_bytes("image,label,site\na.png,0,Köln\nb.png,1,Bern\n".encode("cp1252"))
    assert import_csv(tmp_path / "t.csv", options(), told.append).table["site"].tolist() == ["Köln", "Bern"]
    assert "t.csv is not UTF-8; read as Windows-1252" in told


def test_impossible_ages_are_left_blank_and_said(make_table):
    told: list[str] = []
    manifest = import_csv(make_table("image,label,age\na.png,0,411\nb.png,1,018M"), options(), told.append)
    assert manifest.table["age_years"].isna().tolist() == [True, False]
    assert "age: 1 ages outside 0 to 120 years are left blank (line 2)" in manifest.notes
    assert manifest.table["age_years"].iat[1] == pytest.approx(1.5)
    assert any("1 ages outside 0 to 120" in line for line in told)


def test_all_names_the_lines_of_all_impossible_ages(make_table):
    table = make_table("image,label,age\n" + "\n".join(f"{i}.png,{i % 2},-1" for i in range(30)))
    notes = import_csv(table, options(all_problems=True)).notes
    assert any("lines 2, 3," in note and "30, 31)" in note for note in notes)
    assert any("21, ... (30 in all)" in note for note in import_csv(table, options()).notes)


def test_every_impossible_age_is_listed_with_file_and_row(make_table, tmp_path):
    ages = ["-3", *["130"] * 28, "40", "nan"]
    table = make_table("image,label,age\n" + "\n".join(f"{i}.png,{i % 2},{age}" for i, age in enumerate(ages)))
    told: list[str] = []
    (table.parent / "5.png").unlink()
    manifest = import_csv(table, options(quarantine=tmp_path / "list.csv"), told.append)
    assert any("29 ages outside 0 to 120 years" in t and "--quarantine FILE lists all" in t for t in told)
    assert manifest.set_aside == {"image missing": 1}
    assert manifest.left_blank == {"impossible age left blank": 28}, "the row that is set aside has no age to lose"
    assert manifest.table["age_years"].notna().sum() == 1
    listed = pd.read_csv(tmp_path / "list.csv")
    ages_listed = listed[listed["reason"] == "impossible age left blank"]
    assert len(ages_listed) == 28
    assert ages_listed.iloc[0][["where", "image_id", "path"]].tolist() == ["line 2", "0.png", "0.png"]
    assert "column 'age' has '-3'" in ages_listed["detail"].iloc[0]
    assert ages_listed["where"].iloc[5] == "line 8", "line 7 is set aside"
    manifest.write(tmp_path / "kept")
    assert type(manifest).read(tmp_path / "kept").left_blank == manifest.left_blank


BAD_TABLES: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing column": ("image,label\na.png,0\nb.png,1", {"label_column": "lable"}, "mean 'label'.*image, label"),
    "missing label column": ("image,label\na.png,0", {"label_columns": ("labels",)}, "Did you mean 'label'"),
    "missing group column": ("image,label\na.png,0\nb.png,1", {"group_columns": ("loc",)}, "--group-columns"),
    "no image column": ("scan,label\na.png,0\nb.png,1", {}, "give --image-column, one of: scan, label"),
    "no label column": ("image,foo\na.png,0\nb.png,1", {}, "give --label-column or --label-columns, of: image, foo"),
    "no rows": (HEADER_ONLY, {}, "has no rows"),
    "one value": ("image,label\na.png,0\nb.png,0", {}, "only the value 0"),
    "three values": ("image,label\na.png,0\nb.png,1\nc.png,2", {"kind": Kind.BINARY}, "two values.*has 3: 0, 1, 2"),
    "outside classes": (
        "image,label\na.png,x\nb.png,y\nc.png,z",
        {"classes": ("x", "y")},
        r"outside the classes x, y: z \(line 4\)",
    ),
    "joined outside classes": (
        "image,label\na.png,x;y\nb.png,y;z",
        {"classes": ("x", "y"), "label_separator": ";"},
        r"outside --classes: z \(line 3\)",
    ),
    "unknown positive": ("image,label\na.png,x\nb.png,yy", {"positive": "y"}, "Did you mean 'yy'"),
    "bad flag": ("image,e\na.png,0\nb.png,yes", {"label_columns": ("e",)}, r"has 'yes' \(line 3\); allowed: 0, 1"),
    "plus minus one": ("image,e\na.png,-1\nb.png,1", {"label_columns": ("e",)}, "write negatives as 0"),
    "plus minus one label": ("image,label\na.png,-1\nb.png,1", {}, "write negatives as 0"),
    "repeated image": ("image,label\na.png,0\na.png,1", {}, r"2 of 2 rows cannot be used \(2 image id repeated\)"),
    "blank image": ("image,label\na.png,0\n,1", {"label_columns": ("label",)}, "is blank in line 3"),
    "strange split": ("image,label,split\na.png,0,train\nb.png,1,fold3", {}, "has fold3; known splits are train"),
    "blank split": ("image,label,split\na.png,0,train\nb.png,1,", {}, r"has \(blank\)"),
    "strange sex": ("image,label,sex\na.png,0,M\nb.png,1,2", {}, r"has '2' \(line 3\).*--group-columns sex"),
    "strange age": ("image,label,age\na.png,0,old\nb.png,1,2", {}, r"has 'old' \(line 2\).*years expected"),
    "taken group": ("image,label,sex\na.png,0,M\nb.png,1,F", {"group_columns": ("sex",)}, "use --sex-column"),
    "unordered": ("image,label\na.png,lo\nb.png,hi\nc.png,mid", {"kind": Kind.ORDINAL}, "order of hi, lo, mid"),
    "kind": ("image,label\na.png,0\nb.png,1", {"kind": Kind.MULTILABEL}, "--kind multilabel does not fit"),
    "no masks": ("image,label\na.png,0\nb.png,1", {"kind": Kind.SEGMENTATION}, "give --mask-column"),
    "repeated column": ("image,label,site,label\na.png,0,A,1\nb.png,1,A,0", {}, "names columns twice: label;"),
    "ragged": ("image,label\na.png,0,7,8\nb.png,1,7,8", {}, "more cells than its first line"),
    "no patients": ("image,label,patient_id\na.png,0,\nb.png,1,", {}, "empty in every row"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES, ids=str)
def test_bad_tables_are_refused_with_one_clear_message(make_table, case):
    text, changes, message = BAD_TABLES[case]
    table = make_table(text, images=case != "blank image")
    with pytest.raises(UserError, match=message):
        import_csv(table, options(**changes))


def test_all_that_is_wrong_is_said_at_once(make_table):
    rows = [f"{name}.png,{i % 2},{name}.png,{30 + i},F" for i, name in enumerate("abcdefghijklmnop")]
    table = make_table("\n".join(["image,label,mask,age,sex", *rows]))
    text = table.read_text().replace("c.png,0,", "c.png,maybe,").replace("d.png,1,d.png,33,F", "d.png,1,d.png,-3,both")
    table.write_text(text.replace("e.png,0,e.png", "e.png,0,gone.png") + "f.png,0,f.png,1,M\n")
    (table.parent / "a.png").unlink()
    (table.parent / "b.png").write_text("no image")
    Image.new("L", (3, 3)).save(table.parent / "small.png")
    table.write_text(table.read_text().replace("g.png,0,g.png", "g.png,0,small.png"))
    told: list[str] = []
    with pytest.raises(DataError) as error:
        import_csv(table, options(label_columns=("label",)), told.append)
    message = str(error.value)
    assert message.startswith("8 of 17 rows cannot be used")
    for line in (
        r"line 2: image \S+a.png is missing", r"line 3: image \S+b.png cannot be read: no image of a known format",
        r"line 4: column 'label' has 'maybe'; allowed: 0, 1", r"line 5: column 'sex' has 'both'; allowed: F, M",
        r"line 6: mask \S+gone.png is missing", r"line 7: image 'f.png' stands in more than one row",
        r"line 8: mask small.png is 3 x 3, its image g.png is 8 x 6", r"line 18: image 'f.png' stands in more than",
        "--image-root gives another folder", "--quarantine FILE",
    ):  # fmt: skip
        assert re.search(line, message), line
    assert "age: 1 ages outside 0 to 120 years are left blank (line 5)" in told
    listed = table.parent / "aside.csv"
    manifest = import_csv(table, options(label_columns=("label",), quarantine=listed), told.append)
    assert len(manifest) == 9
    assert manifest.set_aside == {
        "image missing": 1, "image unreadable": 1, "value not allowed": 2, "mask missing": 1, "image id repeated": 2,
        "mask of another size": 1,
    }  # fmt: skip
    assert pd.read_csv(listed)["where"].unique().tolist() == [f"line {n}" for n in (2, 3, 4, 5, 6, 7, 8, 18)]
    assert "8 of 17 rows are set aside" in manifest.notes[-1]
    assert not set(manifest.table["image_id"]) & {f"{name}.png" for name in "abcdefg"}


def test_what_only_decoding_shows_is_set_aside_too(make_table):
    table = make_table("image,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(6)))
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(table.parent / "3.png")
    whole = (table.parent / "3.png").read_bytes()
    (table.parent / "3.png").write_bytes(whole[:1000] + bytes(500) + whole[1500:])
    assert len(import_csv(table, options())) == 6  # headers and ends are whole; tasks check decodes
    manifest = import_csv(table, options(quarantine=table.parent / "aside.csv"))
    assert manifest.table["image_id"].tolist() == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    assert manifest.set_aside == {"image unreadable": 1}
    assert sum("split drawn" in note for note in manifest.notes) == 1


def test_files_that_are_cut_short_are_refused_with_all_other_rows(make_table):
    pytest.importorskip("pydicom")
    names = ("a.png", "b.jpg", "c.jpg", "d.png", "f.png", "e.dcm")
    table = make_table("image,label,mask\n" + "\n".join(f"{n},{i % 2},f.png" for i, n in enumerate(names[:-1])))
    folder = table.parent
    table.write_text(table.read_text() + "e.dcm,1,f.png\n")
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    for name in names[:-1]:
        Image.fromarray(noise).save(folder / name)
    write_dicom(folder / "e.dcm", noise.astype(np.uint16))
    whole = {name: (folder / name).read_bytes() for name in names}
    (folder / "c.jpg").write_bytes(whole["c.jpg"] + bytes(200))  # what some cameras append
    assert len(import_csv(table, options())) == 6
    for name in ("b.jpg", "d.png", "e.dcm", "f.png"):
        (folder / name).write_bytes(whole[name][: len(whole[name]) // 2])
    with pytest.raises(DataError) as error:
        import_csv(table, options())
    message = str(error.value)
    for line in (
        r"line 3: image \S+b.jpg cannot be decoded", r"line 5: image \S+d.png cannot be decoded",
        r"line 6: image \S+f.png cannot be decoded", r"line 7: image \S+e.dcm cannot be decoded as DICOM",
        r"line 2: mask \S+f.png cannot be decoded",
    ):  # fmt: skip
        assert re.search(line, message), line


def test_nothing_is_left(make_table):
    table = make_table("image,label\na.png,0\nb.png,1", images=False)
    with pytest.raises(UserError, match="no row can be used"):
        import_csv(table, options(quarantine=table.parent / "aside.csv"))
    assert len(pd.read_csv(table.parent / "aside.csv")) == 2


def test_equal_rows_leave_one(make_table):
    table = make_table("image,label\na.png,0\nb.png,1\na.png,0\nc.png,1\nd.png,0")
    manifest = import_csv(table, options(quarantine=table.parent / "aside.csv"))
    assert manifest.table["image_id"].tolist() == ["a.png", "b.png", "c.png", "d.png"]


def test_a_path_that_the_patient_pattern_does_not_fit_is_set_aside(make_table):
    table = make_table("image,label\n" + "\n".join(f"p{i}/{i}.png,{i % 2}" for i in range(6)) + "\nx/6.png,1")
    aside = table.parent / "aside.csv"
    manifest = import_csv(table, options(patient_pattern=r"^p(\d)/", quarantine=aside))
    assert manifest.table["patient_id"].tolist() == ["0", "1", "2", "3", "4", "5"]
    assert manifest.set_aside == {"no patient in the path": 1}
    assert pd.read_csv(aside)[["where", "path"]].iloc[0].tolist() == ["line 8", "x/6.png"]


def test_absolute_paths_among_relative_ones_and_blanks_are_problems_of_their_rows(make_table):
    table = make_table("image,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(6)))
    odd = table.parent / "0.png"
    table.write_text(table.read_text() + f"{odd},1\n,0\n,1\n")
    with pytest.raises(UserError) as error:
        import_csv(table, options())
    assert "3 of 9 rows cannot be used (3 no usable path)" in str(error.value)
    assert f"line 8: column 'image' has the absolute path '{odd}' among relative ones" in str(error.value)
    assert str(error.value).count("\n  line") == 3
    aside = table.parent / "aside.csv"
    assert len(import_csv(table, options(quarantine=aside))) == 6
    assert pd.read_csv(aside)["where"].tolist() == ["line 8", "line 9", "line 10"]


def test_a_path_with_folders_is_not_found_in_another_folder(make_table):
    text = "image,label\n" + "\n".join(f"img/{i}.png,{i % 2}" for i in range(6))
    table = make_table(text)
    (table.parent / "old").mkdir()
    (table.parent / "img/0.png").rename(table.parent / "old/0.png")
    with pytest.raises(DataError, match=r"1 of 6 rows cannot be used(.|\n)*line 2: image \S+img/0.png is missing"):
        import_csv(table, options())
    for i in range(1, 6):
        (table.parent / f"img/{i}.png").rename(table.parent / f"old/{i}.png")
    manifest = import_csv(table, options())
    assert manifest.table["path"].tolist() == [f"old/{i}.png" for i in range(6)]
    assert "image: 6 files found by name, such as old/0.png for img/0.png" in manifest.notes
    (table.parent / "older").mkdir()
    (table.parent / "old/3.png").rename(table.parent / "older/3.png")
    with pytest.raises(DataError, match="6 of 6 rows"):
        import_csv(table, options())


def test_lines_are_those_of_the_file(make_table):
    table = make_table("image,label,note,age\n" + "\n".join(f"{i}.png,{i % 2},x,40" for i in range(9)))
    lines = table.read_text().splitlines()
    lines[3:3] = ["", "   ", ""]
    lines[8] = '4.png,0,"two\nlines",-3'
    lines[10] = "6.png,maybe,x,40"
    table.write_text("\n".join(lines) + "\n")
    told: list[str] = []
    with pytest.raises(UserError, match=r"line 12: column 'label' has 'maybe'(.|\n)*has 'maybe' \(line 12\)"):
        import_csv(table, options(label_columns=("label",)), told.append)
    assert any("1 ages outside 0 to 120 years are left blank (line 9)" in line for line in told)
    aside = table.parent / "aside.csv"
    import_csv(table, options(label_columns=("label",), quarantine=aside))
    assert pd.read_csv(aside)["where"].tolist() == ["line 12", "line 9"]


def test_rows_with_other_than_the_headers_cells_are_problems_like_others(make_table):
    table = make_table("image,label,site\n" + "\n".join(f"{i}.png,{i % 2},A" for i in range(6)))
    table.write_text(table.read_text() + "6.png,1,A, B\n7.png,0,A\n8.png")
    with pytest.raises(DataError) as error:
        import_csv(table, options())
    message = str(error.value)
    assert message.startswith("3 of 9 rows cannot be used (2 other number of cells, 1 image missing)")
    assert "line 8: 4 cells, but the first line has 3 names" in message
    assert "line 9: image" in message
    assert "line 10: 1 cells, but the first line has 3 names (cut off" in message
    aside = table.parent / "aside.csv"
    manifest = import_csv(table, options(quarantine=aside))
    assert len(manifest) == 6
    assert manifest.set_aside == {"other number of cells": 2, "image missing": 1}
    assert pd.read_csv(aside)["image_id"].tolist() == ["6.png", "8.png", "7.png"]


def test_a_quote_that_is_never_closed_names_its_line(make_table):
    table = make_table("image,label,note\na.png,0,x\nb.png,1,x\nc.png,1,x")
    table.write_text(table.read_text().replace("1,x", '1,"x', 1))
    with pytest.raises(UserError, match="quote that is opened in line 3 is never closed"):
        import_csv(table, options())


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_packed_tables(make_table, suffix):
    table = make_table("image,label\na.png,0\nb.png,1")
    packed = table.with_name(f"table.csv{suffix}")
    pd.read_csv(table).to_csv(packed, index=False)
    assert len(import_csv(packed, options())) == 2


def test_one_hot_rows_that_are_wrong_are_set_aside(make_table):
    rows = [f"{i}.png,{int(i % 2 == 0)},{int(i % 2)},0" for i in range(6)]
    table = make_table("\n".join(["image,mel,nv,bcc", *rows, "6.png,1,1,1", "7.png,0,0,0"]))
    aside = table.parent / "aside.csv"
    one_hot = {"label_columns": ("mel", "nv", "bcc"), "kind": Kind.MULTICLASS}
    assert len(import_csv(table, options(**one_hot, quarantine=aside))) == 6
    assert pd.read_csv(aside)["where"].tolist() == ["line 8", "line 9"]


IDS = "path,image_id,label\na.png,x,0\nb.png,y,1\nc.png,x,1\nd.png,,0\ne.png,,1\nf.png,z,0"


def test_an_image_id_beside_the_path_that_stands_for_two_files_is_refused(make_table):
    table = make_table(IDS)
    with pytest.raises(UserError) as error:
        import_csv(table, options())
    message = str(error.value)
    assert message.startswith("2 of 6 rows cannot be used (2 image id repeated)")
    assert "line 2: image 'a.png' has the image_id 'x', which 2 images have" in message
    assert "line 4: image 'c.png' has the image_id 'x', which 2 images have" in message
    assert "rename the column or name its role (--study-column" in message
    aside = table.parent / "aside.csv"
    manifest = import_csv(table, options(quarantine=aside))
    assert manifest.table["path"].tolist() == ["b.png", "d.png", "e.png", "f.png"]
    assert pd.read_csv(aside)["path"].tolist() == ["a.png", "c.png"]


@pytest.mark.parametrize("role", [{"study_column": "image_id"}, {"group_columns": ("image_id",)}])
def test_an_image_id_of_another_meaning_may_repeat(make_table, role):
    assert len(import_csv(make_table(IDS), options(**role))) == 6


def test_frames_of_one_file_may_share_their_image_id():
    ids = pd.Series(["x", "x", "y", "x"], dtype=object)
    rows = pd.DataFrame({"image_id": ["a#0", "a#1", "b#0", "a#2"], "path": ["a", "a", "b", "a"]})
    assert repeated_ids(rows, ids, "image_id") == []


def test_absent_columns_are_said_together(make_table):
    table = make_table("image,label\na.png,0\nb.png,1")
    with pytest.raises(UserError, match=r"3 columns are absent:\n.*'centre' in --site-column(.|\n)*'x'(.|\n)*'y'"):
        import_csv(table, options(site_column="centre", label_columns=("x", "y")))


def test_a_column_that_is_bad_throughout_is_refused_with_advice(make_table):
    table = make_table("image,kind\na.png,mel\nb.png,nv")
    with pytest.raises(UserError, match="For names instead of 0/1 use --label-column kind"):
        import_csv(table, options(label_columns=("kind",), quarantine=table.parent / "aside.csv"))


def test_unicode_and_very_long_paths(make_table):
    table = make_table("image,label\nµ-Röntgen/Ä b.png,0\nb.png,1\nc.png,0")
    manifest = import_csv(table, options())
    assert manifest.pixels(0).shape == (6, 8, 3)
    table.write_text(table.read_text() + f"{'x' * 5000}.png,1\n")
    with pytest.raises(DataError, match=r"line 5: image \S+ cannot be read: File name too long"):
        import_csv(table, options())


def test_frames_have_rows_of_their_own(make_table):
    table = make_table("image,label,page\nstack.tif,0,0\nstack.tif,1,1\nstack.tif,0,2", images=False)
    pages = [Image.fromarray(np.full((4, 6), 50 * i, np.uint8)) for i in range(3)]
    pages[0].save(table.parent / "stack.tif", save_all=True, append_images=pages[1:])
    manifest = import_csv(table, options(frame_column="page"))
    assert manifest.table["image_id"].tolist() == ["stack.tif#0", "stack.tif#1", "stack.tif#2"]
    assert [int(manifest.pixels(i).max()) for i in range(3)] == [0, 50, 100]
    table.write_text(table.read_text().replace("stack.tif,0,2", "stack.tif,0,9"))
    with pytest.raises(DataError, match="has 3 pages; there is no page 9"):
        import_csv(table, options(frame_column="page"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_column": "a", "label_columns": ("b",)}, "not both"),
        ({"patient_column": "a", "patient_pattern": "(b)"}, "not both"),
        ({"patient_pattern": "b"}, "exactly one group"),
        ({"patient_pattern": "(b"}, "no regular expression"),
        ({"classes": ("a", "a")}, "names a class twice"),
        ({"split": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"split": (0.0, 0.5, 0.5)}, "add up to 1"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        options(**changes)


def test_no_such_table(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        import_csv(tmp_path / "none.csv", options())
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match="cannot be read"):
        import_csv(tmp_path / "empty.csv", options())
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="neither UTF-8"):
        import_csv(tmp_path / "binary.csv", options())


@pytest.mark.parametrize("quarantine", [False, True])
def test_images_that_no_eight_bits_can_show_are_found_by_their_headers(make_table, quarantine):
    pytest.importorskip("pydicom")
    names = ["a.png", "b.png", "c.png", "float.tif", "deep.tif", "slope.dcm", "window.dcm"]
    table = make_table("\n".join([HEADER_ONLY, *(f"{name},{i % 2}" for i, name in enumerate(names))]), images=False)
    values = np.arange(48).reshape(6, 8)
    for name in names[:3]:
        Image.fromarray(values.astype(np.uint8)).save(table.parent / name)
    Image.fromarray(values.astype(np.float32)).save(table.parent / "float.tif")
    Image.fromarray(values.astype(np.int32)).save(table.parent / "deep.tif")
    write_dicom(table.parent / "slope.dcm", values.astype(np.uint8), RescaleSlope="0", RescaleIntercept="1")
    write_dicom(table.parent / "window.dcm", values.astype(np.uint8), WindowCenter="5", WindowWidth="0")
    expected = {
        "float.tif": "floating point values",
        "deep.tif": "numbers of 32 bits",
        "slope.dcm": r"rescaling \(",
        "window.dcm": r"window \(",
    }
    if not quarantine:
        with pytest.raises(DataError, match=r"4 of 7 rows cannot be used \(4 image unreadable\)") as error:
            import_csv(table, options())
        for name, message in expected.items():
            assert re.search(f"{name} .*{message}", str(error.value))
        return
    manifest = import_csv(table, options(quarantine=table.parent / "aside.csv"))
    assert len(manifest) == 3
    aside = pd.read_csv(table.parent / "aside.csv").set_index("path")["detail"]
    assert aside.index.is_unique
    for name, message in expected.items():
        assert re.search(message, aside[name])


@pytest.mark.parametrize(
    "absent",
    [
        {"site_column": "centre"},
        {"label_column": "finding"},
        {"label_columns": ("x", "y"), "age_column": "years", "classes": ("a", "b")},
        {"label_columns": ("x", "y"), "blank_labels": BlankLabels.NEGATIVE},
        {"patient_column": "pid", "group_columns": ("scanner",)},
        {"frame_column": "page", "label_columns": ("label", "x")},
    ],
)
def test_rows_are_looked_at_although_columns_are_absent(make_table, absent):
    table = make_table("""image,label,sex
        a.png,0,M
        none.png,1,F
        c.png,1,neither""")
    (table.parent / "none.png").unlink()
    with pytest.raises(UserError) as refused:
        import_csv(table, options(**absent))
    said = str(refused.value)
    assert re.match(r"unknown column|\d columns are absent", said)
    assert "Without them: " in said
    assert re.search(r"line 3.*none\.png", said)
    assert re.search(r"line 4.*neither", said)
    with pytest.raises(UserError) as refused:
        import_csv(make_table("image,label\na.png,0\nb.png,1"), options(**absent))
    assert "Without" not in str(refused.value)
