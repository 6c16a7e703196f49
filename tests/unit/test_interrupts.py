"""Ctrl-C waits while a process starts."""

import os
import signal
import subprocess
import sys

import pytest

from fusseg.bench.interrupts import hold_interrupts

SHOW_MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


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
