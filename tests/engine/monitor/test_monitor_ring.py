"""The ring: what readers get while a writer is at work."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import pytest

from engine.monitor.ring import DEFAULT_CAPACITY, Ring


@pytest.fixture
def eager_thread_switching():
    """Makes threads take turns as often as the interpreter can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


def test_thirty_minutes_at_four_hertz_fit():
    assert DEFAULT_CAPACITY >= 30 * 60 * 4


def test_an_empty_ring_has_no_points_and_no_latest_value():
    times_s, values = Ring(4).snapshot()
    assert times_s.shape == values.shape == (0,)
    assert math.isnan(Ring(4).latest())


def test_a_full_ring_keeps_the_newest_points_in_order():
    ring = Ring(3)
    for point in range(5):
        ring.append(point, point * 10)
    times_s, values = ring.snapshot()
    assert times_s.tolist() == [2, 3, 4] and values.tolist() == [20, 30, 40]
    assert len(ring) == 3 and ring.latest() == 40


def test_a_snapshot_begins_at_the_time_asked_for_and_is_a_copy():
    ring = Ring(8)
    for point in range(6):
        ring.append(point, point)
    times_s, values = ring.snapshot(since_s=3.0)
    assert times_s.tolist() == [3, 4, 5]
    values[:] = -1
    assert ring.latest() == 5


def test_a_ring_without_room_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        Ring(0)


@pytest.mark.parametrize("appended_meanwhile", range(8))
def test_points_overwritten_between_the_two_copies_are_left_out(appended_meanwhile):
    ring = Ring(5)

    class WriterInTheMiddle(np.ndarray):
        """The values, with a writer that strikes after the times have been copied and before the values are."""

        def copy(self, order="C"):
            for point in range(7, 7 + appended_meanwhile):
                ring.append(point, point)
            return np.array(self)

    for point in range(7):
        ring.append(point, point)
    ring._values = ring._values.view(WriterInTheMiddle)
    times_s, values = ring.snapshot()
    assert times_s.tolist() == values.tolist() == list(range(2 + appended_meanwhile, 7))


@pytest.mark.parametrize("capacity", [3, 700])
def test_readers_see_whole_consecutive_points_while_a_writer_is_at_work(eager_thread_switching, capacity):
    ring = Ring(capacity)
    done = threading.Event()
    problems: list[str] = []

    def read() -> None:
        while not done.is_set():
            times_s, values = ring.snapshot()
            if not np.array_equal(times_s, values) or (len(times_s) and np.any(np.diff(times_s) != 1.0)):
                problems.append(f"{times_s} {values}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for point in range(20_000):
        ring.append(point, point)
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert len(ring.snapshot()[0]) == capacity
