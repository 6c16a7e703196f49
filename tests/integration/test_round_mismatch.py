"""A kill between record and state, and files of different rounds: mended or refused."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from tiny_grid import TINY

KILLED_BETWEEN = """
import os, signal
from fusseg.runs import finished_rounds
from fusseg.cli.app import main

save_state = finished_rounds.save_state

def save_or_die(path, saved):
    if saved.state.round_number == int(os.environ["KILLED_IN_ROUND"]):
        os.kill(os.getpid(), signal.SIGKILL)
    save_state(path, saved)

finished_rounds.save_state = save_or_die
main()
"""
"""The real command, killed by SIGKILL after a round's record is written and before its state is."""


@pytest.fixture
def kill_between(tmp_path):
    def run(number, *arguments):
        environment = {
            **os.environ,
            "FUSSEG_CACHE": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
            "KILLED_IN_ROUND": str(number),
        }
        command = [sys.executable, "-c", KILLED_BETWEEN, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr

    return run


@pytest.fixture
def config(make_sites, make_config):
    """Three rounds of training and one of the finish."""
    return make_config(make_sites(), more="lloyd_rounds = 1", held_out=("west",))


def of(run_dir):
    """What must not depend on a kill: the state's bytes, and the record without times."""
    record = json.loads((run_dir / "record.json").read_text())
    for entry in record["rounds"]:
        del entry["seconds"]
    kept = {key: record[key] for key in ("rounds", "trained", "final", "clients", "hello")}
    return kept, (run_dir / "state.safetensors").read_bytes()


@pytest.mark.parametrize("number", [1, 4])
def test_a_run_killed_between_record_and_state_ends_in_the_same_bits(
    cli, kill_between, config, tmp_path, number
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli("run", config, "--out", whole)[0] == 0
    kill_between(number, "run", config, "--out", cut)
    record = json.loads((cut / "record.json").read_text())
    assert record["rounds"][-1]["round"] == number
    assert (record["final"] is not None) == (number == 4)
    code, _, err = cli("report", cut)
    assert code == 2
    assert f"fusseg run --resume --out {cut}" in err
    assert cli("run", "--resume", "--out", cut)[0] == 0
    assert of(cut) == of(whole)
    assert cli("report", cut)[0] == 0


@pytest.fixture
def stale(cli, config, tmp_path):
    """A finished run beside the state of the round before."""
    run_dir = tmp_path / "stale"
    assert cli("run", config, "--set", "federation.rounds=2", "--out", run_dir)[0] == 0
    shutil.copytree(run_dir, tmp_path / "whole")
    # The state after round 2 of 3, as the run itself had it.
    rewound = tmp_path / "rewound"
    sets = ("--set", "federation.rounds=2", "--set", "federation.lloyd_rounds=0")
    assert cli("run", config, *sets, "--out", rewound)[0] == 0
    shutil.copy(rewound / "state.safetensors", run_dir / "state.safetensors")
    return run_dir


def test_scores_of_one_round_do_not_stand_beside_the_model_of_another(cli, stale, tmp_path):
    packed, page = tmp_path / "model.safetensors", (stale / "report.html").read_bytes()
    said = f"{stale / 'record.json'} ends with round 3, but state.safetensors is of round 2"
    for command in (
        ("pack", stale, "--out", packed),
        ("push", stale, "someone/model", "--license", "mit", "--dry-run", tmp_path / "card"),
        ("report", stale),
        ("report", stale, tmp_path / "whole", "--out", tmp_path / "page.html"),
    ):
        code, _, err = cli(*command)
        assert code == 2, command
        assert said in err
        assert f"fusseg run --resume --out {stale}" in err
    assert not packed.exists()
    assert not (tmp_path / "card").exists()
    assert not (tmp_path / "page.html").exists()
    assert (stale / "report.html").read_bytes() == page
    assert cli("run", "--resume", "--out", stale)[0] == 0
    assert of(stale) == of(tmp_path / "whole")
    assert cli("pack", stale, "--out", packed)[0] == 0


def test_what_uses_the_model_alone_says_of_which_round_it_is(cli, stale, tmp_path):
    images = tmp_path / "sites" / "west" / "images"
    for command in (("predict", stale, images, "--out", tmp_path / "out"), ("evaluate", stale)):
        code, out, err = cli(*command)
        assert (code, err) == (0, "")
        assert "the run is not finished: round 2 of 3" in out
    assert cli("adapt", stale, images, "--out", tmp_path / "adapted")[0] == 0
    record = json.loads((tmp_path / "adapted" / "record.json").read_text())
    assert record["start"]["round"] == 2
    # Adapted from a model of round 2, whose record has no round of its own.
    assert cli("report", tmp_path / "adapted")[0] == 0
    assert cli("pack", tmp_path / "adapted", "--out", tmp_path / "adapted.safetensors")[0] == 0


def test_a_record_of_an_earlier_time_is_not_gone_on_with(cli, stale, tmp_path):
    record = json.loads((stale / "record.json").read_text())
    record["rounds"] = record["rounds"][:1]
    (stale / "record.json").write_text(json.dumps(record))
    before = of(stale)
    for command in (
        ("run", "--resume", "--out", stale),
        ("report", stale),
        ("pack", stale, "--out", tmp_path / "model.safetensors"),
    ):
        code, _, err = cli(*command)
        assert code == 2, command
        assert "ends with round 1, but state.safetensors is of round 2" in err
        assert "restore the file" in err
    assert of(stale) == before


GRID = (
    """
title = "Pipes"
seeds = 1

"""
    + TINY
    + """
[config.federation]
rounds = 2
keep = "last"

[methods.PCA]
anchor = "pca"

[methods.FedAvg]
federation = { strategy = "fedavg" }
"""
)


def test_a_cell_killed_between_record_and_state_is_finished_by_the_next_bench(
    cli, kill_between, tmp_path
):
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli("bench", grid, "--out", whole, "--no-figures")[0] == 0
    kill_between(2, "bench", grid, "--out", cut, "--no-figures")
    code, out, err = cli("bench", grid, "--out", cut, "--no-figures")
    assert (code, err) == (0, "")
    assert "2 cells" in out
    assert "1 finished, 1 begun" in out
    fedavg = "cells/all/fedavg/0"
    assert of(cut / fedavg) == of(whole / fedavg)
    assert "2 finished" in cli("bench", grid, "--out", cut, "--no-figures")[1]


def test_a_cell_beside_an_earlier_state_is_run_again(cli, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    out, short = tmp_path / "out", tmp_path / "short"
    assert cli("bench", grid, "--out", out, "--no-figures")[0] == 0
    one = ("--set", "federation.rounds=1")
    assert cli("bench", grid, *one, "--out", short, "--no-figures")[0] == 0
    cell = out / "cells/all/fedavg/0"
    before = of(cell)
    shutil.copy(short / "cells/all/fedavg/0/state.safetensors", cell / "state.safetensors")
    assert "1 finished, 1 begun" in cli("bench", grid, "--out", out, "--no-figures")[1]
    assert of(cell) == before
