import operator
import os

import pytest
import torch

from fusseg.bench.speed.children import ChildError, call_in_child
from fusseg.bench.speed.memory_meter import MemoryMeter, anonymous_bytes
from fusseg.bench.speed.timing import time_alternately

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


@linux
def test_the_meter_sees_memory_that_was_given_back_and_begins_anew():
    with MemoryMeter() as meter:
        before = meter.restart()
        held = torch.ones(64 * 2**20, dtype=torch.uint8)
        del held
        # The block may live too shortly for the watching thread, so that it is looked at once held.
        held = torch.ones(64 * 2**20, dtype=torch.uint8)
        during = meter.restart()
        del held
        meter.restart()
        after = meter.restart()
    assert during - before >= 60 * 2**20
    assert after <= during - 60 * 2**20


def test_a_child_answers_with_as_many_threads_as_its_parent():
    assert call_in_child(torch.get_num_threads) == torch.get_num_threads()


def test_a_child_that_fails_hands_over_its_traceback():
    with pytest.raises(ChildError, match=r"(?s)Traceback.*ZeroDivisionError"):
        call_in_child(operator.truediv, 1, 0)


def test_a_child_that_dies_is_named_with_its_exit_code():
    with pytest.raises(ChildError, match="the process of _exit ended with exit code 3"):
        call_in_child(os._exit, 3)
