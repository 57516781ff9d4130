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
from collections.abc import Callable, Sequence
from typing import Any

from engine.errors import DynoError
from engine.measurements import BenchRow

FORMATS = ("table", "json", "jsonl", "csv", "md", "sql", "html")
SQL_TABLE = "gpt_dyno_bench"
FIELDS = dataclasses.fields(BenchRow)


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
            self._out(json.dumps(_finite(row.to_json())) + "\n")
        elif self._output == "csv":
            self._out((to_csv_line([f.name for f in FIELDS]) if first else "") + to_csv_line(_plain(row)))
        elif self._output == "sql":
            self._out((sql_schema() if first else "") + _sql_insert(row))

    def end(self) -> None:
        """There are no more rows."""
        if self._output == "json":
            self._out(json.dumps([_finite(row.to_json()) for row in self._rows], indent=2) + "\n")
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
            for value in _finite(row.to_json()).values()]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()}


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
    for value in _finite(row.to_json()).values():
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
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(beneath) + "\n" if beneath else "")


def grid(rows: Sequence[BenchRow]) -> tuple[list[dataclasses.Field[Any]], list[list[str]]]:
    """The fields marked for tables that some row has, and each row's cells under them."""
    shown = [f for f in FIELDS if f.metadata["table"] and any(_cell(row, f) for row in rows)]
    return shown, [[_cell(row, f) for f in shown] for row in rows]


def notes(rows: Sequence[BenchRow]) -> list[str]:
    """Lines beneath a table of one row or more: model and machine, failures, disturbances."""
    return _notes(rows)


def _notes(rows: Sequence[BenchRow]) -> list[str]:
    row = rows[0]
    commit = f", commit {row.build_commit}" if row.build_commit else ""
    threads = sorted({str(r.n_threads) for r in rows if r.n_threads})
    notes = [f"{row.model_filename} on {row.gpu_info or row.cpu_info} ({row.backends}), threads {'/'.join(threads)}, "
             f"torch {row.torch_version}{commit}"] if row.model_filename else []
    notes += [f"{row.recipe}, {row.test}: {row.error} {row.hint}".rstrip() for row in rows if row.error]
    restless = [f"{row.recipe} {row.test}" for row in rows if row.steady is False]
    if restless:
        notes.append(f"The warm-up did not settle within 5 %: {', '.join(restless)}.")
    return notes + _disturbances(rows)


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
