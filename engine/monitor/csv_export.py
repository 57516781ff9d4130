"""Series and markers as one table a spreadsheet or pandas opens without help."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from engine.monitor.ring import FloatArray
from engine.monitor.series import Marker, SeriesInfo


def to_csv(
    infos: Sequence[SeriesInfo], points: Sequence[tuple[FloatArray, FloatArray]], markers: Sequence[Marker]
) -> str:
    """One row per moment, in seconds since the first row; one column per series; markers last.

    points: per series, times (s) and values, each (n,). A tick's points share one time, so ticks make the rows; a
    recorded point or a marker between ticks gets a row of its own, unless the times agree to the millisecond.
    Gaps and series not read at that moment are empty cells. Headers read "gpu0_power [W]"; two markers at one moment
    are joined by "; ".
    """
    rows: dict[float, list[str]] = {}
    blank = [""] * (len(infos) + 1)
    for column, (times_s, values) in enumerate(points):
        for t_s, value in zip(times_s.tolist(), values.tolist(), strict=True):
            rows.setdefault(round(t_s, 3), blank.copy())[column] = _number(value)
    for marker in markers:
        row = rows.setdefault(round(marker.t_s, 3), blank.copy())
        row[-1] = f"{row[-1]}; {marker.label}" if row[-1] else marker.label
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headers = [f"{info.key} [{info.unit}]" if info.unit else info.key for info in infos]
    writer.writerow(["time [s]", *headers, "markers"])
    start_s = min(rows, default=0.0)
    for t_s in sorted(rows):
        writer.writerow([f"{t_s - start_s:.3f}", *rows[t_s]])
    return text.getvalue()


def _number(value: float) -> str:
    """Plain decimals, never scientific notation; empty for NaN and infinities."""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else f"{value:.4f}"
