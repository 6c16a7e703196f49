import mmap
import time

import pytest
from benchmarks.speed.memory_meter import MemoryMeter, anonymous_bytes
from benchmarks.speed.timing import time_alternately

linux = pytest.mark.skipif(anonymous_bytes() is None, reason="memory is read from /proc of Linux")


def test_tasks_are_called_in_turns_and_once_more_to_warm_up():
    calls = []
    tasks = [lambda: calls.append("stage"), lambda: calls.append("floor")]
    timings = time_alternately(tasks, 2)
    assert calls == ["stage", "floor"] * 3
    assert all(timing.seconds > 0 for timing in timings)


def test_without_warm_up_every_call_counts():
    calls = []
    time_alternately([lambda: calls.append(0)], 1, warm_up=False)
    assert calls == [0]


def _hold_64_mib() -> mmap.mmap:
    """Map fresh private pages and write to them; the heap would hand out ones it still holds."""
    block = mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[:: mmap.PAGESIZE] = b"\1" * (len(block) // mmap.PAGESIZE)
    return block


@linux
def test_the_meter_sees_what_is_held_and_begins_anew():
    with MemoryMeter() as meter:
        before = meter.restart()
        held = _hold_64_mib()
        during = meter.restart()
        held.close()
        meter.restart()
        after = meter.restart()
    assert during - before >= 60 * 2**20
    assert after <= during - 60 * 2**20


@linux
def test_the_meter_sees_what_was_given_back_before_it_was_asked():
    def peak_of_a_moment() -> int:
        meter.restart()
        held = _hold_64_mib()
        time.sleep(0.1)
        held.close()
        return meter.restart()

    with MemoryMeter() as meter:
        before = meter.restart()
        # Its thread looks every 10 ms, but a busy machine may let it wait for longer.
        assert any(peak_of_a_moment() - before >= 60 * 2**20 for _ in range(50))
