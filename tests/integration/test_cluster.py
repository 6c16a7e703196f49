"""Cells and shards on a Dask cluster of real processes, one of which is killed half-way."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_grid import TINY

from fusseg.bench.cells import list_cells
from fusseg.bench.grid_file import load_grid
from fusseg.bench.run_cells import run_cells_on
from fusseg.core.errors import ConfigError, DataError
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fusseg[cluster]'")

from fusseg.cluster.dask_workers import join_cluster
from fusseg.cluster.workers import result_of

GRID = (
    """
title = "Pipes"
seeds = 2

"""
    + TINY
    + """
[config.federation]
rounds = 10

[methods.PCA]
anchor = "pca"

[methods.FedAvg]
federation = { strategy = "fedavg" }

[methods.FedCC]
federation = { strategy = "fedcc-kmeans" }
"""
)
LONG = 120.0
"""Seconds after which something that should happen did not."""


def until(happens, *processes):
    """Wait for what a condition returns."""
    deadline = time.monotonic() + LONG
    while not (found := happens()):
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    return found


@pytest.fixture
def start_dask(tmp_path):
    """Start a part of a Dask cluster in a process of its own and in another folder."""
    started = []

    def start(*arguments):
        folder = tmp_path / f"dask{len(started)}"
        folder.mkdir()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"],
                cwd=folder,
                # Not the number of threads of the process that the workers serve.
                env={**os.environ, "OMP_NUM_THREADS": "3"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def scheduler(start_dask, tmp_path):
    """Address of a scheduler without workers."""
    file = tmp_path / "scheduler.json"
    process = start_dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
    until(lambda: file.exists() and file.read_text().endswith("}"), process)
    return json.loads(file.read_text())["address"]


@pytest.fixture
def forbid_deaths(monkeypatch):
    """Let a scheduler that is started after this give a task up when one worker dies of it."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")


@pytest.fixture
def workers(start_dask, scheduler, tmp_path):
    """Two workers with more threads than fusseg takes."""
    options = ("--no-nanny", "--nthreads", 2, "--memory-limit", 0, "--local-directory", tmp_path)
    return [start_dask("worker", scheduler, *options) for _ in range(2)]


def open_files(process):
    """Paths of the files that a process has open."""
    found = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found.append(Path(os.readlink(descriptor)))
        except FileNotFoundError:
            continue
    return found


def stamps(paths):
    """What changes when a file is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def running_cell(worker):
    """The cell whose lock a worker holds, half-way through its rounds."""
    for path in open_files(worker):
        if path.suffix == ".lock" and "cells" in path.parts:
            cell = path.with_name(path.name[1:].removesuffix(".lock"))
            if 2 < len(list((cell / "history").glob("round-*"))) < 7:
                return cell
    return None


def is_finished(cell):
    return (cell / "record.json").exists() and load_record(cell)["final"] is not None


def cells_of(out):
    return sorted(path.parent for path in out.glob("cells/*/*/*/record.json"))


def what_was_learned(cell):
    """A cell's record without times and versions."""
    record = load_record(cell)
    rounds = [(entry["round"], entry["loss"], entry["mean_iou"]) for entry in record["rounds"]]
    return rounds, record["final"], record["trained"], (cell / "state.safetensors").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to choose whom to kill")
def test_a_grid_on_two_workers_of_which_one_is_killed_is_that_of_one_process(
    cli, start_cli, scheduler, workers, tmp_path
):
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli("bench", grid, "--out", whole, "--no-figures")[0] == 0
    process = start_cli("bench", grid, "--out", out, "--no-figures", "--dask", scheduler)
    until(lambda: any(map(is_finished, cells_of(out))), process, *workers)
    victim, survivor = workers
    cell = until(lambda: running_cell(victim), process, *workers)
    victim.send_signal(signal.SIGSTOP)
    finished = [path for path in cells_of(out) if is_finished(path)]
    assert cell not in finished
    rounds = load_state(cell).state.round_number
    kept = stamps(
        [path for folder in finished for path in folder.rglob("*") if path.is_file()]
        + [cell / f"history/round-{number:03d}.safetensors" for number in range(1, rounds + 1)]
    )
    victim.kill()
    printed, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, printed
    assert "[6 of 6] " in printed
    assert survivor.poll() is None
    assert stamps(kept) == kept
    names = [path.relative_to(whole) for path in cells_of(whole)]
    assert [path.relative_to(out) for path in cells_of(out)] == names
    assert len(names) == 6
    for name in names:
        assert what_was_learned(out / name) == what_was_learned(whole / name)
    assert not list(out.glob(".cluster-*"))


def bytes_of(cache):
    """All that stores hold, by folder and file."""
    return {
        path.relative_to(cache): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.name not in ("lock", "meta.json")
    }


