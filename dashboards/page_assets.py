"""Style and script of the page, which are part of it: it asks nothing of the network."""

from __future__ import annotations

from dashboards.style import FONT_STACK, INK, MUTED

CSS = f"""
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
.chip .badge {{ display: inline-block; }}
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

SCRIPT = """
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
