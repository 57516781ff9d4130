"""The application: theme, crash log, and the order in which things start and stop.

The window shows first; only then does the engine thread start, because it loads torch. Python's automatic garbage
collection is off in this process: it could run on the engine thread and destroy Qt objects there, which crashes. A
timer on the window's thread collects instead.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

from PySide6.QtCore import QEvent, QObject, QTimer, QtMsgType, qInstallMessageHandler
from PySide6.QtWidgets import QApplication, QMessageBox

from engine.errors import DynoError
from engine.messages import Event, Finished, ModelLoaded
from engine.monitor.monitor import Monitor
from engine.outbox import Outbox
from engine.paths import user_data
from engine.storage import Store
from engine.worker import Worker
from gui.bridge import Bridge
from gui.context import AppContext
from gui.main_window import MainWindow
from gui.settings import Settings
from gui.theme import install_theme, pixmap

log = logging.getLogger(__name__)

_COLLECT_INTERVAL_MS = 2000
_SWITCH_INTERVAL_S = 0.0005  # the engine waits for Python's lock at most so long after each token, not 5 ms


class Application(QObject):
    """Everything that runs while the window is open."""

    def __init__(self, app: QApplication, data: Path) -> None:
        super().__init__(app)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self.settings = Settings(data)
        install_theme(app, self.settings.get("theme", "system"), self.settings.get("font_percent", 100))
        app.setWindowIcon(pixmap("app", "", 64))
        self.store = Store(data / "conversations.sqlite3")
        self.outbox = Outbox()
        self.monitor = Monitor()
        self.bridge = Bridge(Worker(self.outbox, self.monitor), self.outbox, self)
        self.context = AppContext(self.bridge, self.monitor, self.store, self.settings)
        self.window = MainWindow(self.context)
        self._collector = QTimer(self, interval=_COLLECT_INTERVAL_MS)
        self._collector.timeout.connect(lambda: gc.collect(0))
        self.bridge.received.connect(self._housekeeping)
        self._stopped = False

    def start(self) -> None:
        """Show the window; start the rest once it has been painted."""
        gc.disable()
        self._collector.start()
        self.window.show()
        self.window.load_first_model()  # waits in the queue, before anything the user may send
        self.window.installEventFilter(self)

    def stop(self) -> None:
        """Save and end everything, in the order in which it depends on each other."""
        if self._stopped:
            return
        self._stopped = True
        self.window.save_state()
        ended = self.bridge.stop()
        if not ended:
            log.warning("the engine thread did not end in time")
        self.monitor.stop()
        self.window.finish()
        self.context.actions.closing.emit()
        self.store.close()
        self.settings.sync()
        self._collector.stop()
        if ended:
            gc.enable()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The engine starts after the window's first paint, and not before: it loads torch."""
        if event.type() == QEvent.Type.Paint:
            self.window.removeEventFilter(self)
            QTimer.singleShot(0, self._after_first_paint)
        return super().eventFilter(watched, event)

    def _after_first_paint(self) -> None:
        if self._stopped:
            return
        self.window.fill_docks()
        self.monitor.start()
        self.bridge.start()

    def _housekeeping(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            # Everything torch and Qt brought along stays for good; leaving it out keeps each collection short.
            gc.collect()
            gc.freeze()
        elif isinstance(event, Finished):
            gc.collect(1)


def run_window() -> int:
    """Open the window and run until it is closed; returns the exit status."""
    app = QApplication(sys.argv)
    app.setApplicationName("GPT Dyno")
    app.setApplicationDisplayName("GPT Dyno")
    qInstallMessageHandler(_qt_message)
    try:
        data = user_data()
        crash_log = _start_crash_log(data)
        application = Application(app, data)
    except DynoError as error:
        print(error, file=sys.stderr)  # noqa: T201  for whoever started it from a terminal
        QMessageBox.critical(None, "GPT Dyno", str(error))
        return 1
    _install_excepthooks(application, crash_log)
    app.aboutToQuit.connect(application.stop)
    application.start()
    status = app.exec()
    application.stop()
    return status


def _start_crash_log(data: Path) -> Path:
    path = data / "crash.log"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    faulthandler.enable(open(path, "a", encoding="utf-8"))  # noqa: SIM115  stays open for the life of the process
    return path


def _install_excepthooks(application: Application, crash_log: Path) -> None:
    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        log.error("unexpected error\n%s", text)
        with open(crash_log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
        summary = error.summary if isinstance(error, DynoError) else f"Something went wrong: {error}."
        hint = error.hint if isinstance(error, DynoError) else "Your chats are saved. Please report this."
        if threading.current_thread() is threading.main_thread():
            application.window.notice.show_problem(summary, hint, text)

    sys.excepthook = report
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


def _qt_message(kind: QtMsgType, _context: object, text: str) -> None:
    level = {QtMsgType.QtDebugMsg: logging.DEBUG, QtMsgType.QtInfoMsg: logging.INFO,
             QtMsgType.QtWarningMsg: logging.WARNING}.get(kind, logging.ERROR)
    logging.getLogger("qt").log(level, text)
