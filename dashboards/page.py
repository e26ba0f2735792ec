"""One HTML file with everything in it: findings, figures, the table behind each, methods and provenance.

The page asks nothing of the network and nothing of the browser's storage, so that it works from a disk, from an e-mail
and in the sandboxed frame of the MLflow UI. Everything a user named is escaped.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from dashboards.figures import draw
from dashboards.plots import AnyPlot
from dashboards.style import FONT_STACK, INK, MUTED, count, number

TABLE_ROWS = 150
"""Rows of a table on the page; the files beside it hold all."""

_P_COLUMNS = (
    *("p", "p_adjusted", "p_holm", "p_equivalent", "p_not_worse", "p_two_sided", "p_one_sided", "area_p"),
    *("friedman_p", "iman_davenport_p", "p_harmed", "p_beyond", "p_excluded"),
)
_FILE_ONLY = frozenset(
    {"se", "df", "v_case", "v_seed", "level", "order", "rank", "cap", "rung", "rarest_label", "inner_low", "inner_high"}
    | {"seed_design", "share_patients", "share_seeds", "share_subset", "share_initialisation", "share_interaction"}
    | {"needed_seeds", "needed_patients", "wording", "reasons", "holds_at_chance"}
)
"""Columns of the files that the page leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence of the result.

    Attributes:
        badge: Its class in one or two words.
        tone: Colour of the badge: good, bad, even or open.
        text: The sentence, plain.
        detail: Caveats or what is missing, plain; may be empty.
        grade: Letter of the evidence behind it; empty if it claims nothing.
    """

    badge: str
    tone: str
    text: str
    detail: str = ""
    grade: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One answer in a few words.

    Attributes:
        label: What it is about.
        word: The answer.
        tone: Colour, as of a ``Finding``.
        held: Whether the wording is held back; then it is drawn hollow.
    """

    label: str
    word: str
    tone: str
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewRow:
    """The answers about one source on one evaluation set of a task.

    Attributes:
        task, source, set: Of what.
        primary: Whether the set belongs to the primary family.
        helps: Does it help, at each primary amount and scale.
        where: Up to where, at each scale.
        labels: Labels saved, at each scale.
        grade: Of the evidence; empty if there is none.
    """

    task: str
    source: str
    set: str
    primary: bool
    helps: tuple[Chip, ...]
    where: tuple[Chip, ...]
    labels: tuple[Chip, ...]
    grade: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingList:
    """Findings under one heading.

    Attributes:
        heading: Its title.
        intro: One sentence; may be empty.
        findings: Most important first.
        open: How many stand open; the rest unfolds.
        rest: What unfolds the rest, such as "6 undecided".
    """

    heading: str
    intro: str
    findings: tuple[Finding, ...]
    open: int = 12
    rest: str = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Fragment id.
        heading: Its title.
        intro: One paragraph, plain; may be empty.
        plots: Figures in order.
        tables: (title, table) that stand without a figure.
        folded: (title, table) that unfold.
        empty: What is said if there is neither.
    """

    anchor: str
    heading: str
    intro: str = ""
    plots: tuple[AnyPlot, ...] = ()
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    folded: tuple[tuple[str, pd.DataFrame], ...] = ()
    empty: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """Everything that a page shows, in order."""

    title: str
    subtitle: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    findings: tuple[FindingList, ...]
    caveats: tuple[str, ...]
    sections: tuple[Section, ...]
    methods: tuple[str, ...]
    overview: tuple[OverviewRow, ...] = ()
    provenance: tuple[tuple[str, str], ...] = field(default=())


def render_page(content: PageContent) -> str:
    """The HTML of a report, complete in one file."""
    has_plots = any(section.plots for section in content.sections)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(content.title)}</title>",
        f"<style>{_CSS}</style></head><body>",
        '<a class="skip" href="#findings">Skip to the findings</a>',
        _header(content),
        "<main>",
        _findings(content),
        *(_section(section) for section in content.sections),
        _methods(content),
        "</main>",
        f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script>" if has_plots else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _header(content: PageContent) -> str:
    links = [("findings", "Findings"), *((s.anchor, s.heading) for s in content.sections), ("methods", "Methods")]
    nav = "".join(f'<li><a href="#{_text(a)}">{_text(h)}</a></li>' for a, h in links)
    facts = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in content.facts)
    return (
        f'<header><p class="kicker">{_text(content.subtitle)}</p><h1>{_text(content.title)}</h1>'
        f'<dl class="facts">{facts}</dl><nav aria-label="Sections"><ul>{nav}</ul></nav></header>'
    )


def _findings(content: PageContent) -> str:
    parts = [f'<section id="findings"><h2>Findings</h2><p class="lead">{_text(content.summary)}</p>']
    parts.append(_overview(content.overview))
    for block in content.findings:
        parts.append(f"<h3>{_text(block.heading)}</h3>")
        if block.intro:
            parts.append(f'<p class="note">{_text(block.intro)}</p>')
        parts.append(_finding_list(block.findings[: block.open]))
        if rest := block.findings[block.open :]:
            parts.append(f"<details><summary>{_text(block.rest)}</summary>{_finding_list(rest)}</details>")
    if content.caveats:
        items = "".join(f"<li>{_text(c)}</li>" for c in content.caveats)
        parts.append(f'<h3>Read this before quoting</h3><ul class="caveats">{items}</ul>')
    return "".join([*parts, "</section>"])


_OVERVIEW_COLUMNS = ("task", "source", "evaluated on", "grade", "does it help?", "where", "labels saved")


def _overview(rows: Iterable[OverviewRow]) -> str:
    """The answers of all sources in one table."""
    body = []
    for row in rows:
        where = f"{row.set}{'' if row.primary else ' (exploratory)'}"
        chips = map(_chips, (row.helps, row.where, row.labels))
        cells = [_text(row.task), _text(row.source), _text(where), _grade(row.grade), *chips]
        body.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not body:
        return ""
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in _OVERVIEW_COLUMNS)
    note = (
        "Grades: A five paired seeds, patients of another site, every gate passed; B without one of these; C a gate is "
        "open; F a leak. A hollow coloured answer is held back: it suggests, and does not state."
    )
    return (
        '<div class="scroll overview" tabindex="0" role="region" aria-label="Answers in short">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">{_text(note)}</p>'
    )


def _chips(chips: Iterable[Chip]) -> str:
    return "".join(
        f'<span class="chip"><span class="what">{_text(chip.label)}</span> '
        f'<span class="badge {_text(chip.tone)}{" held" if chip.held else ""}">{_text(chip.word)}</span></span>'
        for chip in chips
    )


def _grade(letter: str) -> str:
    return (
        f'<span class="grade g{_text(letter)}" title="grade of the evidence">{_text(letter)}</span>' if letter else ""
    )


def _finding_list(findings: Iterable[Finding]) -> str:
    items = []
    for finding in findings:
        detail = f'<span class="detail">{_unbroken(finding.detail)}</span>' if finding.detail else ""
        badge = f'<span class="badge {_text(finding.tone)}">{_text(finding.badge)}</span>'
        label = f'<span class="labels">{badge}{_grade(finding.grade)}</span>'
        items.append(f"<li>{label}<span>{_unbroken(finding.text)}{detail}</span></li>")
    return f'<ul class="findings">{"".join(items)}</ul>'


def _section(section: Section) -> str:
    parts = [f'<section id="{_text(section.anchor)}"><h2>{_text(section.heading)}</h2>']
    if section.intro:
        parts.append(f"<p>{_text(section.intro)}</p>")
    parts.extend(_figure(plot) for plot in section.plots)
    parts.extend(f"<h3>{_text(title)}</h3>{_table(table, title)}" for title, table in section.tables)
    parts.extend(
        f"<details><summary>{_text(title)} ({len(table)})</summary>{_table(table, title)}</details>"
        for title, table in section.folded
    )
    if not section.plots and not section.tables and not section.folded:
        parts.append(f'<p class="note">{_text(section.empty or "Nothing to show yet.")}</p>')
    return "".join([*parts, "</section>"])


def _figure(plot: AnyPlot) -> str:
    figure = draw(plot)
    # "<" would let a name in the data close the script element.
    spec = figure.to_json().replace("<", "\\u003c")
    height = int(figure.layout.height)
    return (
        f'<figure id="fig-{_text(plot.key)}"><h3>{_text(plot.title)}</h3>'
        f'<div class="scroll"><div class="plot" role="img" aria-label="{_text(plot.alt)}" '
        f'style="min-height:{height}px">'
        f'<script type="application/json">{spec}</script></div></div>'
        f"<figcaption>{_text(plot.caption)}</figcaption>"
        f"<details><summary>{_rows_text(plot.table)} behind this figure</summary>{_table(plot.table, plot.title)}"
        "</details></figure>"
    )


def _rows_text(table: pd.DataFrame) -> str:
    return f"Table of {len(table)} row{'s' if len(table) != 1 else ''}"


def _table(table: pd.DataFrame, title: str) -> str:
    """The table without what is the same in every row, which is said above it, and without columns for files only."""
    shown = table.head(TABLE_ROWS).drop(columns=[c for c in table.columns if c in _FILE_ONLY])
    same = {str(c): shown[c].iloc[0] for c in shown if len(shown) > 1 and shown[c].nunique(dropna=False) == 1}
    shown = shown.drop(columns=list(same))
    common = " · ".join(
        f"{_column_title(k)}: {text}" for k, v in same.items() if (text := _value(v, k)) not in ("", "–")
    )
    head = "".join(_heading(str(name), shown[name]) for name in shown.columns)
    columns = [[_cell(value, str(name)) for value in shown[name]] for name in shown.columns]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    more = (
        f"{len(table) - len(shown)} further rows are in the tables beside this page." if len(table) > len(shown) else ""
    )
    return (
        (f'<p class="note">{_text(common)}</p>' if common else "")
        + f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(title)}"><table>'
        + f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<p class="note">{more}</p>' if more else "")
    )


def _heading(name: str, column: pd.Series[Any]) -> str:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return f'<th scope="col"{" class=n" if numeric else ""}>{_text(_column_title(name))}</th>'


def _column_title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: object, column: str) -> str:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"<td{' class=n' if is_number else ''}>{_text(_value(value, column))}</td>"


def _value(value: object, column: str) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.number):
        return _number(float(value), column)
    return "–" if value is None or value is pd.NA or value is pd.NaT else str(value)


def _number(value: float, column: str) -> str:
    if not math.isfinite(value):
        return "–"
    if column in _P_COLUMNS:
        return "<0.001" if value < 0.001 else number(value, 3)
    if value == round(value) and abs(value) < 1e15:
        return count(value) if abs(value) >= 1 else "0"
    return number(value, 4) if abs(value) < 10 else number(value, 1)


def _methods(content: PageContent) -> str:
    paragraphs = "".join(f"<p>{_text(p)}</p>" for p in content.methods)
    rows = "".join(f'<tr><th scope="row">{_text(k)}</th><td>{_text(v)}</td></tr>' for k, v in content.provenance)
    table = f"<h3>Provenance</h3><div class='scroll'><table>{rows}</table></div>" if rows else ""
    return f'<section id="methods"><h2>Methods</h2>{paragraphs}{table}</section>'


def _unbroken(sentence: str) -> str:
    """Escaped text whose numbers stay with their units and relations at the end of a line."""
    joined = re.sub(r"(?<=\d) (?=%|seed|patient|cell)|(?<=\bp) (?=[=<>])|(?<=[=<>]) (?=\d)", "\u00a0", sentence)
    return _text(joined)


def _text(value: str) -> str:
    return html.escape(value, quote=True)


_CSS = f"""
:root {{ color-scheme: light; --ink: {INK}; --muted: {MUTED}; --line: #dadce0; --accent: #0b5394; }}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 {FONT_STACK}; }}
header, main {{ max-width: 1180px; margin: 0 auto; padding: 0 24px; }}
header {{ padding-top: 40px; }}
.kicker {{ margin: 0; color: var(--muted); font-size: 14px; }}
h1 {{ margin: 4px 0 20px; font-size: 34px; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }}
h2 {{ margin: 56px 0 12px; padding-top: 16px; border-top: 1px solid var(--line); font-size: 24px; line-height: 1.3; }}
h3 {{ margin: 32px 0 8px; font-size: 17px; line-height: 1.4; }}
p {{ max-width: 76ch; margin: 8px 0 14px; }}
a {{ color: var(--accent); }}
.lead {{ font-size: 19px; line-height: 1.5; }}
.note, figcaption {{ color: var(--muted); font-size: 14px; line-height: 1.5; max-width: 92ch; }}
.facts {{ display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 0 0 20px; }}
.facts dt {{ color: var(--muted); font-size: 13px; }}
.facts dd {{ margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0; padding: 0; list-style: none; font-size: 15px; }}
.findings {{ margin: 8px 0; padding: 0; list-style: none; }}
.findings li {{ display: grid; grid-template-columns: 190px 1fr; gap: 4px 16px; align-items: baseline;
  padding: 8px 0; border-bottom: 1px solid #eef0f2; font-variant-numeric: tabular-nums; }}
.badge {{ justify-self: start; padding: 1px 10px; border-radius: 4px; font-size: 13.5px; font-weight: 600; }}
.badge.good {{ background: #d9eee5; color: #00533c; }}
.badge.bad {{ background: #fbe0d3; color: #7d3400; }}
.badge.even {{ background: #dfeaf4; color: #003e63; }}
.badge.open {{ background: #fff; color: #454a4f; box-shadow: inset 0 0 0 1px #80868b; }}
.badge.held {{ background: #fff; }}
.badge.good.held {{ box-shadow: inset 0 0 0 1.5px #00734f; }}
.badge.bad.held {{ box-shadow: inset 0 0 0 1.5px #a34400; }}
.badge.even.held {{ box-shadow: inset 0 0 0 1.5px #00558a; }}
.labels {{ display: flex; flex-wrap: wrap; gap: 4px 6px; align-items: baseline; }}
.grade {{ display: inline-block; min-width: 22px; padding: 1px 6px; border-radius: 4px; font-size: 13px;
  font-weight: 700; text-align: center; color: #fff; background: #5f6368; }}
.grade.gA {{ background: #00734f; }}
.grade.gB {{ background: #00558a; }}
.grade.gF {{ background: #a34400; }}
.overview td {{ white-space: normal; }}
.overview td:first-child, .overview td:nth-child(2) {{ white-space: nowrap; font-weight: 600; }}
.chip {{ display: inline-block; margin: 1px 10px 1px 0; }}
.chip .badge {{ white-space: nowrap; }}
.chip .what {{ color: var(--muted); font-size: 13px; }}
.detail {{ display: block; color: var(--muted); font-size: 14px; }}
.caveats li {{ max-width: 88ch; margin: 4px 0; }}
figure {{ margin: 28px 0 40px; }}
figure h3 {{ margin-top: 0; }}
.plot {{ min-width: 660px; }}
.scroll {{ overflow-x: auto; }}
details {{ margin: 8px 0; }}
summary {{ cursor: pointer; color: var(--accent); font-size: 15px; }}
details .scroll {{ max-height: 480px; overflow: auto; border: 1px solid var(--line); margin-top: 8px; }}
table {{ border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 12px; text-align: left; vertical-align: top; border-bottom: 1px solid #eef0f2; }}
td {{ white-space: nowrap; }}
thead th {{ position: sticky; top: 0; background: #f6f7f8; font-weight: 600; white-space: nowrap; }}
th.n, td.n {{ text-align: right; }}
#methods td {{ white-space: normal; overflow-wrap: anywhere; }}
.skip {{ position: absolute; left: -9999px; }}
.skip:focus {{ left: 16px; top: 8px; background: #fff; padding: 4px 8px; }}
a:focus-visible, summary:focus-visible, .scroll:focus-visible {{ outline: 3px solid #0b5394; outline-offset: 2px; }}
main > section:last-child {{ padding-bottom: 64px; }}
@media (max-width: 640px) {{
  header, main {{ padding-left: 16px; padding-right: 16px; }}
  h1 {{ font-size: 27px; }}
  .findings li {{ grid-template-columns: 1fr; }}
}}
@media (prefers-reduced-motion: reduce) {{ html {{ scroll-behavior: auto; }} }}
@media print {{
  nav, .skip, summary {{ display: none; }}
  header, main {{ max-width: none; padding: 0; }}
  body {{ font-size: 11pt; }}
  figure, .findings li {{ break-inside: avoid; }}
  .plot {{ min-width: 0; }}
  h2, h3 {{ break-after: avoid; }}
}}
"""

_SCRIPT = """
(() => {
  const config = {responsive: true, displaylogo: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};
  const draw = node => {
    const source = node.querySelector("script");
    if (!source) return;
    const spec = JSON.parse(source.textContent);
    source.remove();
    Plotly.newPlot(node, spec.data, spec.layout, config);
  };
  const plots = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver(entries => entries.filter(e => e.isIntersecting).forEach(e => {
    watch.unobserve(e.target);
    draw(e.target);
  }), {rootMargin: "1200px 0px"});
  plots.forEach(node => watch.observe(node));
  addEventListener("beforeprint", () => {
    plots.forEach(draw);
    plots.forEach(node => Plotly.relayout(node, {width: 690}));
  });
  addEventListener("afterprint", () => plots.forEach(node => Plotly.relayout(node, {width: null, autosize: true})));
})();
"""
