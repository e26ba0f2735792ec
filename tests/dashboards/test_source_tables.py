"""The table of published weights: what the catalogue says of each source, and nothing of what is made from one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from dashboards.evidence_sections import source_section
from dashboards.page_tables import html_table
from dashboards.source_tables import source_table
from search_spaces.catalogue import find_entry
from tests.dashboards.synthetic import SCALES, evidence_of, make_study, whole_study

SMALL, LARGE = SCALES


def study_with(small, large):
    sources = {
        "natural": {"by_scale": {SMALL: small, LARGE: large}},
        "natural_meanvar": {"transform": "mean_var", "of": "natural"},
    }
    scales = {name: {"factory": "resnet50", "input_size": 32, "ladder": "nets"} for name in SCALES}
    return evidence_of(whole_study(), study=make_study(sources=sources, scales=scales))


def test_entries_are_found_by_name_and_by_the_tag_of_timm():
    table = source_table(study_with({"catalogue": "moco_v1", "file": "/w/moco.pth"}, {"timm": "tv_in1k"}))
    assert table["pretraining_source"].tolist() == ["natural", "natural"], "mean-var weights are no published ones"
    by_scale = table.set_index("model_scale")
    moco, tv = by_scale.loc[SMALL], by_scale.loc[LARGE]
    assert (moco["entry"], moco["upstream_top1"], moco["upstream_kind"], moco["epochs"]) == (
        "moco_v1",
        60.6,
        "linear",
        200,
    )
    assert find_entry(tv["entry"]).timm == "tv_in1k"


def test_what_is_not_known_is_missing_and_what_is_no_entry_has_no_row():
    table = source_table(
        study_with({"file": "/w/own.pth"}, {"catalogue": "inat2021_supervised", "file": "/w/inat.pth"})
    )
    assert table["model_scale"].tolist() == [LARGE]
    assert np.isnan(table["upstream_top1"][0])
    assert table["upstream_kind"][0] == ""
    assert source_table(study_with({"file": "/w/a.pth"}, {"timm": "default"})).empty


def test_the_page_has_a_section_where_something_is_known():
    found = source_table(study_with({"catalogue": "moco_v1", "file": "/w/moco.pth"}, {"timm": "default"}))
    (section,) = source_section(SimpleNamespace(sources=found))
    assert "60.6" in html_table(section.tables[0][1], section.heading)
    assert source_section(SimpleNamespace(sources=source_table(evidence_of(whole_study())))) == ()
