"""Worker processes: their answers, their failures, and Ctrl-C while they start."""

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fusseg.core.worker_processes import (
    WorkerDiedError,
    WorkerError,
    call_in_process,
    hold_interrupts,
    run_in_processes,
)

SHOW_MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


@pytest.fixture(autouse=True)
def _heard_interrupts():
    """Hear Ctrl-C, which the background jobs of a shell ignore."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_an_interrupt_comes_after_the_body():
    done = []

    def start():
        with hold_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["to the end"]


def test_nothing_is_left_behind():
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with hold_interrupts():
        pass
    assert before == (
        signal.getsignal(signal.SIGINT),
        signal.pthread_sigmask(signal.SIG_BLOCK, []),
    )


def test_who_ignores_interrupts_goes_on_ignoring_them():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with hold_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_process_started_meanwhile_has_interrupts_blocked():
    with hold_interrupts():
        shown = subprocess.run(
            [sys.executable, "-c", SHOW_MASK], capture_output=True, text=True, check=True
        )
    assert shown.stdout == "True\n"


def test_a_worker_answers_with_as_many_threads_as_its_parent():
    assert call_in_process(torch.get_num_threads) == torch.get_num_threads()


def test_a_worker_may_start_workers():
    assert call_in_process(call_in_process, divmod, 7, 2) == (3, 1)


def test_a_worker_that_fails_hands_over_its_traceback():
    with pytest.raises(WorkerError, match=r"(?s)Traceback.*ZeroDivisionError"):
        call_in_process(operator.truediv, 1, 0)


def test_a_worker_that_dies_is_named_with_its_exit_code():
    with pytest.raises(WorkerDiedError, match="the process of _exit ended with exit code 3"):
        call_in_process(os._exit, 3)


def test_workers_pass_on_what_they_yield_and_one_that_dies_stops_no_other():
    found = {0: [], 1: [], 2: []}
    for index, message in run_in_processes(map, [(str, (5, 6)), (os._exit, (4,)), (str, ())], 2):
        found[index].append(message)
    assert found[0] == ["5", "6"]
    assert [death.exit_code for death in found[1]] == [4]
    assert found[2] == []


def test_closing_the_generator_stops_the_workers():
    events = run_in_processes(map, [(time.sleep, (0, 600))], 2)
    assert next(events) == (0, None)
    started = time.monotonic()
    events.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 60
