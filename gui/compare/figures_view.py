"""The figures of a comparison: what was measured and what was watched, one of them shown, the other a click away."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from engine.bench.compared import LaneFigures
from gui.compare.figures_table import FiguresTable
from gui.widgets.labels import engine_text, quiet
from gui.widgets.segments import Segments

WATCHED, MEASURED = "watched", "measured"


class FiguresView(QWidget):
    """A table, a line on how its figures were come by, and the choice where there are two kinds."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._found: dict[str, tuple[LaneFigures, ...]] = {}
        self._labels: tuple[str, ...] = ()
        self.table, self.about = FiguresTable(), quiet()
        self.which = Segments(self.tr("Figures"), ((MEASURED, self.tr("Measured")), (WATCHED, self.tr("Watched"))))
        self.which.chosen.connect(lambda _kind: self._show())
        self.which.hide()
        foot = QHBoxLayout()
        foot.addWidget(self.about, 1)
        foot.addWidget(self.which)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.table)
        column.addLayout(foot)

    @property
    def empty(self) -> bool:
        """Whether nothing was found yet."""
        return not self._found

    @property
    def shown(self) -> tuple[LaneFigures, ...]:
        """What stands in the table, a LaneFigures for each lane."""
        kind = self.which.value if self.which.value in self._found else next(iter(self._found), "")
        return self._found.get(kind) or tuple(LaneFigures() for _ in self._labels)

    @property
    def stops(self) -> tuple[QWidget, ...]:
        """What Tab goes through, in order."""
        return self.table, self.which.segment(MEASURED), self.which.segment(WATCHED)

    def show_found(self, kind: str, figures: tuple[LaneFigures, ...]) -> None:
        """Figures of one kind, which are shown from now on; those of the other stay."""
        self._found[kind] = figures
        self.which.choose(kind)
        self._show()

    def forget(self, *kinds: str) -> None:
        """Nothing is known of these kinds any longer."""
        for kind in kinds or tuple(self._found):
            self._found.pop(kind, None)
        self._show()

    def change_lane(self, lane: int) -> None:
        """Another recipe stands there: what was found says nothing of it."""
        self._found = {kind: tuple(LaneFigures() if n == lane else f for n, f in enumerate(figures))
                       for kind, figures in self._found.items()}
        self._show()

    def remove_lane(self, lane: int) -> None:
        """It is gone."""
        self._found = {kind: tuple(f for n, f in enumerate(figures) if n != lane)
                       for kind, figures in self._found.items()}

    def show_lanes(self, labels: Sequence[str]) -> None:
        """The recipes of the lanes, as many as the figures are of."""
        self._labels = tuple(labels)
        self._show()

    def _show(self) -> None:
        known = self.shown
        if len(known) != len(self._labels):
            return  # between a change of the lanes and the labels that come with it
        self.which.setVisible(len(self._found) > 1)
        self.table.show_lanes(self._labels, known)
        sources = dict.fromkeys(lane.source for lane in known if lane.source)
        errors = dict.fromkeys(lane.error for lane in known if lane.error)
        disturbed = dict.fromkeys(f"{note}." for lane in known for note in lane.disturbed)
        self.about.setText(" ".join([*map(engine_text, sources), *errors, *disturbed]) or self.tr(
            "Watch shows how the lanes write; Measure gives figures with intervals."))
