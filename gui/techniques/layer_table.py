"""The table of every linear layer as it now runs: sortable, and copied as tab-separated text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import (
    QAbstractTableModel,
    QCoreApplication,
    QModelIndex,
    QPersistentModelIndex,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from engine.messages import EngagedReport, LayerReport
from gui.theme import small_font, theme
from gui.widgets.labels import engine_text, quiet, set_icon
from gui.widgets.words import percent_text, size_text

SORT_ROLE = int(Qt.ItemDataRole.UserRole)
_Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class _Column:
    """shown: what stands in the cell. plain: what is sorted and copied. about: the title's tool tip."""

    title: str
    shown: Callable[[LayerReport], str]
    plain: Callable[[LayerReport], Any]
    number: bool = False
    about: str = ""


def _columns() -> tuple[_Column, ...]:
    def tr(text: str) -> str:
        return QCoreApplication.translate("LayerTable", text)

    def shape(layer: LayerReport) -> str:
        return f"{layer.shape[0]:,} × {layer.shape[1]:,}"

    return (
        _Column(tr("Layer"), lambda la: la.name, lambda la: la.name),
        _Column(tr("Shape"), shape, lambda la: la.shape[0] * la.shape[1], number=True),
        _Column(tr("Type"), lambda la: la.dtype, lambda la: la.dtype),
        _Column(tr("Zeros"), lambda la: percent_text(la.sparsity), lambda la: la.sparsity, number=True),
        _Column(tr("Error"), lambda la: percent_text(la.error) if la.error else "–", lambda la: la.error, number=True,
                about=tr("How far the weight is from the model's own: the norm of the difference over the norm of the "
                         "weight.")),
        _Column(tr("Bytes"), lambda la: size_text(la.nbytes), lambda la: la.nbytes, number=True),
        _Column(tr("Kernel"), lambda la: engine_text(la.kernel), lambda la: la.kernel),
        _Column(tr("Shared"), lambda la: tr("with the embedding") if la.shared else "–", lambda la: la.shared,
                about=tr("A layer that uses the embedding's memory has none of its own: its bytes count once.")),
    )


class LayerModel(QAbstractTableModel):
    """One row a layer."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.columns = _columns()
        self.layers: tuple[LayerReport, ...] = ()

    def set_layers(self, layers: tuple[LayerReport, ...]) -> None:
        """Show these layers."""
        self.beginResetModel()
        self.layers = layers
        self.endResetModel()

    def rowCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        """Number of layers."""
        return 0 if parent.isValid() else len(self.layers)

    def columnCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        """Number of facts about each."""
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, sort key or alignment of a cell."""
        column, layer = self.columns[index.column()], self.layers[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return column.shown(layer)
        if role == SORT_ROLE:
            # Layers of equal value, and the column of names, keep the order of the model: block 10 comes after 9.
            return index.row() if index.column() == 0 else column.plain(layer)
        if role == Qt.ItemDataRole.TextAlignmentRole and column.number:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Titles of the columns."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if self.columns[section].number else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ToolTipRole:
            return self.columns[section].about or None
        return self.columns[section].title if role == Qt.ItemDataRole.DisplayRole else None

    def tsv(self, rows: list[int]) -> str:
        """These rows as tab-separated text with a line of titles; numbers plain, as a spreadsheet reads them."""
        lines = [[column.title for column in self.columns]]
        for row in rows:
            layer = self.layers[row]
            cells = [str(column.plain(layer)) for column in self.columns]
            cells[1], cells[-1] = f"{layer.shape[0]}x{layer.shape[1]}", "yes" if layer.shared else "no"
            lines.append(cells)
        return "\n".join("\t".join(line) for line in lines) + "\n"


class _Table(QTableView):
    """A table view whose Copy is ours: Qt's own would take the text of one cell."""

    copy_asked = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl+C, or what stands for it on this system."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_asked.emit()
        else:
            super().keyPressEvent(event)


class LayerTable(QDialog):
    """A window beside the main one; it follows the active recipe while it is open."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setModal(False)
        self.model = LayerModel(self)
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self.model)
        self._proxy.setSortRole(SORT_ROLE)
        self._summary = quiet()
        self.table = _Table()
        self.table.setModel(self._proxy)
        self.table.setAccessibleName(self.tr("Layers"))
        self.table.setAccessibleDescription(self.tr("Every linear layer as it now runs. Ctrl+C copies."))
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setAlternatingRowColors(True)
        self.table.setShowGrid(False)
        self.table.setTabKeyNavigation(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.table.setStyleSheet("QTableView::item { padding: 0 8px; } QHeaderView::section { padding: 4px 8px; }")
        self.copy_button = QPushButton(self.tr("Copy"))
        self.copy_button.setAccessibleName(self.tr("Copy"))
        self.copy_button.setAccessibleDescription(
            self.tr("Copy the selected rows, or all of them, as tab-separated text."))
        self.copy_button.setToolTip(self.copy_button.accessibleDescription())
        self.copy_button.clicked.connect(self.copy)
        close = QPushButton(self.tr("Close"))
        close.setAccessibleName(self.tr("Close"))
        close.setAccessibleDescription(self.tr("Close the table of layers."))
        close.clicked.connect(self.close)
        self._arrange(close)
        self.table.copy_asked.connect(self.copy)
        theme().changed.connect(self._restyle)
        self._restyle()

    def show_report(self, report: EngagedReport) -> None:
        """Fill the table; keeps the user's order of columns and rows."""
        first = not self.model.layers
        self.model.set_layers(report.layers)
        self.setWindowTitle(self.tr("Layers: {recipe}").format(recipe=report.recipe.label))
        self._summary.setText(self.tr("{recipe}: {count} linear layers, {size} in all weights").format(
            recipe=report.recipe.label, count=len(report.layers), size=size_text(report.weight_bytes)))
        if first:
            self._fit()

    def copy(self) -> None:
        """Copy the selected rows, or all where none is selected, in the order on screen."""
        chosen = sorted(index.row() for index in self.table.selectionModel().selectedRows())
        rows = chosen or range(self._proxy.rowCount())
        source = [self._proxy.mapToSource(self._proxy.index(row, 0)).row() for row in rows]
        QGuiApplication.clipboard().setText(self.model.tsv(source))

    def _arrange(self, close: QPushButton) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.copy_button)
        buttons.addStretch()
        buttons.addWidget(close)
        column = QVBoxLayout(self)
        column.setSpacing(8)
        column.addWidget(self._summary)
        column.addWidget(self.table, 1)
        column.addLayout(buttons)

    def _restyle(self) -> None:
        font = small_font(self.font(), 0.94)
        self.table.setFont(font)
        height = self.table.fontMetrics().height()
        self.table.verticalHeader().setDefaultSectionSize(height + 10)
        set_icon(self.copy_button, "copy")
        if self.model.layers:
            self._fit()

    def _fit(self) -> None:
        """Columns as wide as their content, and, before it is shown, a window that holds them."""
        header = self.table.horizontalHeader()
        header.setStretchLastSection(False)
        self.table.resizeColumnsToContents()
        natural = header.length()
        header.setStretchLastSection(True)
        if not self.isVisible():
            rows = min(24, len(self.model.layers) + 1)
            width = natural + 60
            room = self.screen().availableGeometry()
            self.resize(min(width, room.width()), min((rows + 5) * self.table.verticalHeader().defaultSectionSize(),
                                                      room.height()))
