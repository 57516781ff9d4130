"""The monitor dock over a real Monitor with a clock that the test moves."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from PySide6.QtGui import QContextMenuEvent, QFontMetrics, QGuiApplication, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog, QGraphicsItem, QMainWindow, QMessageBox

from engine.monitor import Monitor, SeriesInfo
from engine.monitor.source import Sink, Tick
from gui.monitor.chart import Chart
from gui.monitor.files import write_whole
from gui.monitor.frame import Window
from gui.monitor.panel import MonitorPanel
from gui.monitor.polyline import Scale, lone_points, thinned, value_at
from gui.monitor.words import ago_text, axis_text, value_text
from gui.settings import Settings
from gui.theme import install_theme, theme

START_S = 1000.0
HIDDEN = "A container hides the processes."


class Cards:
    """Cards that a test makes up; the second one does not tell this program's memory."""

    name = "Cards"

    def __init__(self, cards: int = 0) -> None:
        self.cards = cards
        self.gap = False

    def series(self) -> tuple[SeriesInfo, ...]:
        found = [SeriesInfo("cpu_total", "CPU, all programs", "%", "utilisation", "cpu"),
                 SeriesInfo("ram_used", "RAM in use, all programs", "B", "memory", "cpu"),
                 SeriesInfo("process_rss", "RAM, this program (resident)", "B", "memory", "cpu")]
        for number in range(self.cards):
            device, hidden = f"gpu{number}", HIDDEN if number == 1 else None
            found += [SeriesInfo(f"{device}_memory_used", "GPU memory in use, all programs", "B", "memory", device),
                      SeriesInfo(f"{device}_process_memory", "GPU memory, this program", "B", "memory", device, hidden),
                      SeriesInfo(f"{device}_utilisation", "GPU utilisation", "%", "utilisation", device),
                      SeriesInfo(f"{device}_power", "GPU power", "W", "power", device),
                      SeriesInfo(f"{device}_throttled", "GPU held back (power, heat)", "on/off", "clocks", device)]
        return tuple(found)

    def notes(self) -> tuple[str, ...]:
        return () if self.cards else ("No NVIDIA GPU: the driver is not installed.",)

    def sample(self, tick: Tick, sink: Sink) -> None:
        sink.put("cpu_total", tick.time_s, math.nan if self.gap else 42.0)
        sink.put("ram_used", tick.time_s, 6.2e9)
        sink.put("process_rss", tick.time_s, 1.24e9)
        for number in range(self.cards):
            device = f"gpu{number}"
            sink.put(f"{device}_memory_used", tick.time_s, 24e9)
            sink.put(f"{device}_process_memory", tick.time_s, math.nan if number == 1 else 15e9)
            sink.put(f"{device}_utilisation", tick.time_s, 87.0)
            sink.put(f"{device}_power", tick.time_s, 212.0)
            sink.put(f"{device}_throttled", tick.time_s, 1.0)

    def close(self) -> None:
        pass


class Bench:
    """A monitor, its clock, and the panel in a window."""

    def __init__(self, folder: Path, cards: int = 0) -> None:
        self.now_s = START_S
        self.source = Cards(cards)
        self.monitor = Monitor(sources=[self.source], clock=lambda: self.now_s)
        self.settings = Settings(folder)
        self.panel = MonitorPanel(self.monitor, self.settings)
        self.window = QMainWindow()
        self.window.setCentralWidget(self.panel)
        self.window.resize(1100, 260)

    def tick(self, times: int = 1, tokens: int = 0) -> None:
        """Half a second each, with tokens at an even pace."""
        for _ in range(times):
            for number in range(tokens):
                self.monitor.count_tokens(1, self.now_s + 0.5 * (number + 1) / tokens)
            if tokens:
                self.monitor.observe_nll(tokens * math.log(5.0), tokens)
            self.now_s += 0.5
            self.monitor.sample_now(self.now_s)
        self.panel.refresh()

    def show(self) -> None:
        self.window.show()
        QApplication.processEvents()

    def chart(self, key: str) -> Chart:
        return next(chart for chart in self.panel.charts if chart.spec.key == key)

    def values(self, key: str) -> dict[str, str]:
        return dict(self.chart(key).header.values())

    def close(self) -> None:
        self.window.close()
        self.window.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture(autouse=True)
