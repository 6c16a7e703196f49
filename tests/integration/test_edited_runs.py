"""A run's config.toml that was edited before the run is resumed: refused, or really followed."""

import json
import re

import pytest

from fusseg.runs.saved_state import load_state


def rounds_of(run_dir):
    record = json.loads((run_dir / "record.json").read_text())
    return [entry["round"] for entry in record["rounds"]]


def edit(run_dir, key, value):
    """Write another value for a key that stands once in the configuration."""
    path = run_dir / "config.toml"
    text, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", path.read_text())
    assert times == 1
    path.write_text(text)


@pytest.fixture
def begun(cli, make_sites, make_config, tmp_path):
    """A finished run of three rounds."""
    run_dir = tmp_path / "run"
    assert cli("run", make_config(make_sites()), "--out", run_dir)[0] == 0
    assert rounds_of(run_dir) == [1, 2, 3]
    return run_dir


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", "7", "seed is 7, but the run was started with 0"),
        ("strategy", '"fedavg"', "federation.strategy is 'fedavg', but the run was started with"),
        ("dropout", "0.3", "local.stego.dropout is 0.3, but the run was started with 0.1"),
    ],
)
def test_a_setting_that_decides_results_is_refused_by_its_name(cli, begun, key, value, named):
    edit(begun, "rounds", "5")
    edit(begun, key, value)
    record, state = (begun / "record.json").read_bytes(), (begun / "state.safetensors").read_bytes()
    code, _, err = cli("run", "--resume", "--out", begun)
    assert code == 2
    assert named in err
    assert "set it back, or start a new run" in err
    assert (begun / "record.json").read_bytes() == record
    assert (begun / "state.safetensors").read_bytes() == state


def test_more_rounds_are_trained_to_the_bits_of_a_run_begun_with_them(cli, begun, tmp_path):
    whole = tmp_path / "whole"
    more = ("--set", "federation.rounds=5")
    assert cli("run", tmp_path / "config.toml", *more, "--out", whole)[0] == 0
    before = load_state(begun).state.model.centroids
    edit(begun, "rounds", "5")
    edit(begun, "threads", "1")
    code, _, err = cli("run", "--resume", "--out", begun)
    assert (code, err) == (0, "")
    assert rounds_of(begun) == [1, 2, 3, 4, 5]
    assert not load_state(begun).state.model.centroids.equal(before)
    state = (begun / "state.safetensors").read_bytes()
    assert state == (whole / "state.safetensors").read_bytes()
    final = [json.loads((path / "record.json").read_text())["final"] for path in (begun, whole)]
    assert final[0] == final[1]


def test_a_key_that_is_the_default_may_be_left_out(cli, begun):
    path = begun / "config.toml"
    text, times = re.subn(r"(?m)^dropout = .*\n", "", path.read_text())
    assert times == 1
    path.write_text(text)
    assert cli("run", "--resume", "--out", begun)[0] == 0