class Watch:
    """Folders that were seen below `shards`, each as often as it was made."""

    def __init__(self, cache):
        self.seen = set()
        self._cache = cache
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.is_set():
            self.seen |= set(self._cache.glob("*/shards/.*"))
            time.sleep(0.002)

    def attempts(self):
        """How often each shard was begun."""
        keys = [(path.parent, path.name.split(".")[1]) for path in self.seen]
        return {key: keys.count(key) for key in keys}


def shard_being_written(worker):
    for path in open_files(worker):
        if found := re.fullmatch(r"\.(\w{16})\.\w{8}", path.parent.name):
            return path.parent.parent, found[1]
    return None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to choose whom to kill")
def test_an_extraction_on_two_workers_of_which_one_is_killed_fills_the_same_store(
    cli, start_cli, scheduler, workers, make_sites, make_config, tmp_path
):
    root = make_sites(("north", "west"), num_images=330)
    config = make_config(root, more="[backbone]\nbatch_size = 3\n")
    (root / "north/images/100.png").write_bytes(b"no image")
    here, there = tmp_path / "here", tmp_path / "there"
    code, alone, _ = cli("extract", config, "--cache", here)
    assert code == 0
    there.mkdir()
    with Watch(there) as watch:
        process = start_cli("extract", config, "--cache", there, "--dask", scheduler)
        until(lambda: any(path.stat().st_size for path in there.glob("*/index.txt")), process)
        lost = until(lambda: shard_being_written(workers[0]), process, *workers)
        workers[0].kill()
        printed, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, printed
    assert bytes_of(there) == bytes_of(here)
    skipped = "skipped north/100: "
    assert [line for line in printed.splitlines() if line.startswith("skipped")] == [
        line for line in alone.splitlines() if line.startswith(skipped)
    ]
    again = {key for key, count in watch.attempts().items() if count > 1}
    assert again <= {lost}
    assert len(watch.attempts()) > 10
    code, _, _ = cli("extract", config, "--cache", there)
    assert code == 0
    assert bytes_of(there) == bytes_of(here)


def test_a_cluster_that_cannot_be_used_is_refused(
    cli, make_sites, make_config, scheduler, tmp_path, monkeypatch
):
    with (
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:9' "),
        join_cluster("tcp://127.0.0.1:9", [tmp_path], [], patience=0.5),
    ):
        pytest.fail("joined")
    with (
        pytest.raises(ConfigError, match=rf"at {scheduler} has no workers after 2 s; start some"),
        join_cluster(scheduler, [tmp_path], [], patience=2.0),
    ):
        pytest.fail("joined")
    with (
        pytest.raises(ConfigError, match="no Dask scheduler answers at 'nowhere'"),
        join_cluster("nowhere", [tmp_path], [], patience=0.5),
    ):
        pytest.fail("joined")
    assert not list(tmp_path.glob(".cluster-*"))
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    code, _, err = cli("bench", grid, "--out", tmp_path / "out", "--jobs", 2, "--dask", scheduler)
    assert code == 2
    assert f"--jobs 2 cannot be combined with --dask {scheduler}" in err
    monkeypatch.setitem(sys.modules, "distributed", None)
    config = make_config(make_sites(num_images=2))
    code, _, err = cli("extract", config, "--dask", scheduler)
    assert code == 2
    assert (
        "--dask needs the package distributed, which is not installed: pip install 'fusseg[" in err
    )


def test_tasks_run_where_they_were_handed_out_and_a_cell_never_twice_at_once(
    scheduler, workers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(GRID)
    cell = list_cells(load_grid(Path("grid.toml")), Path("out"))[1]
    with join_cluster(scheduler, [Path("out")], []) as joined:
        assert joined.submit(os.getcwd).result() == str(tmp_path)
        assert joined.submit(torch.get_num_threads).result() == torch.get_num_threads()
        assert list(joined.map(abs, range(-30, 0))) == list(range(30, 0, -1))
        with pytest.raises(ZeroDivisionError):
            joined.submit(divmod, 1, 0).result()
        # Without its lock, the second would refuse the folder that the first has made.
        events = list(run_cells_on(joined, [cell, replace(cell)], Path("cache")))
        assert [event.error for event in events] == ["", ""]
        # The start, ten rounds of training, and the choice.
        assert [entry["round"] for entry in load_record(cell.path)["rounds"]] == list(range(12))
        assert len(list(Path("out").glob(".cluster-*"))) == 1
    assert not list(Path("out").glob(".cluster-*"))


@pytest.mark.usefixtures("forbid_deaths", "workers")
def test_a_task_that_its_worker_dies_of_is_given_up(scheduler, tmp_path):
    with join_cluster(scheduler, [tmp_path], []) as joined:
        deadly = joined.submit(os._exit, 1)
        with pytest.raises(DataError, match=r"gave up on a task .*workers died while running it"):
            result_of(deadly)
