"""Grids of experiments end to end, on small generated pipe scenes."""

import csv
import json
import multiprocessing
import signal
import threading
import time

import pytest
from tiny_grid import TINY
from typed_form import check_form

from fusseg.bench.cells import list_cells
from fusseg.bench.grid_file import load_grid
from fusseg.bench.run_cells import CellDone, run_cells
from fusseg.runs.record_form import Record

GRID = (
    """
title = "Pipes"
seeds = 2
references = ["FedAvg"]
distances = true

"""
    + TINY
    + """
[config.federation]
rounds = 2
lloyd_rounds = 1
keep = "last"

[methods.PCA]
anchor = "pca"

[methods.FedAvg]
federation = { strategy = "fedavg" }

[methods.FedCC]
federation = { strategy = "fedcc-kmeans" }

[published.FedAvg]
all = 84.1
"""
)


@pytest.fixture
def grid(tmp_path):
    def write(more="", text=GRID):
        path = tmp_path / "grid.toml"
        path.write_text(text + more)
        return path

    return write


def scores(out):
    """Scores of a grid, without cost."""
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["score"] not in ("seconds", "bytes_sent")]


def records(out):
    return {path: path.read_bytes() for path in sorted((out / "cells").glob("*/*/*/record.json"))}


def test_a_grid_becomes_tables_and_figures_and_is_not_run_twice(cli, grid, tmp_path):
    out = tmp_path / "out"
    code, printed, err = cli("bench", grid(), "--out", out)
    assert (code, err) == (0, "")
    assert "[6 of 6] FedCC, all, seed 1: mIoU 0." in printed
    assert len(records(out)) == 6
    for path, content in records(out).items():
        check_form(json.loads(content), Record, str(path))
    assert not list((out / "cells").glob("**/report.html"))
    table = (out / "table.md").read_text()
    assert "| FedAvg |" in table
    assert " ± " in table
    assert "| 84.10 |" in table
    assert "missing" not in table
    assert "## How different the clients are" in table
    assert (out / "distances.csv").read_text().splitlines()[1].startswith("all,3,1.0,0.")
    found = {(row["method"], row["seed"], row["phase"]) for row in scores(out)}
    assert {("FedAvg", "0", "trained"), ("FedCC", "1", "finished")} <= found
    assert ("PCA", "0", "finished") not in found
    record = json.loads((out / "cells/all/fedcc/1/record.json").read_text())
    row = next(
        row
        for row in scores(out)
        if (row["method"], row["seed"], row["phase"], row["score"], row["site"])
        == ("FedCC", "1", "finished", "mean_iou", "")
    )
    assert float(row["value"]) == record["final"]["mean_iou"]
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "all-centroids-pca.png",
        "all-centroids-t-sne.png",
        "all-class-distribution.png",
        "all-panels.png",
        "all-rounds.png",
        "ladder.png",
    ]
    assert (out / "table.html").read_text().count("data:image/png;base64,") == 6
    before = records(out)
    code, printed, _ = cli("bench", out / "grid.toml", "--out", out, "--no-figures")
    assert code == 0
    assert "6 cells" in printed
    assert "6 finished" in printed
    assert records(out) == before