def themed(qapp: QApplication) -> None:
    install_theme(qapp, "dark", 100)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(cards: int = 0) -> Bench:
        benches.append(Bench(tmp_path, cards))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def path_points(chart: Chart, line: int = 0) -> list[tuple[float, float]]:
    path = chart.plot.canvas.drawing.lines[line][1]
    return [(path.elementAt(i).x, path.elementAt(i).y) for i in range(path.elementCount())]


def strokes(chart: Chart, line: int = 0) -> list[tuple[float, float]]:
    """The drawn stretches of a line: from, to (seconds before now)."""
    path = chart.plot.canvas.drawing.lines[line][1]
    elements = [path.elementAt(i) for i in range(path.elementCount())]
    return [(a.x, b.x) for a, b in itertools.pairwise(elements) if b.isLineTo() and b.x > a.x]


def test_importing_the_dock_does_not_import_pyqtgraph() -> None:
    code = "import sys; from gui.monitor.dock import DOCK; print(DOCK.key, 'pyqtgraph' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.stdout.split() == ["monitor", "False"], done.stderr


def test_series_appear_when_the_monitor_finds_them_and_lines_grow(bench: Bench) -> None:
    bench.panel.refresh()
    assert bench.values("memory") == {}
    bench.tick(4, tokens=20)
    assert list(bench.values("memory")) == ["all programs", "this program"]
    assert bench.values("throughput") == {"decode": "40.0\u00a0tok/s"}
    assert len(path_points(bench.chart("memory"))) == 4
    bench.monitor.declare(SeriesInfo("prefill_per_s", "Prompt tokens per second", "tok/s", "throughput", "model"))
    bench.monitor.record("prefill_per_s", bench.now_s, 900.0)
    bench.tick(2, tokens=20)
    assert bench.values("throughput") == {"decode": "40.0\u00a0tok/s", "Prompt tokens per second": "900\u00a0tok/s"}
    assert len(path_points(bench.chart("memory"))) == 6


def test_lines_end_at_now_and_the_axis_is_seconds_before_it(bench: Bench) -> None:
    bench.tick(5)
    xs = [x for x, _ in path_points(bench.chart("utilisation"))]
    assert xs == pytest.approx([-2.0, -1.5, -1.0, -0.5, 0.0])
    ranges = [chart.plot.view.viewRange()[0] for chart in bench.panel.charts]
    assert all(r == pytest.approx([-60.0, 0.0]) for r in ranges)


def test_a_gap_stays_a_gap_and_is_said_as_a_dash(bench: Bench) -> None:
    bench.tick(4)
    bench.source.gap = True
    bench.tick(3)
    assert bench.values("utilisation")["all programs"] == "–"
    bench.source.gap = False
    bench.tick(4)
    drawn = strokes(bench.chart("utilisation"))
    assert len(drawn) == 6
    assert not any(start < -2.0 < end for start, end in drawn)  # the gap is from -3.5 to -1.5
    assert all(y == 42.0 for _, y in path_points(bench.chart("utilisation")))


