"""Facts that a model found in a text: a graph, the same as a table, and files of them."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QStackedWidget, QToolButton, QVBoxLayout

from engine.errors import DynoError
from engine.triples import Triple, parse_triples, to_csv, to_dot, to_json
from gui.benchmark.table import CopyTable
from gui.chat.export import write_text
from gui.chat.results.base import Result
from gui.chat.results.graph_canvas import GraphCanvas
from gui.theme import theme
from gui.widgets.labels import quiet, set_icon
from gui.widgets.notice import Notice
from gui.widgets.segments import Segments

_DRAWN = 300
_SHARE, _LEAST_PX, _MOST_PX = 0.38, 210, 460  # of the window's height
_WRITERS = {".csv": to_csv, ".json": to_json, ".dot": to_dot, ".gv": to_dot}


def make() -> Result:
    """The view of this module."""
    return _GraphResult()


class _GraphResult(Result):
    def __init__(self) -> None:
        super().__init__()
        self.triples: tuple[Triple, ...] = ()
        self.canvas = GraphCanvas()
        self.canvas.setAccessibleName(self.tr("Graph of the facts"))
        self.table = CopyTable(self.tr("Facts"), self.tr("Ctrl+C copies the table as Markdown."), words=3)
        self.notice = Notice()
        self._said = quiet()
        self._stack = QStackedWidget()
        self._stack.addWidget(self.canvas)
        self._stack.addWidget(self.table)
        self._views = Segments(self.tr("How the facts are shown"), (("graph", self.tr("Graph")),
                                                                    ("table", self.tr("Table"))))
        self._views.choose("graph")
        self._views.chosen.connect(self._show)
        self._tools = [self._tool("dash", self.tr("Zoom out (-)"), lambda: self.canvas.zoom_by(1 / 1.2)),
                       self._tool("plus", self.tr("Zoom in (+)"), lambda: self.canvas.zoom_by(1.2)),
                       self._tool("fit", self.tr("Show all (0)"), self.canvas.fit)]
        self._export = QPushButton(self.tr("Export…"))
        self._export.setProperty("quiet", True)
        self._export.setToolTip(self.tr("Write the facts as CSV, JSON or Graphviz DOT"))
        self._export.setAccessibleDescription(self._export.toolTip())
        self._export.clicked.connect(self.export)
        head = QHBoxLayout()
        head.addWidget(self._views)
        for tool, _ in self._tools:
            head.addWidget(tool)
        head.addStretch(1)
        head.addWidget(self._export)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(head)
        layout.addWidget(self._stack)
        layout.addWidget(self._said)
        layout.addWidget(self.notice)
        self._parts = (self._views, *(tool for tool, _ in self._tools), self._export, self._stack, self._said)
        theme().changed.connect(self._restyle)
        self._restyle()

    def read(self, text: str) -> bool:
        """Show the facts in a text; whether there are any."""
        self.triples = parse_triples(text)
        for part in self._parts:
            part.setVisible(bool(self.triples))
        if not self.triples:
            self.notice.show_message(self.tr(
                "This model gave no triples that can be read: no line of it has the form subject | relation | object. "
                "A larger instruct model does better. What it wrote is below."), lasting_ms=0)
            return False
        self.canvas.set_facts(self.triples[:_DRAWN])
        self.table.set_headings((self.tr("Subject"), self.tr("Relation"), self.tr("Object")))
        for row, triple in enumerate(self.triples):
            self.table.set_line(row, triple)
        names = {name for fact in self.triples for name in (fact.subject, fact.object)}
        said = self.tr("{facts} facts about {names} names, as this model read the text.").format(
            facts=len(self.triples), names=len(names))
        if len(self.triples) > _DRAWN:
            said += " " + self.tr("The first {n} are drawn; the table has all of them.").format(n=_DRAWN)
        self._said.setText(said)
        return True

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The picture keeps to a share of the window, so that it can be seen whole."""
        super().resizeEvent(event)
        self._stack.setFixedHeight(round(min(_MOST_PX, max(_LEAST_PX, _SHARE * self.window().height()))))

    def export(self) -> None:
        """Ask for a file and write the facts to it, in the form of its ending."""
        path, _ = QFileDialog.getSaveFileName(
            self, self.tr("Export facts"), str(Path.home() / "facts.csv"),
            self.tr("CSV (*.csv);;JSON (*.json);;Graphviz DOT (*.dot)"))
        if not path:
            return
        writer = _WRITERS.get(Path(path).suffix.lower(), to_csv)
        try:
            write_text(Path(path), writer(self.triples))
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
        else:
            self.notice.show_message(self.tr("Exported to {name}.").format(name=Path(path).name))

    def _show(self, view: str) -> None:
        self._stack.setCurrentWidget(self.canvas if view == "graph" else self.table)
        for tool, _ in self._tools:
            tool.setEnabled(view == "graph")

    def _tool(self, name: str, title: str, act) -> tuple[QToolButton, str]:  # type: ignore[no-untyped-def]
        button = QToolButton()
        button.setAccessibleName(title)
        button.setToolTip(title)
        button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        button.clicked.connect(lambda _=False: act())
        return button, name

    def _restyle(self) -> None:
        for tool, name in self._tools:
            set_icon(tool, name)
