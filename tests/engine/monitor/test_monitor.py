"""The monitor as a whole: its thread, failing sources, markers, recorded points, and the table it exports."""

from __future__ import annotations

import csv
import io
import logging
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.monitor import Monitor, SeriesInfo
from engine.monitor.source import discover_sources
from engine.monitor.system import SystemSource


class Steps:
    """A source with one series that counts its samples, and fails at the samples it is told to."""

    name = "Steps"

    def __init__(self, key: str = "steps", fail_at: tuple[int, ...] = ()) -> None:
        self.key, self.fail_at = key, fail_at
        self.samples = 0
        self.closed = 0

    def series(self):
        return (SeriesInfo(self.key, "Steps", "B", "memory", "cpu"),)

    def notes(self):
        return ()

    def sample(self, tick, sink):
        self.samples += 1
        if self.samples in self.fail_at:
            raise OSError("the sensor is gone")
        sink.put(self.key, tick.time_s, self.samples)

    def close(self):
        self.closed += 1


def info(monitor: Monitor, key: str) -> SeriesInfo:
    return next(info for info in monitor.series() if info.key == key)


def test_the_thread_samples_until_stopped_and_then_is_gone(wait_until):
    source = Steps()
    monitor = Monitor(0.005, sources=[source])
    monitor.start()
    wait_until(lambda: monitor.latest("steps") >= 3)
    assert "monitor" in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="own thread"):
        monitor.sample_now()
    with pytest.raises(RuntimeError, match="runs already"):
        monitor.start()
    monitor.stop()
    assert "monitor" not in {thread.name for thread in threading.enumerate()}
    assert source.closed == 1
    assert len(monitor.snapshot("steps")[0]) == source.samples
    monitor.stop()


def test_a_stopped_monitor_can_be_started_again(wait_until):
    monitor = Monitor(0.005, sources=[Steps()])
    for _ in range(2):
        seen = len(monitor.snapshot("steps")[0])
        monitor.start()
        wait_until(lambda seen=seen: len(monitor.snapshot("steps")[0]) > seen)
        monitor.stop()


def test_a_source_that_raises_is_logged_once_shows_a_reason_and_recovers(caplog):
    monitor = Monitor(sources=[Steps("shaky", fail_at=(2, 3)), Steps("sound")])
    with caplog.at_level(logging.WARNING):
        for tick in range(3):
            monitor.sample_now(float(tick))
    assert len(caplog.records) == 1
    assert info(monitor, "shaky").reason_missing == "Steps could not be read (OSError: the sensor is gone)."
    assert monitor.notes() == ("Steps could not be read (OSError: the sensor is gone).",)
    assert math.isnan(monitor.latest("shaky")) and monitor.latest("sound") == 3
    monitor.sample_now(3.0)
    assert monitor.latest("shaky") == 4 and info(monitor, "shaky").reason_missing is None
    assert monitor.notes() == ()


def test_a_source_that_fails_on_the_thread_does_not_end_it(wait_until, caplog):
    monitor = Monitor(0.005, sources=[Steps(fail_at=tuple(range(1, 6)))])
    with caplog.at_level(logging.WARNING):
        monitor.start()
        wait_until(lambda: monitor.latest("steps") >= 7)
        monitor.stop()
    assert len(caplog.records) == 1


def test_a_source_whose_list_of_series_fails_too_is_survived(caplog):
    class Broken(Steps):
        def series(self):
            raise ValueError("no list")

    monitor = Monitor(sources=[Broken()])
    monitor.sample_now(0.0)
    assert monitor.notes() == ("Steps could not be read (ValueError: no list).",)
    assert len(caplog.records) == 1


def test_recorded_points_have_their_own_time_and_lose_their_reason():
    monitor = Monitor(sources=[])
    assert info(monitor, "probe_perplexity").reason_missing is not None
    monitor.record("probe_perplexity", 12.25, 31.5)
    times_s, values = monitor.snapshot("probe_perplexity")
    assert times_s.tolist() == [12.25] and values.tolist() == [31.5]
    assert info(monitor, "probe_perplexity").reason_missing is None


def test_a_new_recorded_series_must_be_declared_first():
    monitor = Monitor(sources=[])
    with pytest.raises(KeyError, match="declare"):
        monitor.record("loss", 1.0, 2.0)
    loss = SeriesInfo("loss", "Training loss", "", "perplexity", "model")
    monitor.declare(loss)
    monitor.record("loss", 1.0, 2.0)
    assert monitor.latest("loss") == 2.0
    with pytest.raises(ValueError, match="already"):
        monitor.declare(loss)


