"""Rows about start-up: time until help is printed, and until the first training step is done."""

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.speed.rows import Figures, Limit, SpeedRow, speed_row
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately

HELP, FIRST_STEP = Limit("seconds", 0.3), Limit("seconds", 3)
_CONFIG = """
[data]
layout = "synthetic"
images_per_site = 8
image_size = [{side}, {side}]
held_out_sites = ["yard"]
[model]
num_clusters = 2
[local]
steps = 1
[federation]
rounds = 1
"""
_FUSSEG = (sys.executable, "-m", "fusseg")
_PYTHON = (sys.executable, "-c")


def start_rows(setting: Setting) -> list[SpeedRow]:
    """Start commands in processes of their own."""
    return [_help_row(setting), _run_row(setting)]


def _help_row(setting: Setting) -> SpeedRow:
    stage, floor = time_alternately(
        [lambda: _start((*_FUSSEG, "--help")), lambda: _start((*_PYTHON, "pass"))],
        setting.sizes.started_processes,
    )
    return speed_row(
        "start, fusseg --help",
        "one process",
        Figures(stage.seconds, floor.seconds),
        HELP,
        "floor: Python alone",
        (setting.sizes.name,),
    )


def _run_row(setting: Setting) -> SpeedRow:
    folder = setting.folder / "start"
    folder.mkdir(parents=True)
    config, cache = folder / "config.toml", folder / "cache"
    config.write_text(_CONFIG.format(side=setting.sizes.side))
    _start((*_FUSSEG, "extract", str(config), "--cache", str(cache)))
    command = (*_FUSSEG, "run", str(config), "--cache", str(cache), "--out")
    seconds, floor = [], []
    for number in range(setting.sizes.started_processes):
        seconds.append(_seconds_to_first_step((*command, str(folder / f"run-{number}"))))
        started = time.perf_counter()
        _start((*_PYTHON, "import torch"))
        floor.append(time.perf_counter() - started)
    return speed_row(
        "start, fusseg run to its first step",
        "features in the cache, one step",
        Figures(min(seconds), min(floor)),
        FIRST_STEP,
        "until the first client has trained its one step; floor: Python that imports torch",
        (setting.sizes.name,),
    )


def _start(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _seconds_to_first_step(command: Sequence[str]) -> float:
    """Time a run until the line after the first client's update, then let it finish."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        seconds = None
        for line in process.stdout:
            said.append(line)
            if seconds is None and line.startswith("training:"):
                seconds = time.perf_counter() - started
    if process.returncode or seconds is None:
        raise RuntimeError(f"{' '.join(command)} trained no step:\n{''.join(said)}")
    return seconds
