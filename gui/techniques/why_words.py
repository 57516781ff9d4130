"""What a SpeedReport says, in words: for the window and for the clipboard. No widgets here."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication

from engine.messages import SpeedReport
from engine.units import rate
from gui.widgets.labels import engine_text
from gui.widgets.words import NBSP, percent_text, precise_text, size_text


def headline(report: SpeedReport) -> str:
    """Speed and time of a token: "87.3 tok/s, 11.5 ms per token"."""
    return _tr("{rate}, {time} per token").format(rate=_kept(rate(report.tokens_per_s)),
                                                  time=precise_text(report.token_s))


def floor_line(report: SpeedReport) -> str:
    """How far that is from what memory allows."""
    if report.floor_s <= 0:
        return ""
    words = (_tr("{ratio} times the {floor} that reading its bytes from memory takes; they fit into the cache")
             if report.fits_cache
             else _tr("{ratio} times the floor of {floor}, which reading its bytes takes at the least"))
    return words.format(
        ratio=f"{report.token_s / report.floor_s:.1f}", floor=precise_text(report.floor_s))


def share_lines(report: SpeedReport) -> list[tuple[str, float, float, str]]:
    """(part, where it begins, how long it is, words) of each part of the token's time; the first two as shares."""
    lines, begun_s = [], 0.0
    total_s = report.token_s or 1.0
    for part in report.shares:
        words = f"{precise_text(part.seconds)} · {percent_text(part.seconds / total_s)}"
        if part.calls:
            words += " · " + _tr("{count} calls").format(count=f"{part.calls:,}").replace(" ", NBSP)
        name = engine_text(part.part)
        lines.append((name[:1].upper() + name[1:], begun_s / total_s, part.seconds / total_s, words))
        begun_s += part.seconds
    return lines


def floor_mark(report: SpeedReport) -> str:
    """What the line across the bars is; empty where there is none, as the floor lies beyond them."""
    return _tr("The dashed line is the floor.") if 0 < report.floor_s <= report.token_s else ""


def facts(report: SpeedReport, model: str) -> list[tuple[str, str]]:
    """(name, value) of what the figures rest on."""
    read = _tr("{weights} of weights, {cache} of cache after {count} tokens").format(
        weights=size_text(report.weight_bytes), cache=size_text(report.cache_bytes), count=f"{report.context:,}")
    bandwidth = _tr("{rate} per second, measured by reading").format(rate=size_text(report.bandwidth))
    return [(_tr("Read per token"), read), (_tr("Memory"), bandwidth), (_tr("Threads"), f"{report.threads}"),
            (_tr("Recipe"), report.recipe), (_tr("Model"), model)]


def operator_rows(report: SpeedReport) -> list[tuple[str, str, str, str]]:
    """(operator, time, share, calls) of those that took most, each per token. A profiled token takes longer than a
    timed one: where the operators alone exceed that, their shares are those of the profiled time."""
    total_s = max(report.token_s, _profiled_s(report)) or 1.0
    return [(name, precise_text(seconds), percent_text(seconds / total_s), f"{calls:,}")
            for name, seconds, calls in report.operators]


def operator_note(report: SpeedReport) -> str:
    """Why the operators' times do not fit into the token's, empty where they do."""
    profiled_s = _profiled_s(report)
    if profiled_s <= report.token_s:
        return ""
    return _tr("Profiling makes a token slower: {time} for these operators. The shares are those of that time.").format(
        time=precise_text(profiled_s))


def operator_titles() -> tuple[str, str, str, str]:
    """The heads of the columns of operator_rows()."""
    return _tr("Operator"), _tr("Time"), _tr("Share"), _tr("Calls")


def as_text(report: SpeedReport, model: str) -> str:
    """Everything, as plain text."""
    lines = [_tr("Why isn't it faster?"), f"{headline(report)}; {floor_line(report)}".rstrip("; "), ""]
    lines += [f"{name}: {words}" for name, _, _, words in share_lines(report)]
    lines += ["", *(f"- {engine_text(finding)}" for finding in report.findings), ""]
    lines += [f"{name}: {value}" for name, value in facts(report, model)]
    lines += ["", "\t".join(operator_titles()), *("\t".join(row) for row in operator_rows(report))]
    note = operator_note(report)
    lines += [note] if note else []
    return "\n".join(lines).replace(NBSP, " ") + "\n"


def _profiled_s(report: SpeedReport) -> float:
    return sum(seconds for _, seconds, _ in report.operators)


def _kept(text: str) -> str:
    return text.replace(" ", NBSP)


def _tr(text: str) -> str:
    return QCoreApplication.translate("Why", text)