def test_a_killed_grid_goes_on_and_ends_in_the_same_scores(start_cli, cli, grid, tmp_path):
    path = grid()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli("bench", path, "--out", whole, "--no-figures")[0] == 0
    process = start_cli("bench", path, "--out", cut, "--no-figures")
    deadline = time.monotonic() + 120
    while not (cut / "cells/all/fedavg/0/state.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = records(cut)
    code, _, err = cli("bench", path, "--out", cut, "--no-figures")
    assert (code, err) == (0, "")
    assert scores(cut) == scores(whole)
    pca = cut / "cells/all/pca/0/record.json"
    assert records(cut)[pca] == kept[pca]


def test_ctrl_c_writes_what_is_there_and_says_how_to_go_on(start_cli, grid, tmp_path):
    out = tmp_path / "out"
    path = grid()
    process = start_cli(
        "bench", path, "--out", out, "--jobs", 2, "--set", "federation.rounds=500", "--no-figures"
    )
    deadline = time.monotonic() + 120
    while not (out / "cells/all/fedavg/0/state.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"stopped; continue with: fusseg bench {path} --out {out} --jobs 2" in output
    assert "Traceback" not in output
    assert "missing" in (out / "table.md").read_text()


def test_two_jobs_give_the_scores_of_one_and_a_failing_cell_stops_no_other(cli, grid, tmp_path):
    path = grid()
    options = ("--seeds", 1, "--no-figures")
    for out in (tmp_path / "one", tmp_path / "two"):
        block(out / "cells/all/fedavg/0")
    assert cli("bench", path, "--out", tmp_path / "one", *options)[0] == 1
    code, printed, _ = cli("bench", path, "--out", tmp_path / "two", *options, "--jobs", 2)
    assert code == 1
    assert scores(tmp_path / "two") == scores(tmp_path / "one")
    assert "failed: FedAvg, all, seed 0: " in printed
    assert "exists and is not overwritten" in printed
    table = (tmp_path / "two" / "table.md").read_text()
    assert "## Failed" in table
    assert "| FedAvg | missing |" in table
    assert "Not every cell could be run." in (tmp_path / "two" / "table.html").read_text()
    assert (tmp_path / "two" / "cells/all/fedcc/0/record.json").exists()


def block(run_dir):
    """Put a file where a run directory is to be."""
    run_dir.parent.mkdir(parents=True)
    run_dir.write_text("no folder")


def test_a_worker_that_is_killed_fails_its_cell(grid, tmp_path):
    cells = list_cells(load_grid(grid()), tmp_path / "out")[:1]

    def kill_worker():
        while not multiprocessing.active_children():
            time.sleep(0.005)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_worker)
    killer.start()
    (event,) = run_cells(cells, tmp_path / "cache", 2)
    killer.join()
    assert isinstance(event, CellDone)
    assert "its process ended with exit code -9" in event.error


def test_each_site_is_held_out_in_turn_and_the_score_is_their_mean(cli, grid, tmp_path):
    text = "leave_one_out = true\n" + GRID.replace('held_out_sites = ["yard"]\n', "")
    out = tmp_path / "out"
    options = ("--only", "FedAvg", "--seeds", 1, "--no-figures")
    assert cli("bench", grid(text=text), "--out", out, *options)[0] == 0
    finals = {
        path.parent.name: json.loads(path.read_text())["final"]["mean_iou"]
        for path in (out / "cells/all/fedavg/0").glob("*/record.json")
    }
    assert len(finals) == 4
    mean = sum(finals.values()) / len(finals)
    assert f"{100 * mean:.2f}" in (out / "table.md").read_text()
    held_out = {row["held_out"]: float(row["value"]) for row in scores(out) if row["site"]}
    assert held_out.keys() == {*finals, ""} - {""}


def test_a_cell_with_another_configuration_is_refused_before_anything_runs(cli, grid, tmp_path):
    out = tmp_path / "out"
    path = grid()
    only = ("--only", "FedAvg", "--seeds", 1, "--no-figures")
    assert cli("bench", path, "--out", out, *only)[0] == 0
    before = records(out)
    code, _, err = cli("bench", path, "--out", out, "--set", "federation.rounds=3", "--seeds", 1)
    assert code == 2
    assert "holds a run with another configuration (differs in federation.rounds)" in err
    assert records(out) == before


def test_options_that_cannot_be_are_refused(cli, grid, tmp_path):
    path, out = grid(), tmp_path / "out"
    for options, message in [
        (("--jobs", 0), "--jobs must be at least 1, got 0"),
        (("--seeds", 0), "seeds must be 1 to"),
        (("--only", "FedAv"), "unknown method 'FedAv'; did you mean 'FedAvg'?"),
        (("--column", "al"), "unknown column 'al'; did you mean 'all'?"),
        (("--preset", "x"), "has no presets; leave out --preset x"),
        (("--set", "federation.strategy=local"), "is set by the method 'FedAvg'"),
        (("--set", "data.held_out_sites=[]"), "no held-out image is labeled"),
    ]:
        code, _, err = cli("bench", path, "--out", out, *options)
        assert code == 2, options
        assert message in err
