"""SIGKILL at any point, then resume: the same bits as an undisturbed run."""

import json
import signal
import time
from pathlib import Path

import pytest


def wait_until(process, reached, seconds=120.0):
    """Wait for a condition while a process runs; fail if it ends before, or takes too long."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the process did not get there in time"
        time.sleep(0.005)


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def features_size(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/features.f16"))


def committed(cache: Path) -> int:
    return sum(len(path.read_bytes()) // 65 for path in cache.glob("*/index.txt"))


def test_extraction_killed_again_and_again_ends_in_the_same_bytes(
    start_cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(num_images=60), more="", held_out=())
    sets = ("--set", "data.image_size=[192, 288]", "--set", "backbone.batch_size=3")
    finish(start_cli("extract", config, *sets, "--cache", tmp_path / "whole"))
    cut = tmp_path / "cut"
    row = 1
    for rows in (2, 25, 70):
        process = start_cli("extract", config, *sets, "--cache", cut)
        total = features_size(tmp_path / "whole")
        row = total // 180
        wait_until(process, lambda rows=rows, row=row: features_size(cut) >= rows * row)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert committed(cut) * row <= features_size(cut) < total
    finish(start_cli("extract", config, *sets, "--cache", cut))
    for path in sorted((tmp_path / "whole").glob("*/*.*")):
        if path.name != "lock":
            twin = cut / path.parent.name / path.name
            assert twin.read_bytes() == path.read_bytes(), path.name
    assert committed(cut) == 180


@pytest.mark.parametrize(
    ("strategy", "drawn", "model"),
    [
        ("fedcc-kmeans", 0, ()),
        ("fedcc-kmeans", 1, ()),
        ("fedcc-kmeans", 1, ("model.num_clusters=6", "model.num_regions=auto")),
        ("local", 0, ()),
        ("lloyd", 0, ()),
    ],
)
def test_training_killed_in_a_round_ends_in_the_same_bits(
    start_cli, make_sites, make_config, tmp_path, strategy, drawn, model
):
    more = f'strategy = "{strategy}"\nlloyd_rounds = 2\nclients_per_round = {drawn}'
    config = make_config(make_sites(), more=more)
    given = ("local.steps=40", "federation.rounds=6", *model)
    sets = [word for one in given for word in ("--set", one)]
    finish(start_cli("run", config, *sets, "--out", tmp_path / "whole"))
    cut = tmp_path / "cut"
    process = start_cli("run", config, *sets, "--out", cut)
    wait_until(process, (cut / "state.safetensors").exists)
    time.sleep(0.05)  # into the next round
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "report.html").exists()
    finish(start_cli("run", "--resume", "--out", cut))
    whole = (tmp_path / "whole" / "state.safetensors").read_bytes()
    assert (cut / "state.safetensors").read_bytes() == whole


KILLED = """
import os, signal, sys
import fusseg
from fusseg.federation.state import ClientUpdate
from fusseg.runs.engine import RoundDone

config, out, cache, rounds, updates = sys.argv[1:]
rounds, updates = int(rounds), int(updates)
for event in fusseg.run_experiment(fusseg.load_config(config), out, cache):
    rounds -= isinstance(event, RoundDone)
    updates -= rounds == 0 and isinstance(event, ClientUpdate)
    if updates == 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""Train, and be killed at the n-th update after some rounds."""


@pytest.mark.parametrize(
    ("rounds", "updates"), [(0, 7), (3, 2)], ids=["while the start is judged", "in the choice"]
)
def test_a_run_killed_where_models_are_judged_ends_in_the_same_bits(
    rounds, updates, start_cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    text = config.read_text().replace('init = "random"', 'init = "pca"\ninit_steps = 2')
    config.write_text(text.replace("rounds = 3", "rounds = 2"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start_cli("run", config, "--out", whole))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    given = (config, cut, tmp_path / "cache", rounds, updates)
    process = start_cli(*given, module="killed", cwd=tmp_path)
    assert process.wait(timeout=240) == -signal.SIGKILL, process.communicate()[0]
    assert (cut / "state.safetensors").exists() is (rounds > 0)
    finish(start_cli("run", "--resume", "--out", cut))
    expected = (whole / "state.safetensors").read_bytes()
    assert (cut / "state.safetensors").read_bytes() == expected
    records = [json.loads((run / "record.json").read_text()) for run in (whole, cut)]
    assert records[0]["candidates"] == records[1]["candidates"]
    assert records[0]["final"] == records[1]["final"]


def test_ctrl_c_leaves_a_resumable_run_and_says_how(start_cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    out = tmp_path / "run"
    process = start_cli("run", config, "--set", "federation.rounds=500", "--out", out)
    wait_until(process, (out / "state.safetensors").exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"stopped; continue with: fusseg run --resume --out {out}" in output
    assert "Traceback" not in output
