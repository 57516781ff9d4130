"""Rows as text: table, json, jsonl, csv, md, sql and html, all from the fields of BenchRow.

A writer takes rows as they come: line formats print at once, the table and json at the end, when widths and brackets
are known. It knows neither a terminal nor a file.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from engine.errors import DynoError
from engine.measurements import BenchRow

FORMATS = ("table", "json", "jsonl", "csv", "md", "sql", "html")
SQL_TABLE = "gpt_dyno_bench"
FIELDS = dataclasses.fields(BenchRow)
INTERVALS = ("Ratios are to the first recipe's same test, with 95 % intervals; a verdict names a winner only where the "
             "99 % interval excludes 1.")


class Writer:
    """Prints rows in one of FORMATS through `out`. Raises DynoError for another format."""

    def __init__(self, output: str, out: Callable[[str], object]) -> None:
        if output not in FORMATS:
            raise DynoError(f"There is no output {output!r}.", f"Choose one of {', '.join(FORMATS)}.")
        self._output, self._out = output, out
        self._rows: list[BenchRow] = []

    def add(self, row: BenchRow) -> None:
        """A row is finished."""
        first = not self._rows
        self._rows.append(row)
        if self._output == "jsonl":
            self._out(json.dumps(finite(row.to_json())) + "\n")
        elif self._output == "csv":
            self._out((to_csv_line([f.name for f in FIELDS]) if first else "") + to_csv_line(_plain(row)))
        elif self._output == "sql":
            self._out((sql_schema() if first else "") + _sql_insert(row))

    def end(self) -> None:
        """There are no more rows."""
        if self._output == "json":
            self._out(json.dumps([finite(row.to_json()) for row in self._rows], indent=2) + "\n")
        elif self._output == "table":
            self._out(table(self._rows))
        elif self._output == "md":
            self._out(table(self._rows, markdown=True))
        elif self._output == "html":
            from engine.bench.report import to_html  # the report is made of these tables

            self._out(to_html(self._rows))


def render(rows: Sequence[BenchRow], output: str) -> str:
    """All rows at once, as the command line prints them."""
    pieces: list[str] = []
    writer = Writer(output, pieces.append)
    for row in rows:
        writer.add(row)
    writer.end()
    return "".join(pieces)


# ------------------------------------------------------------------------------------------------------- for programs


def to_csv_line(values: Sequence[Any]) -> str:
    """One line, quoted where it must be; lists are JSON."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _plain(row: BenchRow) -> list[Any]:
    return [json.dumps(value) if isinstance(value, list) else "" if value is None else value
            for value in finite(row.to_json()).values()]


def finite(values: Any) -> Any:
    """JSON has no NaN and no infinity: they become null, at any depth of dictionaries."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def sql_schema() -> str:
    """CREATE TABLE, with a column for each field."""
    columns = ",\n".join(f"  {f.name} {_sql_type(str(f.type))}" for f in FIELDS)
    return f"CREATE TABLE IF NOT EXISTS {SQL_TABLE} (\n{columns}\n);\n\n"


def _sql_type(annotation: str) -> str:
    if annotation.startswith(("int", "bool")):
        return "INTEGER"
    return "REAL" if annotation.startswith("float") else "TEXT"


def _sql_insert(row: BenchRow) -> str:
    values = []
    for value in finite(row.to_json()).values():
        if value is None:
            values.append("NULL")
        elif isinstance(value, bool):
            values.append(str(int(value)))
        elif isinstance(value, (int, float)):
            values.append(repr(value))
        else:
            text = json.dumps(value) if isinstance(value, list) else str(value)
            values.append("'" + text.replace("'", "''") + "'")
    names = ", ".join(f.name for f in FIELDS)
    return f"INSERT INTO {SQL_TABLE} ({names}) VALUES ({', '.join(values)});\n"


# --------------------------------------------------------------------------------------------------------- for people


def table(rows: Sequence[BenchRow], markdown: bool = False) -> str:
    """The fields marked for tables that some row has, each row a line; failures and disturbances beneath."""
    if not rows:
        return "Nothing was measured.\n"
    shown, cells = grid(rows)
    written = [[f.metadata["heading"] for f in shown], *cells]
    if markdown:
        words = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in written]
        rule = "|" + "|".join(" --- " if f.type == "str" else " ---: " for f in shown) + "|"
        lines = [words[0], rule, *words[1:]]
    else:
        widths = [max(len(line[i]) for line in written) for i in range(len(shown))]
        lines = ["  ".join(cell.ljust(width) if f.type == "str" else cell.rjust(width)
                           for cell, width, f in zip(line, widths, shown, strict=True)).rstrip() for line in written]
    beneath = notes(rows)
    if markdown and command_line(rows):
        beneath = [*(f"- {note}" for note in beneath), f"- To measure it again: `{command_line(rows)}`"]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(beneath) + "\n" if beneath else "")


def grid(rows: Sequence[BenchRow]) -> tuple[list[dataclasses.Field[Any]], list[list[str]]]:
    """The fields marked for tables that some row has, and each row's cells under them."""
    shown = [f for f in FIELDS if f.metadata["table"] and any(_cell(row, f) for row in rows)]
    return shown, [[_cell(row, f) for f in shown] for row in rows]


