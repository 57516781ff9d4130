"""The rows of a run: those that are measured, the one under way, those that wait."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.bench.results import figures
from engine.measurements import BenchPlan, BenchRow
from engine.messages import BenchSample
from engine.units import rate
from gui.benchmark.table import CopyTable
from gui.widgets.labels import engine_text
from gui.widgets.words import duration_text, percent_text, precise_text, size_text

_REMARKS = 6  # the column


class ResultsView(QWidget):
    """One table; its Markdown is its `table.copy_markdown()`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = CopyTable(self.tr("Results"), self.tr("One line for each recipe and test. Ctrl+C copies the table "
                                                           "as Markdown."), also=(_REMARKS,))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.table)
        self._places: dict[str, int] = {}
        self._plan: BenchPlan | None = None

    def show_run(self, plan: BenchPlan, rows: Mapping[str, BenchRow], waiting: bool) -> None:
        """A whole run. waiting: the missing rows will come; else they were never measured."""
        self._plan, self._places = plan, {}
        self.table.set_headings([
            self.tr("Recipe"), self.tr("Test"), self.tr("Result"), "±", self.tr("Ratio to base"),
            self.tr("95 % interval"), self.tr("Remarks"), self.tr("TTFT"), self.tr("ITL p50"), self.tr("ITL p95"),
            self.tr("KL mean"), self.tr("Same top"), self.tr("Weights"), self.tr("KV cache"), self.tr("Peak RAM"),
            self.tr("Build")])
        for lane, recipe in enumerate(plan.recipes):
            for test in plan.tests:
                key = plan.key(lane, test)
                self._places[key] = len(self._places)
                if key in rows:
                    self.show_row(rows[key])
                else:
                    words = self.tr("waiting") if waiting else self.tr("not measured")
                    self._fill(key, [recipe.label, test.name, words], "muted")

    def show_row(self, row: BenchRow) -> None:
        """A row is finished, or has failed."""
        if row.error:
            remark = f"{engine_text(row.error)} {engine_text(row.hint)}".strip()
            # Over all the other columns: the reason must be read without scrolling.
            self._fill(row.key, [
                row.recipe, row.test, self.tr("failed: {reason}").format(reason=remark)], "error", remark)
            self.table.spread(self._places.get(row.key, -1), 2)
            return
        if row.perplexity is not None:
            result, spread = f"{row.perplexity:.3f} PPL", f"{row.perplexity_error or 0:.3f}"
        else:
            result, spread = rate(row.avg_ts or 0), rate(row.stddev_ts or 0).removesuffix(" tok/s")
        ratio = f"{row.ratio:.3f}×" if row.ratio is not None else ""
        interval = (f"{row.ratio_low:.3f} – {row.ratio_high:.3f}" if row.ratio_low is not None
                    and row.ratio_high is not None and row.ratio_high < 1e6 else "")
        remarks = [engine_text(row.verdict)] if row.verdict else []
        if row.conditions not in ("", "quiet"):
            remarks.append(row.conditions)
        if row.steady is False:
            remarks.append(self.tr("the warm-up did not settle"))
        self._fill(row.key, [
            row.recipe, row.test, result, spread, ratio, interval, "; ".join(remarks),
            precise_text(row.ttft_s) if row.ttft_s else "", precise_text(row.itl_p50_s) if row.itl_p50_s else "",
            precise_text(row.itl_p95_s) if row.itl_p95_s else "",
            figures(max(0.0, row.kl_mean)) if row.kl_mean is not None else "",
            percent_text(row.same_top) if row.same_top is not None else "",
            *(size_text(nbytes) if nbytes else "" for nbytes in (row.weight_bytes, row.kv_bytes, row.peak_rss_bytes)),
            duration_text(row.build_s) if row.build_s else ""])

    def show_sample(self, sample: BenchSample) -> None:
        """A run of the row under way."""
        if self._plan is None:
            return
        key = next((k for k in (self._plan.key(sample.lane, t) for t in self._plan.tests)
                    if k.endswith(f":{sample.test}")), "")
        words = self.tr("run {number}: {rate}") if sample.counted else self.tr("warm-up {number}: {rate}")
        self._fill(key, [self._plan.recipes[sample.lane].label, sample.test,
                         words.format(number=sample.number, rate=rate(sample.tokens_per_s))], "muted")

    def _fill(self, key: str, cells: list[str], tone: str = "", tip: str = "") -> None:
        if key in self._places:
            self.table.spread(self._places[key], 0)
            cells += [""] * (self.table.columnCount() - len(cells))
            self.table.set_line(self._places[key], cells, tip, tone)
