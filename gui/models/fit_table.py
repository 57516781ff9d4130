"""A model's fit under each recipe: a line with a mark, a word and bytes, so that colour is never the only sign."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QWidget

from engine.hub.fits import UNKNOWN, RecipeFit
from gui.models.words import fit_verdict, tr
from gui.widgets.labels import IconLabel, TextLabel, engine_text, quiet
from gui.widgets.words import size_text


class FitTable(QWidget):
    """Empty while nothing is known."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(tr("Memory needed"))
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(8)
        self._grid.setVerticalSpacing(3)
        self._grid.setColumnStretch(3, 1)
        self._shown: tuple[RecipeFit, ...] = ()

    def show_fits(self, fits: Sequence[RecipeFit]) -> None:
        """Show these in place of those before."""
        if tuple(fits) == self._shown:
            return
        self._shown = tuple(fits)
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        spoken = []
        for row, fit in enumerate(self._shown):
            verdict = fit_verdict(fit)
            words = engine_text(fit.reason) if fit.verdict == UNKNOWN else tr("{needed} of {free} free").format(
                needed=size_text(fit.needed), free=size_text(fit.free))
            if fit.placement:
                words = f"{words}. {engine_text(fit.placement)}"
            cells = (IconLabel(verdict.icon, verdict.colour), TextLabel(fit.recipe), TextLabel(verdict.text),
                     quiet(words))
            for column, cell in enumerate(cells):
                cell.setWordWrap(column == 3)
                self._grid.addWidget(cell, row, column, Qt.AlignmentFlag.AlignTop)
            spoken.append(f"{fit.recipe}: {verdict.text}, {words}")
        self.setAccessibleDescription("; ".join(spoken))
        self.setVisible(bool(self._shown))