def test_an_unknown_series_is_empty_rather_than_an_error():
    monitor = Monitor(sources=[])
    assert monitor.snapshot("gpu7_power")[0].shape == (0,)
    assert math.isnan(monitor.latest("gpu7_power"))


def test_markers_come_in_order_of_time_and_the_oldest_give_way():
    monitor = Monitor(sources=[], clock=lambda: 7.0)
    monitor.mark("int8 on")
    monitor.mark("earlier", t_s=3.0)
    assert [(marker.t_s, marker.label) for marker in monitor.markers()] == [(3.0, "earlier"), (7.0, "int8 on")]
    assert [marker.label for marker in monitor.markers(since_s=5.0)] == ["int8 on"]
    for number in range(2000):
        monitor.mark(str(number), t_s=10.0 + number)
    assert len(monitor.markers()) == 1024 and monitor.markers()[-1].label == "1999"


def test_torch_memory_becomes_two_series_per_device_and_a_gap_when_the_model_leaves():
    monitor = Monitor(sources=[])
    monitor.sample_now(0.0)
    assert not [info for info in monitor.series() if "torch" in info.key]
    monitor.set_torch_memory(lambda: {"gpu0": {"reserved": 100, "allocated": 60}})
    monitor.sample_now(1.0)
    assert monitor.latest("gpu0_torch_reserved") == 100 and monitor.latest("gpu0_torch_allocated") == 60
    assert info(monitor, "gpu0_torch_reserved").device == "gpu0"
    monitor.set_torch_memory(lambda: None)
    monitor.sample_now(2.0)
    assert math.isnan(monitor.latest("gpu0_torch_reserved"))
    assert info(monitor, "gpu0_torch_reserved").reason_missing is not None


def test_the_table_has_a_row_per_tick_units_in_its_header_and_markers_last():
    monitor = Monitor(sources=[Steps(fail_at=(2,))])
    monitor.sample_now(100.0)
    monitor.mark("int8, on", t_s=100.2)
    monitor.record("probe_perplexity", 100.2, 31.25)
    monitor.sample_now(100.5)
    monitor.sample_now(101.0)
    monitor.mark("a", t_s=101.0)
    monitor.mark("b", t_s=101.0)
    rows = list(csv.reader(io.StringIO(monitor.to_csv())))
    assert rows == [
        ["time [s]", "steps [B]", "tokens_per_s [tok/s]", "live_perplexity", "probe_perplexity", "markers"],
        ["0.000", "1", "", "", "", ""],
        ["0.200", "", "", "", "31.2500", "int8, on"],
        ["0.500", "", "", "", "", ""],
        ["1.000", "3", "", "", "", "a; b"],
    ]
    windowed = list(csv.reader(io.StringIO(monitor.to_csv(since_s=100.4))))
    assert [row[0] for row in windowed[1:]] == ["0.000", "0.500"]


def test_large_numbers_are_written_in_full_and_an_empty_table_has_its_header():
    monitor = Monitor(sources=[])
    assert monitor.to_csv().splitlines() == ["time [s],probe_perplexity,markers"]
    monitor.record("probe_perplexity", 1.0, 24e9)
    assert "24000000000" in monitor.to_csv()


def test_the_system_source_reports_this_machine_and_this_process():
    monitor = Monitor(sources=[SystemSource()])
    monitor.sample_now(0.0)
    assert math.isnan(monitor.latest("cpu_total"))
    monitor.sample_now(3600.0)
    assert 0 <= monitor.latest("process_cpu") < 100
    assert 0 < monitor.latest("process_uss") <= monitor.latest("process_rss") < monitor.latest("ram_used")
    assert monitor.latest("ram_used") < info(monitor, "ram_used").full_scale


def test_the_dear_unique_set_size_is_read_rarely_and_never_while_timing():
    monitor = Monitor(sources=[SystemSource()])
    monitor.set_quiet(True)
    monitor.sample_now(0.0)
    assert len(monitor.snapshot("process_uss")[0]) == 0
    monitor.set_quiet(False)
    for tick in range(1, 10):
        monitor.sample_now(tick * 0.5)
    assert len(monitor.snapshot("process_uss")[0]) == 1
    assert len(monitor.snapshot("process_rss")[0]) == 10


def test_sources_are_found_without_a_list():
    sources, problems = discover_sources()
    assert [type(source).__name__ for source in sources] == ["NvmlSource", "SystemSource"]
    assert problems == []


def test_an_interval_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Monitor(0.0)


def test_the_monitor_imports_neither_qt_nor_torch_nor_the_driver():
    code = "import sys; from engine.monitor import Monitor; Monitor(); " \
           "print([name for name in ('PySide6', 'torch', 'pynvml') if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True,
                           check=True, timeout=60)
    assert child.stdout.strip() == "[]"
