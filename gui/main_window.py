"""The main window: navigation, pages, docks, menus, status line. What is in the rooms it does not know."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
from PySide6.QtCore import QCoreApplication, QSize, Qt, QTimer, SignalInstance
from PySide6.QtGui import QAction, QCloseEvent, QDragEnterEvent, QDropEvent, QKeySequence
from PySide6.QtWidgets import (
    QDockWidget,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.messages import (
    Cancel,
    Cancelled,
    Comparing,
    Event,
    Failed,
    Finished,
    JobStarted,
    LoadModel,
    ModelInfo,
    ModelLoaded,
    Progress,
    RecipeApplied,
    RecipeFailed,
    SetThreads,
    Tokens,
)
from engine.paths import bundled_model
from engine.units import rate, size
from gui.context import AppContext, Dock, KnowsFirstStop, find_docks, find_pages
from gui.model_files import Exporter, choose_file, model_at
from gui.shortcuts import ShortcutsDialog
from gui.techniques.dock import remembered_recipe
from gui.techniques.running import running_label
from gui.theme import icon, theme
from gui.widgets.dock_title import DockTitle
from gui.widgets.labels import ElidedLabel
from gui.widgets.notice import Notice

_STATUS_INTERVAL_MS = 500
_SHOW_PROGRESS_AFTER_S = 0.5
_SHOW_ETA_AFTER_S = 5.0
_LAYOUT_VERSION = 1
_MONITOR_PX, _MONITOR_PX_AT_150 = 210, 260
"""Height of the monitor at first: its legends and axes grow with the font, and its plots should not pay for it."""


class MainWindow(QMainWindow):
    """Pages in the middle, docks around them, one line of status below."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._model: ModelInfo | None = None
        self._recipe = ""
        self._process = psutil.Process()
        self._jobs: dict[int, float] = {}  # started_s of the jobs that run, the one in the status line first
        self._loading_id = 0
        self._font_percent = 100
        self.setWindowTitle(self.tr("GPT Dyno"))
        self.setMinimumSize(760, 520)
        self.resize(1280, 820)
        self.setAcceptDrops(True)
        self.setDockNestingEnabled(True)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.NoContextMenu)
        self.notice = Notice()
        self.pages: dict[str, QWidget] = {}
        self._dock_widgets: dict[str, tuple[Dock, QDockWidget]] = {}
        self._build_centre()
        self._build_docks()
        self._build_status()
        self._build_menus()
        context.bridge.received.connect(self._on_event)
        context.actions.open_model.connect(self._open_on)
        theme().changed.connect(self._restyle)
        self._restyle()
        self._restore()

    # ------------------------------------------------------------------------------------------------------- build

    def _build_centre(self) -> None:
        self._stack = QStackedWidget()
        rail = QWidget()
        rail.setObjectName("navigation")
        rail.setMinimumWidth(76)
        rail.setAccessibleName(self.tr("Pages"))
        column = QVBoxLayout(rail)
        column.setContentsMargins(6, 8, 6, 8)
        column.setSpacing(4)
        self._nav: list[tuple[QToolButton, str]] = []
        stretched = False
        for number, page in enumerate(find_pages()):
            if page.order >= 90 and not stretched:
                column.addStretch(1)
                stretched = True
            button = QToolButton(checkable=True, autoExclusive=True)
            button.setText(QCoreApplication.translate("pages", page.title))
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
            button.setIconSize(QSize(22, 22))
            # Its title is never cut, however narrow the window and large the font.
            button.setSizePolicy(QSizePolicy.Policy.MinimumExpanding, QSizePolicy.Policy.Fixed)
            button.setAccessibleName(button.text())
            button.setToolTip(f"{button.text()} (Ctrl+{number + 1})")
            button.clicked.connect(lambda _=False, n=number: self.show_page(n))
            column.addWidget(button)
            self._nav.append((button, page.icon))
            widget = page.make(self._context)
            self.pages[page.key] = widget
            self._stack.addWidget(widget)
        if not stretched:
            column.addStretch(1)
        self._nav[0][0].setChecked(True)
        main = QVBoxLayout()
        main.setContentsMargins(0, 8, 0, 0)
        main.addWidget(self.notice)
        main.addWidget(self._stack, 1)
        centre = QWidget()
        row = QHBoxLayout(centre)
        row.setContentsMargins(0, 0, 8, 0)
        row.setSpacing(4)
        # In a low window with a large font the pages' buttons scroll, rather than take the monitor's room.
        self._rail = QScrollArea()
        self._rail.setWidget(rail)
        self._rail.setWidgetResizable(True)
        self._rail.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._rail.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        row.addWidget(self._rail)
        row.addLayout(main, 1)
        self.setCentralWidget(centre)

    def _build_docks(self) -> None:
        for dock in find_docks():
            frame = QDockWidget(QCoreApplication.translate("docks", dock.title), self)
            frame.setObjectName(dock.key)
            frame.setTitleBarWidget(DockTitle(frame.windowTitle()))
            frame.setWidget(QWidget())
            self.addDockWidget(dock.area, frame)
            self._dock_widgets[dock.key] = (dock, frame)
        self.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
        frames = {key: frame for key, (_, frame) in self._dock_widgets.items()}
        if "techniques" in frames:
            self.resizeDocks([frames["techniques"]], [320], Qt.Orientation.Horizontal)
        if "monitor" in frames:
            self.resizeDocks([frames["monitor"]], [_MONITOR_PX], Qt.Orientation.Vertical)

    def _build_status(self) -> None:
        self._status_model = ElidedLabel(self.tr("Starting…"))
        self._status_model.setAccessibleName(self.tr("Model, device and recipe"))
        self._status_speed = QLabel()
        self._status_speed.setAccessibleName(self.tr("Memory and speed"))
        self._status_speed.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._why = QPushButton(self.tr("Why isn't it faster?"))
        self._why.setProperty("link", True)
        self._why.setCursor(Qt.CursorShape.PointingHandCursor)
        self._why.setToolTip(self.tr("Measure where the time of one token goes with the active recipe."))
        self._why.setAccessibleName(self._why.text())
        self._why.setAccessibleDescription(self._why.toolTip())
        self._why.clicked.connect(self._context.actions.explain)
        self._why.hide()
        self._status_job = QLabel()
        self._status_bar = QProgressBar()
        self._status_bar.setFixedWidth(120)
        self._status_bar.setTextVisible(False)
        self._status_bar.setAccessibleName(self.tr("Progress of the running job"))
        self._stop = QPushButton(self.tr("Stop"))
        self._stop.setToolTip(self.tr("Stop the running job (Esc)"))
        self._stop.clicked.connect(self._cancel_job)
        bar = self.statusBar()
        bar.setSizeGripEnabled(False)
        bar.addWidget(self._status_model)
        # The button stands in the corner, and the figures beside it never give room back: nothing slips away from
        # under the mouse when a number changes or a job begins.
        for widget in (self._status_job, self._status_bar, self._stop, self._status_speed, self._why):
            bar.addPermanentWidget(widget)
        self._show_job()
        self._status_timer = QTimer(self, interval=_STATUS_INTERVAL_MS)
        self._status_timer.timeout.connect(self._refresh_status)
        self._status_timer.start()

    def _build_menus(self) -> None:
        file_menu = self.menuBar().addMenu(self.tr("&File"))
        self._add(file_menu, self.tr("New chat"), "Ctrl+N", self._new_chat)
        self._add(file_menu, self.tr("Open model…"), "Ctrl+O", self.choose_model)
        self._add(file_menu, self.tr("Open model folder…"), "Ctrl+Shift+O", self.choose_folder)
        self._add(file_menu, self.tr("Open the bundled model"), "", lambda: self.load_model(str(bundled_model())))
        self._add(file_menu, self.tr("Export…"), "Ctrl+E", self._context.actions.export.emit)
        exporter = Exporter(self._context, self.notice, self)
        self.export_model = self._add(file_menu, self.tr("Export model…"), "Ctrl+Shift+E", lambda: exporter.ask(
            self._model.name if self._model is not None else ""))
        self.export_model.setEnabled(False)
        file_menu.addSeparator()
        self._add(file_menu, self.tr("Quit"), "Ctrl+Q", self.close)
        go = self.menuBar().addMenu(self.tr("&Go"))
        for number, page in enumerate(find_pages()):
            title = QCoreApplication.translate("pages", page.title)
            self._add(go, title, f"Ctrl+{number + 1}", lambda n=number: self._go_to(n))
        go.addSeparator()
        self._add(go, self.tr("Search chats"), "Ctrl+K", self._search)
        self._add(go, self.tr("Write a message"), "Ctrl+L", self._compose)
        for title, keys, wanted in ((self.tr("Choose a recipe"), "Ctrl+R", self._context.actions.recipes),
                                    (self.tr("Techniques"), "Ctrl+T", self._context.actions.techniques)):
            self._add(go, title, keys, lambda wanted=wanted: self._to_techniques(wanted))
        self._add(go, self.tr("Stop"), "Esc", self._escape)
        view = self.menuBar().addMenu(self.tr("&View"))
        for _, frame in self._dock_widgets.values():
            view.addAction(frame.toggleViewAction())
        view.addSeparator()
        for choice, title in (("system", self.tr("Theme: follow the system")), ("light", self.tr("Theme: light")),
                              ("dark", self.tr("Theme: dark"))):
            self._add(view, title, "", lambda c=choice: self._set_theme(c))
        help_menu = self.menuBar().addMenu(self.tr("&Help"))
        self._add(help_menu, self.tr("Why isn't it faster?"), "", self._context.actions.explain.emit)
        self._add(help_menu, self.tr("Keyboard shortcuts"), "F1", lambda: ShortcutsDialog(self).exec())

    def _add(self, menu, title: str, shortcut: str, slot) -> QAction:  # type: ignore[no-untyped-def]
        action = QAction(title, self)
        if shortcut:
            action.setShortcut(QKeySequence(shortcut))
        action.triggered.connect(lambda _=False: slot())
        menu.addAction(action)
        return action

    def fill_docks(self) -> None:
        """Make the docks' contents: after the first paint, because charts take a moment to load."""
        for dock, frame in self._dock_widgets.values():
            content = dock.make(self._context)
            frame.setWidget(content)
            title, controls = frame.titleBarWidget(), getattr(content, "title_controls", None)
            if isinstance(title, DockTitle) and isinstance(controls, QWidget):
                title.add(controls)

    # ----------------------------------------------------------------------------------------------------- actions

    def show_page(self, number: int) -> None:
        """Bring a page to the front."""
        if number < self._stack.count():
            self._stack.setCurrentIndex(number)
            self._nav[number][0].setChecked(True)

    def _go_to(self, number: int) -> None:
        """show_page(), and the keyboard goes along to where the page wants it."""
        self.show_page(number)
        page = self._stack.currentWidget()
        if isinstance(page, KnowsFirstStop):
            page.first_stop().setFocus(Qt.FocusReason.ShortcutFocusReason)

    def load_first_model(self) -> None:
        """Load the model of last time, the bundled one at first."""
        threads = self._context.settings.get("threads", 0)
        if threads:
            self._context.bridge.submit(SetThreads(threads))
        folder = self._context.settings.get("model", "")
        self.load_model(model_at(folder) if folder and model_at(folder) else str(bundled_model()))

    def choose_model(self) -> None:
        """Ask for a .gguf file or a file of a model folder, and load it."""
        path = choose_file(self, self._last_place())
        if path:
            self.load_model(path)

    def choose_folder(self) -> None:
        """Ask for a model folder and load it."""
        folder = QFileDialog.getExistingDirectory(self, self.tr("Open a model folder"), self._last_place())
        if folder:
            self.load_model(folder)

    def _last_place(self) -> str:
        last = Path(self._context.settings.get("model", ""))
        return str(Path.home() if last in (Path(), bundled_model()) else last.parent)

    def load_model(self, folder: str) -> None:
        """Load a model folder or .gguf file; the one before it stays until this one is ready."""
        self._loading_id = self._context.bridge.next_id()
        self._context.bridge.submit(LoadModel(self._loading_id, folder, remembered_recipe(self._context.settings)))

    def _open_on(self, folder: str, page: str) -> None:
        self.load_model(folder)
        if page in self.pages:
            self.show_page(list(self.pages).index(page))

    def _new_chat(self) -> None:
        self.show_page(0)
        self._context.actions.new_chat.emit()

    def _search(self) -> None:
        self.show_page(0)
        self._context.actions.search.emit()

    def _compose(self) -> None:
        self.show_page(0)
        self._context.actions.compose.emit()

    def _to_techniques(self, wanted: SignalInstance) -> None:
        self._dock_widgets["techniques"][1].show()
        wanted.emit()

    def _escape(self) -> None:
        if self._jobs:
            self._cancel_job()
        else:
            self._context.actions.stop.emit()

    def _cancel_job(self) -> None:
        for job_id in list(self._jobs)[:1]:
            self._context.bridge.submit(Cancel(job_id))

    def _set_theme(self, choice: str) -> None:
        self._context.settings.set("theme", choice)
        theme().set_choice(choice)

    # ------------------------------------------------------------------------------------------------------ events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self._jobs[event.job_id] = time.monotonic()
            self._show_job()
        elif isinstance(event, Progress):
            self._show_progress(event)
        elif isinstance(event, ModelLoaded):
            self._model, self._recipe = event.model, running_label(event.report)
            self._context.settings.set("model", event.model.folder)
            self.export_model.setEnabled(True)
            self.notice.clear()
        elif isinstance(event, RecipeApplied):
            self._recipe = running_label(event.report)
            self._status_job.clear()
        elif isinstance(event, RecipeFailed):
            self._status_job.clear()
        elif isinstance(event, (Finished, Cancelled, Failed)):
            self._jobs.pop(event.job_id, None)
            self._show_job()
            if isinstance(event, Failed) and event.job_id == self._loading_id:
                self.notice.show_problem(event.summary, event.hint, event.details)
        elif isinstance(event, (Tokens, Comparing)) and self._status_job.text():
            self._status_job.clear()
            self._status_bar.hide()
        if not isinstance(event, (Tokens, Comparing)):  # thirty times a second; the timer is enough for their speed
            self._refresh_status()

    def _show_job(self) -> None:
        self._status_job.clear()
        self._status_bar.hide()
        self._stop.setVisible(bool(self._jobs))

    def _show_progress(self, event: Progress) -> None:
        self._status_job.setText(event.stage)
        if event.job_id != next(iter(self._jobs), None):
            return
        elapsed_s = time.monotonic() - self._jobs[event.job_id]
        self._status_bar.setVisible(elapsed_s > _SHOW_PROGRESS_AFTER_S)
        self._status_bar.setRange(0, event.total)
        self._status_bar.setValue(event.done)
        if elapsed_s > _SHOW_ETA_AFTER_S and event.done:
            left_s = elapsed_s * (event.total - event.done) / event.done
            self._status_job.setText(self.tr("{stage}, about {seconds} s left").format(
                stage=event.stage, seconds=round(left_s)))

    def _refresh_status(self) -> None:
        model = self._model
        if model is None:
            text, speed_text = self.tr("Loading the model…") if self._jobs else self.tr("No model is loaded"), ""
        else:
            text = "  ·  ".join((model.name, model.device_name, self._recipe))
            speed_text = size(self._process.memory_info().rss)
            speed = self._context.monitor.latest("tokens_per_s")
            if speed is not None and speed == speed:
                speed_text += f"  ·  {rate(speed)}"  # last, beside the button that explains it
        self._why.setVisible(model is not None)
        for label, said in ((self._status_model, text), (self._status_speed, speed_text)):
            if said != label.text():
                label.setText(said)
        wanted = self._status_speed.sizeHint().width()
        self._status_speed.setMinimumWidth(max(self._status_speed.minimumWidth(), wanted))

    def _make_room(self) -> None:
        """The monitor grows with its texts, and shrinks again."""
        before, self._font_percent = self._font_percent, theme().font_percent
        if "monitor" in self._dock_widgets and before != self._font_percent:
            frame = self._dock_widgets["monitor"][1]
            grown = (self._font_percent - before) * (_MONITOR_PX_AT_150 - _MONITOR_PX) // 50
            height = frame.height() if self.isVisible() else _MONITOR_PX  # nothing is laid out before
            self.resizeDocks([frame], [height + grown], Qt.Orientation.Vertical)

    def _restyle(self) -> None:
        self._make_room()
        self._status_speed.setMinimumWidth(0)  # of the old font
        for button, name in self._nav:
            button.setIcon(icon(name))
        self._rail.setFixedWidth(max(76, self._rail.widget().minimumSizeHint().width()))

    # ------------------------------------------------------------------------------------------------ window events

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """A folder or .gguf file dropped on the window is opened as a model."""
        urls = event.mimeData().urls()
        if urls and model_at(urls[0].toLocalFile()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open what was dropped."""
        self.load_model(model_at(event.mimeData().urls()[0].toLocalFile()))

    def closeEvent(self, event: QCloseEvent) -> None:
        """Remember the layout; the application stops the rest."""
        self.save_state()
        super().closeEvent(event)

    def save_state(self) -> None:
        """Remember size, place and docks."""
        self._context.settings.set_layout("window/geometry", self.saveGeometry())
        self._context.settings.set_layout("window/state", self.saveState(_LAYOUT_VERSION))

    def finish(self) -> None:
        """Stop what the window runs by itself."""
        self._status_timer.stop()

    def _restore(self) -> None:
        geometry = self._context.settings.layout("window/geometry")
        state = self._context.settings.layout("window/state")
        if geometry is not None:
            self.restoreGeometry(geometry)
        if state is not None:
            self.restoreState(state, _LAYOUT_VERSION)