def command_line(rows: Sequence[BenchRow]) -> str:
    """What measures the rows of one run again, as a shell takes it; "" for those of versions that did not say enough.
    The model and a text are named as the rows have them, without their folders."""
    if not rows or any(not row.recipe_argument for row in rows):
        return ""
    words = ["main.py", "compare" if rows[0].interleaved else "bench", "--model", rows[0].model_filename]
    for argument in {row.lane: row.recipe_argument for row in rows}.values():
        words += ["--recipe", argument]
    speed = [found for row in rows if (found := re.fullmatch(r"(pp|tg)(\d+)(?: @ d(\d+))?", row.test))]
    for kind in ("pp", "tg"):
        words += [f"--{kind}", ",".join(dict.fromkeys(m[2] for m in speed if m[1] == kind)) or "0"]
    depths = ",".join(dict.fromkeys(m[3] or "0" for m in speed))
    words += ["--depth", depths] if depths not in ("", "0") else []
    runs = [row for row in rows if row.repetitions]
    words += ["--repetitions", str(min(r.repetitions or 1 for r in runs)), "--min-time", "0"] if runs else []
    for row in [row for row in rows if row.text][:1]:
        words += ["--text", row.text, "--context", str(row.n_ctx), "--chunks", str(row.chunks)]
        words += ["--stride", str(row.stride)] if row.stride else []
    return shlex.join([*words, "--seed", str(rows[0].seed or 0)])


def notes(rows: Sequence[BenchRow]) -> list[str]:
    """Lines beneath a table of one row or more: model and machine, what a ratio means, failures, disturbances."""
    row = rows[0]
    parts = [f"{row.model_filename} on {row.gpu_info or row.cpu_info} ({row.backends})",
             _named("threads", [str(r.n_threads or "") for r in rows]),
             _named("torch", [r.torch_version for r in rows]),
             _named("commit", [r.build_commit for r in rows])]
    notes = [", ".join(part for part in parts if part)] if row.model_filename else []
    notes += [f"The rows were measured with different versions ({name}): their differences are not the recipes' alone."
              for name in ("torch_version", "build_commit") if len({getattr(r, name) for r in rows}) > 1]
    if any(r.ratio for r in rows):
        notes.append(INTERVALS)
    failed: dict[tuple[int, str], list[BenchRow]] = {}
    for one in rows:
        if one.error:
            failed.setdefault((one.lane, f"{one.error} {one.hint}".rstrip()), []).append(one)
    notes += [f"{alike[0].recipe}, {', '.join(one.test for one in alike)}: {why}" for (_, why), alike in failed.items()]
    restless = [f"{row.recipe} {row.test}" for row in rows if row.steady is False]
    if restless:
        notes.append(f"The warm-up did not settle within 5 %: {', '.join(restless)}.")
    return notes + _disturbances(rows)


def _named(name: str, values: Sequence[str]) -> str:
    """"threads 1/2", "" where nothing is known."""
    known = sorted({value for value in values if value})
    return f"{name} {'/'.join(known)}" if known else ""


def _disturbances(rows: Sequence[BenchRow]) -> list[str]:
    """One line for what disturbed many rows alike."""
    busy = [row.other_cpu_percent for row in rows if row.other_cpu_percent is not None and "busy: " in row.conditions]
    notes = []
    if busy:
        notes.append(f"The machine was busy: other programs used {min(busy):.0f} to {max(busy):.0f} % of the processor "
                     f"during {len(busy)} of {len(rows)} rows.")
    others: dict[str, int] = {}
    for row in rows:
        for note in row.conditions.split("; "):
            if note not in ("", "quiet") and not note.startswith("busy: "):
                others[note] = others.get(note, 0) + 1
    return notes + [f"{note} ({count} of {len(rows)} rows)" for note, count in others.items()]


def _cell(row: BenchRow, field: dataclasses.Field[Any]) -> str:
    value, unit = getattr(row, field.name), field.metadata["unit"]
    if value is None or value == "" or value == ():
        return "failed" if field.name == "verdict" and row.error else ""
    if unit == "B":
        return size(value)
    if unit == "s":
        return seconds(value)
    return figures(value) if isinstance(value, float) else str(value)


def figures(value: float) -> str:
    """Four figures or more, without an exponent where a person can do without: 1234.5, 85.21, 0.0123, 0."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "n/a"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{min(8, max(1, 3 - magnitude))}f}" if magnitude >= -6 else f"{value:.1e}"


def size(nbytes: float) -> str:
    """12.3 MB, 1.23 GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def seconds(value: float) -> str:
    """1.23 s, 45.6 ms, 789 µs."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"
