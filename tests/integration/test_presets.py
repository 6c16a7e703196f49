"""The paper's settings by name, from `fusseg init` to a resumed run."""

import json
import tomllib

import pytest

import fusseg
from fusseg.config.file import flatten, load_config, to_table
from fusseg.config.presets import find_preset
from fusseg.runs.engine import RoundDone
from fusseg.segmentation.objectives import spell_out

FAST = ("--set", "federation.rounds=2", "--set", "local.steps=3")
PAPER = flatten(find_preset("paper"))


@pytest.fixture(autouse=True)
def sites(make_sites, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_sites(num_images=4)


def settings_of(run_dir):
    return flatten(tomllib.loads((run_dir / "config.toml").read_text()))


def test_init_writes_the_papers_settings_and_run_takes_them_for_keys_that_are_left_out(
    cli, tmp_path
):
    assert cli("init", "sites", "--out", "plain.toml")[0] == 0
    assert cli("init", "sites", "--preset", "paper", "--out", "paper.toml")[0] == 0
    written = flatten(tomllib.loads((tmp_path / "paper.toml").read_text()))
    assert written.items() >= PAPER.items()
    assert "init --preset paper" in (tmp_path / "paper.toml").read_text()
    for name, more in (("plain", ("--preset", "paper")), ("paper", ())):
        code, out, err = cli("run", f"{name}.toml", *more, *FAST, "--out", name)
        assert (code, err) == (0, "")
        assert "start: federated PCA" not in out
    plain, paper = tmp_path / "plain", tmp_path / "paper"
    assert settings_of(plain) == settings_of(paper)
    assert settings_of(plain).items() >= (PAPER | {"federation.rounds": 2}).items()
    assert (plain / "state.safetensors").read_bytes() == (paper / "state.safetensors").read_bytes()
    assert json.loads((plain / "record.json").read_text())["settings"]["model.init"] == "random"


def test_the_preset_default_changes_nothing(cli, tmp_path):
    assert cli("init", "sites", "--out", "plain.toml")[0] == 0
    assert cli("init", "sites", "--preset", "default", "--out", "default.toml")[0] == 0
    plain = (tmp_path / "plain.toml").read_bytes()
    assert (tmp_path / "default.toml").read_bytes() == plain
    assert load_config("plain.toml", preset="default") == load_config("plain.toml")
    assert cli("run", "plain.toml", *FAST, "--preset", "default", "--out", "run")[0] == 0
    assert settings_of(tmp_path / "run")["model.init"] == "pca"


def test_what_the_file_and_the_command_line_say_wins(cli, make_config, sites, tmp_path):
    config = make_config(sites, more='distance = "cosine"\n')
    more = ("--set", "federation.weights=equal", "--preset", "paper")
    assert cli("run", config, *more, "--out", "run")[0] == 0
    found = settings_of(tmp_path / "run")
    own = {
        "model.code_dim": 8,
        "local.batch_size": 4,
        "local.stego.positions": 30,
        "federation.rounds": 3,
        "federation.distance": "cosine",
        "federation.weights": "equal",
    }
    assert found.items() >= (PAPER | own).items()


def test_a_run_with_a_preset_is_resumed_without_naming_it_again(cli, tmp_path):
    assert cli("init", "sites", "--out", "plain.toml")[0] == 0
    run = ("run", "plain.toml", "--preset", "paper", "--set", "local.steps=1")
    assert cli(*run, "--out", "whole")[0] == 0
    config = load_config("plain.toml", ["local.steps=1"], "paper")
    for name in ("unnamed", "named"):
        events = fusseg.run_experiment(config, tmp_path / name, tmp_path / "cache")
        next(event for event in events if isinstance(event, RoundDone))
        events.close()
    every = flatten(to_table(spell_out(config)))
    assert settings_of(tmp_path / "unnamed").keys() == {
        key for key, value in every.items() if value is not None
    }
    assert cli("run", "--resume", "--out", "unnamed")[0] == 0
    assert cli("run", "--resume", "--preset", "paper", "--out", "named")[0] == 0
    whole = (tmp_path / "whole" / "state.safetensors").read_bytes()
    for name in ("unnamed", "named"):
        assert (tmp_path / name / "state.safetensors").read_bytes() == whole


@pytest.mark.parametrize("named", [(), ("plain.toml",)])
def test_a_run_is_not_resumed_with_another_preset(named, cli, tmp_path):
    assert cli("init", "sites", "--out", "plain.toml")[0] == 0
    events = fusseg.run_experiment(load_config("plain.toml"), tmp_path / "run", tmp_path / "cache")
    next(event for event in events if isinstance(event, RoundDone))
    events.close()
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    code, _, err = cli("run", *named, "--resume", "--preset", "paper", "--out", "run")
    assert code == 2
    keys = "model.init, model.whitening, federation.distance, federation.keep"
    assert f"another configuration (differs in {keys})" in err
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before


def test_an_unknown_preset_is_refused_with_the_nearest_name(cli, make_config, sites, tmp_path):
    for command in (("init", "sites", "--out", "x.toml"), ("run", make_config(sites))):
        code, _, err = cli(*command, "--preset", "papr")
        assert code == 2
        assert "unknown preset 'papr'; did you mean 'paper'?" in err
    assert not (tmp_path / "x.toml").exists()
    assert not (tmp_path / "runs").exists()


def test_settings_of_a_run_to_start_from_leave_nothing_to_a_preset(
    cli, make_config, sites, tmp_path
):
    config = make_config(sites)
    assert cli("run", config, "--out", "old")[0] == 0
    code, _, err = cli("run", "--from", "old", "--preset", "paper", "--out", "new")
    assert code == 2
    assert "give CONFIG.toml, or leave out --preset" in err
    assert not (tmp_path / "new").exists()
    code, _, err = cli("run", config, "--from", "old", "--preset", "paper", "--out", "new")
    assert (code, err) == (0, "")
    assert settings_of(tmp_path / "new")["federation.distance"] == "euclidean"