def test_a_missing_series_says_why_and_is_not_drawn_as_zero(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(2)
    bench.tick(3)
    header = bench.chart("memory").header
    assert bench.values("memory")["GPU 1 this program"] == "–"
    assert any(HIDDEN in entry.tip for entry in header._entries)
    drawn = [path.elementCount() for _, path in bench.chart("memory").plot.canvas.drawing.lines]
    assert drawn == [3, 3, 3, 0]
    assert "No speed has been measured yet." in bench.chart("throughput").plot.canvas.drawing.message


def test_without_a_card_one_quiet_line_says_why(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    bench.tick()
    assert bench.panel.footer.note.text() == "No NVIDIA GPU: the driver is not installed."
    with_cards = make_bench(1)
    with_cards.tick()
    assert with_cards.panel.footer.note.text() == ""


def test_cards_take_the_place_of_the_processor_and_others_can_be_chosen(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(1)
    bench.tick(2)
    chart = bench.chart("utilisation")
    assert (chart.title, bench.values("utilisation")) == ("GPU utilisation", {"GPU": "87\u00a0%"})
    chart.header.view_chosen.emit("power")
    assert (chart.title, bench.values("utilisation")) == ("GPU power", {"GPU": "212\u00a0W"})
    assert len(chart.plot.canvas.drawing.lines) == 1
    chart.header.view_chosen.emit("clocks")
    assert bench.values("utilisation") == {"held back": "yes"}
    assert chart.plot.canvas.drawing.lines == []
    assert bench.settings.get("monitor/utilisation_view", "") == "clocks"


def test_markers_stand_in_all_charts_and_scroll(bench: Bench) -> None:
    bench.tick(2)
    bench.monitor.mark("int8 weights on")
    bench.tick(4)
    assert [chart.plot.canvas.drawing.markers for chart in bench.panel.charts] == [[(-2.0, "int8 weights on")]] * 4
    bench.tick(200)
    assert [chart.plot.canvas.drawing.markers for chart in bench.panel.charts] == [[]] * 4


def test_probe_points_are_symbols_and_live_perplexity_is_a_line(bench: Bench) -> None:
    bench.panel.refresh()  # before the first sample only the probe is known
    bench.tick(4, tokens=10)
    bench.monitor.record("probe_perplexity", bench.now_s, 14.25)
    bench.tick(2, tokens=10)
    drawing = bench.chart("perplexity").plot.canvas.drawing
    assert [number for number, _ in drawing.lines] == [0]
    assert [number for number, _, _ in drawing.points] == [1]
    assert bench.values("perplexity") == {"of its own words": "5.00",
                                           "of a fixed text (probe), right axis": "14.2"}


def test_a_switch_makes_the_probe_before_it_old_until_the_next_one(bench: Bench) -> None:
    bench.tick(2, tokens=10)
    bench.monitor.record("probe_perplexity", bench.now_s, 94.0)
    bench.tick(2)
    bench.monitor.mark("reply", job=True)
    bench.tick(2)
    label = "of a fixed text (probe), right axis"
    assert bench.values("perplexity")[label] == "94.0", "a reply changes no recipe"
    bench.monitor.mark("int8")
    bench.tick(1)
    assert bench.values("perplexity")[label] == "…"
    bench.monitor.record("probe_perplexity", bench.now_s, 96.5)
    bench.tick(1)
    assert bench.values("perplexity")[label] == "96.5"
    bench.panel._walk_cursor(bench.chart("perplexity"), -5)  # two and a half seconds back
    assert bench.values("perplexity")[label] == "94.0"


def test_the_probe_has_an_axis_of_its_own_marked_with_its_symbol(bench: Bench) -> None:
    bench.show()
    bench.tick(4, tokens=10)
    bench.monitor.record("probe_perplexity", bench.now_s, 93.7)
    bench.tick(2, tokens=10)
    plot = bench.chart("perplexity").plot
    (_, _, places), = plot.canvas.drawing.points
    assert plot._scale.top == 10.0 and not plot._scale.log, "the probe does not stretch the lines' axis"
    assert plot._second.top == 100.0 and places.tolist() == pytest.approx([9.37])
    assert [text for _, text in plot.right._tickLevels[0]] == [f"{value}\u2009◆" for value in (0, 50, 100)]
    assert all(chart.plot.right is None for chart in bench.panel.charts if chart.spec.key != "perplexity")
    entry = next(e for e in bench.chart("perplexity").header._entries if e.symbol == "points")
    assert "right" in entry.label and "right" in entry.brief and "diamonds" in entry.tip


def test_the_labels_of_markers_stand_above_every_line_and_point(bench: Bench) -> None:
    bench.show()
    bench.tick(4, tokens=10)
    bench.monitor.record("probe_perplexity", bench.now_s, 100.0)
    bench.monitor.mark("int8")
    bench.tick(2, tokens=10)
    QApplication.processEvents()
    plot = bench.chart("perplexity").plot
    plot.set_second_scale(Scale(100.0, fixed_top=100.0, top=100.0))
    top = plot.view.mapViewToDevice(QPointF(0.0, float(plot.beside(np.array([100.0]))[0]))).y()
    label_bottom = plot.view.sceneBoundingRect().top() + QFontMetrics(plot.canvas.font).height()
    assert top - 4 >= label_bottom, "a diamond at the very top is clear of the text"


def test_the_window_of_time_is_chosen_shown_and_remembered(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    bench.tick(298)
    bench.tick(2)
    assert len(path_points(bench.chart("memory"))) < 150
    bench.panel.footer.windows[300].click()
    assert all(c.plot.view.viewRange()[0] == pytest.approx([-300.0, 0.0]) for c in bench.panel.charts)
    assert min(x for x, _ in path_points(bench.chart("memory"))) == pytest.approx(-149.5, abs=2.0)
    assert bench.settings.get("monitor/window_s", 60) == 300
    assert make_bench().panel.window_shown == Window(300.0)


def test_zoom_and_drag_move_all_charts_and_a_double_click_resets(bench: Bench) -> None:
    bench.tick(300)
    plot = bench.panel.charts[1].plot
    plot.zoomed.emit(0.5)
    plot.dragged.emit(20.0)
    assert all(c.plot.view.viewRange()[0] == pytest.approx([-50.0, -20.0]) for c in bench.panel.charts)
    plot.reset.emit()
    assert all(c.plot.view.viewRange()[0] == pytest.approx([-60.0, 0.0]) for c in bench.panel.charts)


def test_the_cursor_stands_in_all_charts_and_the_legends_tell_its_values(bench: Bench) -> None:
    bench.tick(20, tokens=20)
    bench.tick(60)
    assert bench.values("throughput") == {"decode": "–"}
    bench.panel._point_at(bench.panel.charts[0], -35.0)
    bench.panel._move_cursor()
    assert bench.values("throughput") == {"decode": "40.0\u00a0tok/s"}
    assert [chart.plot.canvas.drawing.cursor_x for chart in bench.panel.charts] == [-35.0] * 4
    bench.panel._point_at(bench.panel.charts[0], None)
    bench.panel._move_cursor()
    assert bench.values("throughput") == {"decode": "–"}


def test_the_cursor_walks_by_keyboard_and_the_values_are_copied(bench: Bench) -> None:
    bench.tick(8)
    bench.show()
    chart = bench.chart("memory")
    QTest.keyClick(chart, Qt.Key.Key_Left)
    assert bench.chart("perplexity").plot.canvas.drawing.cursor_x == pytest.approx(-0.5)
    QTest.keyClick(chart, Qt.Key.Key_End)
    assert bench.chart("perplexity").plot.canvas.drawing.cursor_x is None
    QTest.keyClick(chart, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == "RAM\nall programs\t6.20\u00a0GB\nthis program\t1.24\u00a0GB"


def test_pause_stands_still_while_the_recording_goes_on(bench: Bench) -> None:
    bench.show()
    bench.tick(4)
    bench.panel.footer.pause.click()
    assert not bench.panel.timer.isActive()
    bench.tick(4)
    assert len(path_points(bench.chart("memory"))) == 4
    QTest.keyClick(bench.chart("memory"), Qt.Key.Key_Space)
    assert bench.panel.timer.isActive()
    assert len(path_points(bench.chart("memory"))) == 8


def test_nothing_runs_while_nobody_can_see_it(bench: Bench) -> None:
    assert not bench.panel.timer.isActive()
    bench.show()
    assert bench.panel.timer.isActive()
    assert bench.panel.timer.interval() >= 500
    bench.panel.hide()
    assert not bench.panel.timer.isActive()
    bench.panel.show()
    assert bench.panel.timer.isActive()
    bench.window.showMinimized()
    QApplication.processEvents()
    assert not bench.panel.timer.isActive()
    bench.window.showNormal()
    QApplication.processEvents()
    assert bench.panel.timer.isActive()


def test_the_visible_window_is_exported_as_csv_without_leftovers(
        bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.tick(300)
    target = tmp_path / "out" / "table"
    target.parent.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    bench.panel.menu.export_csv()
    rows = list(csv.reader((tmp_path / "out" / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0][:2] == ["time [s]", "cpu_total [%]"]
    assert len(rows) == 1 + 121  # both edges of 60 seconds at 2 Hz
    assert [path.name for path in target.parent.iterdir()] == ["table.csv"]
    assert "table.csv" in bench.panel.footer.note.text()


def test_a_file_that_cannot_be_written_is_said_in_the_footer_without_a_dialog(
        bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.tick(3)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "absent" / "m.png"), ""))
    monkeypatch.setattr(QMessageBox, "exec", lambda *_: pytest.fail("a dialog"))
    bench.panel.menu.save_picture()
    assert "m.png could not be written" in bench.panel.footer.note.text()


def test_a_picture_is_copied_and_saved(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.show()
    bench.tick(3)
    bench.panel.menu.copy_picture()
    assert QGuiApplication.clipboard().pixmap().width() > 500
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "m.png"), ""))
    bench.panel.menu.save_picture()
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no room"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]
    assert path.read_text() == "old"


def test_the_table_shows_the_samples_newest_first_and_goes_on(bench: Bench) -> None:
    bench.show()
    bench.tick(3, tokens=20)
    bench.panel.show_table()
    dialog = bench.panel._table
    assert dialog is not None and not dialog.isModal()
    model = dialog.model
    headers = [model.headerData(c, Qt.Orientation.Horizontal) for c in range(model.columnCount())]
    assert headers[0] == "Time" and headers[-1] == "Switches" and "Tokens per second" in headers
    assert model.rowCount() == 3
    column = headers.index("Tokens per second")
    assert model.index(0, column).data() == "40.0\u00a0tok/s"
    bench.monitor.mark("int8 on")
    bench.tick(1)
    assert model.rowCount() == 4
    assert model.index(0, column).data() == "–"
    assert model.index(0, len(headers) - 1).data() == "int8 on"
    dialog.view.selectRow(3)
    QTest.keyClick(dialog.view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert "6.20\u00a0GB" in QGuiApplication.clipboard().text()


def test_charts_and_controls_have_accessible_names_and_say_their_values(bench: Bench) -> None:
    bench.tick(3, tokens=20)
    assert [chart.accessibleName() for chart in bench.panel.charts] == [
        "RAM chart", "CPU utilisation chart", "Tokens per second chart", "Perplexity chart"]
    assert bench.chart("memory").accessibleDescription() == (
        "RAM; all programs, 6.20\u00a0GB; this program, 1.24\u00a0GB")
    assert all(chart.focusPolicy() & Qt.FocusPolicy.TabFocus for chart in bench.panel.charts)
    footer = bench.panel.footer
    assert all(b.accessibleName() for b in (*footer.windows.values(), footer.pause, footer.more))
    assert "not how good" in bench.chart("perplexity").header._hint


def test_the_theme_recolours_lines_and_keeps_the_drawing(bench: Bench) -> None:
    bench.show()
    bench.tick(5)
    dark = bench.panel.grab().toImage().pixelColor(3, 3)
    theme().set_choice("light")
    light = bench.panel.grab().toImage().pixelColor(3, 3)
    assert light.lightness() > dark.lightness()
    assert bench.panel.charts[0].plot.canvas._pens[0].color().name() == theme().colours.series[0]
    theme().set_choice("dark")


@pytest.mark.parametrize(("letters", "lines", "columns", "shown"), [
    (120, 12, 4, 4), (70, 30, 2, 4), (70, 12, 2, 2), (20, 30, 1, 4), (20, 12, 1, 1)])
def test_charts_wrap_where_a_row_is_too_narrow_and_stand_back_where_there_is_no_height(
        bench: Bench, letters: int, lines: int, columns: int, shown: int) -> None:
    metrics = bench.panel.fontMetrics()
    bench.panel.grid.resize(letters * metrics.averageCharWidth(), lines * metrics.height())
    bench.panel.grid._arrange()
    assert bench.panel.grid.columns == columns
    assert len(bench.panel.grid.shown) == sum(not chart.isHidden() for chart in bench.panel.charts) == shown


def test_where_two_charts_have_room_the_headings_menu_calls_the_others_and_that_is_remembered(
        bench: Bench, make_bench: Callable[..., Bench]) -> None:
    bench.window.resize(560, 230)
    bench.show()
    bench.tick(3, tokens=10)
    grid = bench.panel.grid
    assert [chart.spec.key for chart in grid.shown] == ["throughput", "perplexity"]
    heading = grid.shown[0].header._choose
    assert heading.isVisible() and [a.text() for a in heading.menu().actions()] == [
        "Instead: RAM", "Instead: CPU utilisation"]
    heading.menu().actions()[0].trigger()
    assert [chart.spec.key for chart in grid.shown] == ["memory", "perplexity"]
    offered = [a.text() for a in grid.shown[0].header._choose.menu().actions() if a.text().startswith("Instead")]
    assert offered == ["Instead: CPU utilisation", "Instead: Tokens per second"]
    QApplication.processEvents()
    assert grid.shown[0].isVisible() and grid.shown[0].hasFocus() and grid.shown[0].width() > 200
    assert [chart.spec.key for chart in make_bench().panel.grid._order][:2] == ["memory", "perplexity"]
    bench.window.resize(1100, 260)
    QApplication.processEvents()
    assert grid.shown == bench.panel.charts
    assert not bench.chart("perplexity").header._choose.isVisible()


def test_no_chart_is_a_window_of_its_own_while_it_is_made(make_bench: Callable[..., Bench]) -> None:
    class Watch(QObject):
        shown = 0

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            self.shown += event.type() == QEvent.Type.Show and isinstance(watched, Chart) and watched.isWindow()
            return False

    watch = Watch()
    QApplication.instance().installEventFilter(watch)
    try:
        make_bench().show()
    finally:
        QApplication.instance().removeEventFilter(watch)
    assert watch.shown == 0


@pytest.mark.parametrize(("percent", "height"), [(100, 180), (150, 224)])
def test_in_a_small_window_each_plot_that_is_shown_has_room(bench: Bench, percent: int, height: int) -> None:
    theme().set_font_percent(percent)
    bench.panel.footer.setParent(bench.window)  # as in the window, where the dock's title bar takes it
    bench.window.resize(700, height)
    bench.show()
    bench.tick(6, tokens=10)
    QApplication.processEvents()
    try:
        assert len(bench.panel.grid.shown) == 2
        assert all(chart.plot.view.height() >= 90 for chart in bench.panel.grid.shown)
    finally:
        theme().set_font_percent(100)


def test_a_refresh_without_a_new_sample_draws_nothing(bench: Bench) -> None:
    bench.tick(3)
    drawing = bench.chart("memory").plot.canvas.drawing
    bench.panel.refresh()
    assert bench.chart("memory").plot.canvas.drawing is drawing


def test_a_long_window_moves_its_lines_only_by_whole_pixels_but_keeps_its_values_fresh(bench: Bench) -> None:
    bench.show()
    bench.panel.choose_window(1800)
    bench.tick(4, tokens=20)
    drawing = bench.chart("memory").plot.canvas.drawing
    assert bench.panel._pixel_s() > 0.5
    bench.tick(1, tokens=10)
    assert bench.chart("memory").plot.canvas.drawing is drawing
    assert bench.values("throughput") == {"decode": "20.0\u00a0tok/s"}
    bench.tick(6, tokens=10)
    assert bench.chart("memory").plot.canvas.drawing is not drawing


def test_a_hover_points_at_the_moment_below_the_mouse(bench: Bench) -> None:
    bench.show()
    bench.tick(3)
    plot = bench.panel.charts[0].plot
    area = plot.view.sceneBoundingRect()
    assert plot._seconds_at(QPointF(area.center())) == pytest.approx(-30.0, abs=0.5)
    assert plot._seconds_at(QPointF(1, 1)) is None


def test_the_mouse_on_a_plot_points_focuses_zooms_resets_and_opens_the_menu(bench: Bench) -> None:
    bench.show()
    bench.window.activateWindow()
    bench.tick(100)
    chart = bench.chart("throughput")
    viewport = chart.plot.viewport()
    centre = viewport.rect().center()
    QTest.mouseMove(viewport, centre - QPoint(9, 0))  # a pointer that is already there would not move
    QTest.mouseMove(viewport, centre)
    bench.panel._move_cursor()
    assert bench.chart("memory").plot.canvas.drawing.cursor_x == pytest.approx(-35.0, abs=15.0)
    QTest.mouseClick(viewport, Qt.MouseButton.LeftButton, pos=centre)
    assert chart.hasFocus()
    wheel = QWheelEvent(QPointF(centre), viewport.mapToGlobal(QPointF(centre)), QPoint(), QPoint(0, 120),
                        Qt.MouseButton.NoButton, Qt.KeyboardModifier.ControlModifier,
                        Qt.ScrollPhase.NoScrollPhase, False)
    QApplication.sendEvent(viewport, wheel)
    assert bench.panel.window_shown.length_s == pytest.approx(48.0)
    QTest.mouseDClick(viewport, Qt.MouseButton.LeftButton, pos=centre)
    assert bench.panel.window_shown == Window(60.0)
    QApplication.sendEvent(viewport, QContextMenuEvent(
        QContextMenuEvent.Reason.Mouse, centre, viewport.mapToGlobal(centre)))
    assert bench.panel.menu.isVisible()
    bench.panel.menu.close()


def test_thinning_keeps_extremes_and_gaps() -> None:
    times = np.arange(0.0, 1000.0, 0.5)
    values = np.sin(times)
    values[777], values[900:960] = 9.0, np.nan
    thin_times, thin = thinned(times, values, 10.0)
    assert len(thin) < 330
    assert np.nanmax(thin) == 9.0 and np.nanmin(thin) == np.nanmin(values)
    assert np.all(np.diff(thin_times) >= 0)
    assert np.isnan(thin[(thin_times >= 450.0) & (thin_times < 480.0)]).all()


def test_thinning_leaves_few_points_alone() -> None:
    times, values = np.arange(10.0), np.arange(10.0)
    assert thinned(times, values, 1.0)[1] is values


def test_a_point_between_gaps_becomes_a_dot(bench: Bench) -> None:
    nan = math.nan
    assert lone_points(np.array([1.0, nan, 2.0, nan, 3.0, 4.0])).tolist() == [0, 2]
    assert lone_points(np.empty(0)).tolist() == []
    bench.tick(1, tokens=20)
    bench.tick(20)
    ((_, xs, ys),) = bench.chart("throughput").plot.canvas.drawing.dots
    assert (xs.tolist(), ys.tolist()) == ([-10.0], pytest.approx([40.0]))


def test_a_value_holds_until_it_is_too_old() -> None:
    times, values = np.array([1.0, 2.0]), np.array([5.0, 6.0])
    assert value_at(times, values, 1.9, 10.0) == 5.0
    assert math.isnan(value_at(times, values, 0.5, 10.0))
    assert math.isnan(value_at(times, values, 20.0, 10.0))


def test_an_axis_grows_in_steps_shrinks_late_and_starts_at_zero() -> None:
    scale = Scale(10.0)
    assert scale.fit(math.nan, math.nan) and (scale.bottom, scale.top) == (0.0, 10.0)
    assert scale.fit(30.0, 87.0) and scale.top == 100.0
    assert not scale.fit(30.0, 99.0)
    assert not scale.fit(30.0, 45.0)
    assert scale.fit(1.0, 12.0) and scale.top == 15.0
    assert not scale.fit(math.nan, math.nan)


def test_perplexity_becomes_logarithmic_only_when_it_spreads() -> None:
    scale = Scale(10.0, may_be_log=True)
    scale.fit(4.0, 70.0)
    assert not scale.log
    scale.fit(4.0, 900.0)
    assert scale.log and scale.ticks(5) == [1.0, 10.0, 100.0, 1000.0]
    assert scale.place(np.array([10.0, 100.0])).tolist() == [1.0, 2.0]
    scale.fit(4.0, 20.0)
    assert not scale.log and scale.bottom == 0.0


def test_numbers_have_units_and_no_scientific_notation() -> None:
    assert value_text("B", 1.24e9) == "1.24\u00a0GB"
    assert value_text("MHz", 1980.0) == "1,980\u00a0MHz"
    assert value_text("", math.exp(300)) == "over\u00a010\u00a0million"
    assert value_text("%", math.nan) == "–"
    assert [axis_text("B", v) for v in (0, 5e8, 1.5e9, 2e10)] == ["0", "500\u00a0MB", "1.5\u00a0GB", "20\u00a0GB"]
    assert [axis_text("tok/s", v) for v in (0.5, 1000.0)] == ["0.5", "1,000"]
    assert [ago_text(s) for s in (0.0, -60.0, -150.0, -1800.0)] == [
        "now", "−60\u00a0s", "−2:30\u00a0min", "−30\u00a0min"]


def test_labels_stay_on_their_lines_when_the_window_is_resized(bench: Bench) -> None:
    bench.tick(8, tokens=20)
    bench.monitor.record("probe_perplexity", bench.now_s, 94.0)
    bench.show()
    for width, height in ((1100, 300), (700, 240), (700, 330), (1100, 250), (690, 236)):
        bench.window.resize(width, height)
        bench.tick()
        QApplication.processEvents()
        for chart in bench.panel.grid.shown:
            seen = chart.plot.grab().toImage()
            for axis in filter(None, (chart.plot.left, chart.plot.bottom, chart.plot.right)):
                axis.picture = None
                axis.setCacheMode(QGraphicsItem.CacheMode.NoCache)
                axis.setCacheMode(QGraphicsItem.CacheMode.DeviceCoordinateCache)
            assert chart.plot.grab().toImage() == seen, f"{chart.spec.key} at {width} x {height} drawn anew"
