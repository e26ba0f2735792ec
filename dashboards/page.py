"""One HTML file with everything in it: findings, figures, the table behind each, methods and provenance.

The page asks nothing of the network and nothing of the browser's storage, so that it works from a disk, from an e-mail
and in the sandboxed frame of the MLflow UI. Everything a user named is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from plotly.offline import get_plotlyjs

from dashboards.figures import draw
from dashboards.page_assets import CSS, SCRIPT
from dashboards.page_tables import html_table, rows_text
from dashboards.page_text import escaped, unbroken
from dashboards.plots import AnyPlot


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
        f"<title>{escaped(content.title)}</title>",
        f"<style>{CSS}</style></head><body>",
        '<a class="skip" href="#findings">Skip to the findings</a>',
        _header(content),
        "<main>",
        _findings(content),
        *(_section(section) for section in content.sections),
        _methods(content),
        "</main>",
        f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script>" if has_plots else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _header(content: PageContent) -> str:
    links = [("findings", "Findings"), *((s.anchor, s.heading) for s in content.sections), ("methods", "Methods")]
    nav = "".join(f'<li><a href="#{escaped(a)}">{escaped(h)}</a></li>' for a, h in links)
    facts = "".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in content.facts)
    return (
        f'<header><p class="kicker">{escaped(content.subtitle)}</p><h1>{escaped(content.title)}</h1>'
        f'<dl class="facts">{facts}</dl><nav aria-label="Sections"><ul>{nav}</ul></nav></header>'
    )


def _findings(content: PageContent) -> str:
    parts = [f'<section id="findings"><h2>Findings</h2><p class="lead">{escaped(content.summary)}</p>']
    parts.append(_overview(content.overview))
    for block in content.findings:
        parts.append(f"<h3>{escaped(block.heading)}</h3>")
        if block.intro:
            parts.append(f'<p class="note">{escaped(block.intro)}</p>')
        parts.append(_finding_list(block.findings[: block.open]))
        if rest := block.findings[block.open :]:
            parts.append(f"<details><summary>{escaped(block.rest)}</summary>{_finding_list(rest)}</details>")
    if content.caveats:
        items = "".join(f"<li>{escaped(c)}</li>" for c in content.caveats)
        parts.append(f'<h3>Read this before quoting</h3><ul class="caveats">{items}</ul>')
    return "".join([*parts, "</section>"])


_OVERVIEW_COLUMNS = ("task", "source", "evaluated on", "grade", "does it help?", "where", "labels saved")


def _overview(rows: Iterable[OverviewRow]) -> str:
    """The answers of all sources in one table."""
    body = []
    for row in rows:
        where = f"{row.set}{'' if row.primary else ' (exploratory)'}"
        chips = map(_chips, (row.helps, row.where, row.labels))
        cells = [escaped(row.task), escaped(row.source), escaped(where), _grade(row.grade), *chips]
        body.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in _OVERVIEW_COLUMNS)
    note = (
        "Grades: A five paired seeds, patients of another site, every gate passed; B without one of these; C a gate is "
        "open; F a leak. A hollow coloured answer is held back: it suggests, and does not state."
    )
    return (
        '<div class="scroll overview" tabindex="0" role="region" aria-label="Answers in short">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">{escaped(note)}</p>'
    )


MOST_CHIPS = 4
"""Answers of a cell that are shown one by one."""


def together(chips: Sequence[Chip]) -> tuple[Chip, ...]:
    """Many answers of one cell, those of the same word as one chip that names them all, in the order of the first."""
    if len(chips) <= MOST_CHIPS:
        return tuple(chips)
    labels: dict[Chip, list[str]] = {}
    for chip in chips:
        labels.setdefault(replace(chip, label=""), []).append(chip.label)
    if len(labels) == 1:
        return (replace(chips[0], label=f"all {len(chips)}"),)
    return tuple(replace(chip, label=", ".join(named)) for chip, named in labels.items())


def _chips(chips: Sequence[Chip]) -> str:
    return "".join(
        f'<span class="chip"><span class="what">{escaped(chip.label)}</span> '
        f'<span class="badge {escaped(chip.tone)}{" held" if chip.held else ""}">{escaped(chip.word)}</span></span>'
        for chip in together(chips)
    )


def _grade(letter: str) -> str:
    if not letter:
        return ""
    return f'<span class="grade g{escaped(letter)}" title="grade of the evidence">{escaped(letter)}</span>'


def _finding_list(findings: Iterable[Finding]) -> str:
    items = []
    for finding in findings:
        detail = f'<span class="detail">{unbroken(finding.detail)}</span>' if finding.detail else ""
        badge = f'<span class="badge {escaped(finding.tone)}">{escaped(finding.badge)}</span>'
        label = f'<span class="labels">{badge}{_grade(finding.grade)}</span>'
        items.append(f"<li>{label}<span>{unbroken(finding.text)}{detail}</span></li>")
    return f'<ul class="findings">{"".join(items)}</ul>'


def _section(section: Section) -> str:
    parts = [f'<section id="{escaped(section.anchor)}"><h2>{escaped(section.heading)}</h2>']
    if section.intro:
        parts.append(f"<p>{escaped(section.intro)}</p>")
    parts.extend(_figure(plot) for plot in section.plots)
    parts.extend(f"<h3>{escaped(title)}</h3>{html_table(table, title)}" for title, table in section.tables)
    parts.extend(
        f"<details><summary>{escaped(title)} ({len(table)})</summary>{html_table(table, title)}</details>"
        for title, table in section.folded
    )
    if not section.plots and not section.tables and not section.folded:
        parts.append(f'<p class="note">{escaped(section.empty or "Nothing to show yet.")}</p>')
    return "".join([*parts, "</section>"])


def _figure(plot: AnyPlot) -> str:
    figure = draw(plot)
    # "<" would let a name in the data close the script element.
    spec = figure.to_json().replace("<", "\\u003c")
    height = int(figure.layout.height)
    return (
        f'<figure id="fig-{escaped(plot.key)}"><h3>{escaped(plot.title)}</h3>'
        f'<div class="scroll"><div class="plot" role="img" aria-label="{escaped(plot.alt)}" '
        f'style="min-height:{height}px">'
        f'<script type="application/json">{spec}</script></div></div>'
        f"<figcaption>{escaped(plot.caption)}</figcaption>"
        f"<details><summary>{rows_text(plot.table)} behind this figure</summary>{html_table(plot.table, plot.title)}"
        "</details></figure>"
    )


def _methods(content: PageContent) -> str:
    paragraphs = "".join(f"<p>{escaped(p)}</p>" for p in content.methods)
    rows = "".join(f'<tr><th scope="row">{escaped(k)}</th><td>{escaped(v)}</td></tr>' for k, v in content.provenance)
    table = f"<h3>Provenance</h3><div class='scroll'><table>{rows}</table></div>" if rows else ""
    return f'<section id="methods"><h2>Methods</h2>{paragraphs}{table}</section>'
