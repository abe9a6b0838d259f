"""The style sheet of the report: one column on a phone, at most 1120 px on a desk, printable."""

CSS = """
:root { --ink: #1d232b; --muted: #5f6b7a; --line: #e4e8ed; --soft: #f6f8fa; --accent: #1f5fbf;
  --good: #14804a; --bad: #c62828; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main, header > div, nav > div { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { background: linear-gradient(160deg, #14294a, #1f5fbf); color: #fff; padding: 34px 0 30px; }
header h1 { margin: 0 0 4px; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; }
header p { margin: 0; opacity: .88; max-width: 62em; }
.cards { display: grid; gap: 12px; margin-top: 22px;
  grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); }
.card { background: rgba(255, 255, 255, .11); border: 1px solid rgba(255, 255, 255, .2);
  border-radius: 10px; padding: 10px 14px; }
.card b { display: block; font-size: 1.85rem; line-height: 1.2; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.card span { font-size: .84rem; opacity: .88; }
nav { border-bottom: 1px solid var(--line); background: #fff; }
nav > div { display: flex; gap: 4px 20px; flex-wrap: wrap; padding-top: 10px;
  padding-bottom: 10px; }
nav a { color: var(--muted); text-decoration: none; font-size: .92rem; }
nav a:hover { color: var(--accent); }
section { margin: 38px 0; }
h2 { font-size: 1.3rem; margin: 0 0 6px; line-height: 1.3; }
h3 { font-size: 1.03rem; margin: 26px 0 6px; }
p { margin: 6px 0 12px; max-width: 75em; }
.muted, .note, figcaption { color: var(--muted); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 10px 0 6px; font-size: .95rem; }
th, td { padding: 8px 10px; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; vertical-align: top; }
th { font-weight: 600; color: var(--muted); font-size: .87rem; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; }
tr.first td { background: #eef4fd; }
td.best { font-weight: 700; color: var(--accent); }
td .why { display: block; color: var(--muted); font-size: .85rem; font-weight: 400;
  min-width: 15em; }
ul { padding-left: 1.2em; margin: 8px 0; }
li { margin: 5px 0; max-width: 75em; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 8px; }
figure.chart img, .columns img, .wide img { border-radius: 0; }
figure.chart img { min-width: 620px; }
.grid { columns: 430px; column-gap: 24px; margin-top: 12px; }
.grid figure { break-inside: avoid; padding-bottom: 22px; }
.wide { display: grid; gap: 30px; margin-top: 12px; }
.wide img { width: auto; max-width: 100%; }
figcaption { margin-top: 6px; overflow-wrap: anywhere; }
.columns { display: grid; gap: 10px 36px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.bar { display: block; height: 10px; border-radius: 5px; background: var(--accent);
  min-width: 2px; }
td.bars { width: 45%; vertical-align: middle; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; overflow-x: auto; font-size: .86rem; line-height: 1.6; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code, pre, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
.mono { font-size: .84rem; overflow-wrap: anywhere; }
.key { display: inline-block; padding: 0 7px; border-radius: 4px; color: #fff; font-size: .85rem; }
.key.good { background: var(--good); } .key.bad { background: var(--bad); }
.warning { border-left: 4px solid #e08a00; background: #fff7e8; padding: 10px 14px;
  border-radius: 0 8px 8px 0; margin: 14px 0; }
footer { border-top: 1px solid var(--line); color: var(--muted); font-size: .88rem;
  margin-top: 50px; padding: 18px 0 40px; }
@media (max-width: 600px) { th, td { padding: 7px 6px; font-size: .86rem; }
  section { margin: 30px 0; }
  main, header > div, nav > div { padding: 0 14px; } .card b { font-size: 1.5rem; } }
@media print { nav { display: none; } section { break-inside: avoid; } }
""".strip()
