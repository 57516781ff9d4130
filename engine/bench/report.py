"""A benchmark as one HTML file that needs nothing else: its table, its charts, and every sample behind them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from engine.bench import charts, results
from engine.measurements import BenchRow

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1b1f24}
div.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;border-bottom:1px solid #dfe3e8;text-align:right;white-space:nowrap}
th{color:#5d6673;font-weight:600}.word{text-align:left}svg{max-width:100%;height:auto}"""


def to_html(rows: Sequence[BenchRow], title: str = "GPT Dyno benchmark") -> str:
    """The page. Rows of one run; it names model, machine, versions and what failed or disturbed."""
    found = [_figure("Speed against quality", charts.scatter(rows, 900, 460), "Bars around a dot: the sample standard "
                     "deviation of the runs, and the standard error of perplexity. Filled: on the Pareto front, by the "
                     "means.")] if charts.dots(rows) else []
    lanes = len({row.lane for row in rows})
    if charts.speed_tests(rows):
        found += [_figure(f"Speed, {test}", charts.speed_bars(rows, 900, 40 + 32 * lanes, test=test))
                  for test in charts.speed_tests(rows)]
    if any(row.weight_bytes for row in rows):
        found.append(_figure("Memory", charts.memory_bars(rows, 900, 40 + 32 * lanes)))
    shown, lines = results.grid(rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in results.notes(rows)) if rows else ""
    again = results.command_line(rows)
    notes += f"<li>To measure it again: <code>{escape(again)}</code></li>" if again else ""
    samples = [(row.recipe, row.test, ", ".join(results.figures(v) for v in row.samples_ts))
               for row in rows if row.samples_ts]
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
            f"<style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
            f"{_table([(f.metadata['heading'], f.type == 'str') for f in shown], lines)}\n<ul>{notes}</ul>\n"
            + "\n".join(found) + "\n<details><summary>Every sample, tok/s</summary>\n"
            + _table([("recipe", True), ("test", True), ("samples", True)], samples) + "</details>\n</body></html>\n")


def _figure(title: str, chart: charts.Chart, note: str = "") -> str:
    return f"<h2>{escape(title)}</h2>\n<figure>{chart.svg}<figcaption>{escape(note)}</figcaption></figure>"


def _table(heads: Sequence[tuple[str, bool]], lines: Sequence[Sequence[str]]) -> str:
    kinds = [' class="word"' if word else "" for _, word in heads]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, (name, _) in zip(kinds, heads, strict=True))
    body = "\n".join("<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True))
                     + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
