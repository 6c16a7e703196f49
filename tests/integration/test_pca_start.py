"""Round 0 from the command line: the start is computed, scored and saved as other rounds are."""

import json

import pytest

import fusseg
from fusseg.federation.state import ClientUpdate
from fusseg.runs.engine import RoundDone

START = ("model.init=pca", "model.init_steps=3", "model.whitening=0", "federation.keep=last")


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def sets(*overrides):
    return [part for override in overrides for part in ("--set", override)]


def test_the_start_is_scored_before_round_1(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    code, out, err = cli("run", config, *sets(*START), "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "start: federated PCA, mIoU 0." in out
    start, *trained = record_of(tmp_path / "run")["rounds"]
    assert (start["round"], start["phase"], start["loss"]) == (0, "start", None)
    assert start["mean_iou"] > 0.5
    assert [entry["phase"] for entry in trained] == ["training"] * 3
    # two sites: moments, sums and counts of six clusters three times, and one number each
    dim = record_of(tmp_path / "run")["backbone"]["feature_dim"]
    moments, sums = 8 * (dim**2 + dim + 1), 8 * (6 * 8 + 6)
    assert start["bytes_up"] == 2 * (moments + 3 * sums + 4 * 8)
    assert (tmp_path / "run" / "history" / "round-000.safetensors").exists()


def test_shifts_of_the_start_replace_those_of_the_hello(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    agreed = {}
    for wanted in ("true", "false"):
        chosen = sets(*START, f"local.stego.shift_from_start={wanted}", "federation.rounds=1")
        assert cli("run", config, *chosen, "--out", tmp_path / wanted)[0] == 0
        agreed[wanted] = record_of(tmp_path / wanted)["hello"]["agreed"]
    assert agreed["true"].keys() == agreed["false"].keys()
    assert all(agreed["true"][name] != agreed["false"][name] for name in agreed["true"])


@pytest.mark.parametrize("strategy", ["local", "centralized"])
def test_baselines_start_from_their_own_images(strategy, cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    chosen = sets(*START, f"federation.strategy={strategy}", "federation.rounds=1")
    assert cli("run", config, *chosen, "--out", tmp_path / "run")[0] == 0
    record = record_of(tmp_path / "run")
    assert record["rounds"][0]["mean_iou"] > 0.5
    # no part: `local` counts one number for each answer, as in its other rounds
    assert record["rounds"][0]["bytes_up"] == {"local": 2 * 4 * 8, "centralized": 0}[strategy]


@pytest.mark.parametrize(
    "strategy", ["fedcc-kmeans", "local", "centralized", "fedavg, own heads", "pca"]
)
@pytest.mark.parametrize("within", [True, False])
def test_a_run_stopped_in_or_after_round_0_goes_on_to_the_same_bits(
    strategy, within, cli, make_sites, make_config, tmp_path
):
    name, *own = strategy.split(", ")
    chosen = [*START, f"federation.strategy={name}", "federation.rounds=1"]
    chosen += ["federation.aggregate_heads=false"] if own else []
    chosen += ["federation.lloyd_rounds=1"] if name == "pca" else []
    config = make_config(make_sites())
    assert cli("run", config, *sets(*chosen), "--out", tmp_path / "whole")[0] == 0
    settings = fusseg.load_config(config, chosen)
    updates = 0
    events = fusseg.run_experiment(settings, tmp_path / "cut", tmp_path / "cache")
    for event in events:
        updates += isinstance(event, ClientUpdate)
        if (within and updates == 2) or isinstance(event, RoundDone):
            break
    events.close()
    assert (tmp_path / "cut" / "state.safetensors").exists() is not within
    assert cli("run", "--resume", "--out", tmp_path / "cut")[0] == 0
    whole = (tmp_path / "whole" / "state.safetensors").read_bytes()
    assert (tmp_path / "cut" / "state.safetensors").read_bytes() == whole
    assert record_of(tmp_path / "cut")["final"] == record_of(tmp_path / "whole")["final"]


def test_the_report_counts_the_rounds_after_the_start(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    assert cli("run", config, *sets(*START), "--out", tmp_path / "run")[0] == 0
    page = " ".join((tmp_path / "run" / "report.html").read_text().split())
    assert "3 rounds of 4 steps" in page
    assert "for 3 rounds" in page


@pytest.mark.parametrize("strategy", ["pca", "fedcc-kmeans"])
def test_a_whitened_start_is_trained_on_and_started_from(
    strategy, cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    chosen = [*START, f"federation.strategy={strategy}", "federation.rounds=1"]
    states = []
    for whitening in (0, 1):
        more, out = sets(*chosen, f"model.whitening={whitening}"), tmp_path / str(whitening)
        assert cli("run", config, *more, "--out", out)[0] == 0
        assert record_of(out)["settings"]["model.whitening"] == whitening
        states.append((out / "state.safetensors").read_bytes())
    assert states[0] != states[1]
    more = sets("federation.strategy=fedavg", "federation.rounds=1")
    code, _, err = cli("run", "--from", tmp_path / "1", *more, "--out", tmp_path / "more")
    assert (code, err) == (0, "")
    assert record_of(tmp_path / "more")["settings"]["model.whitening"] == 0


def test_whitening_of_a_drawn_start_is_refused(cli, make_sites, make_config, tmp_path):
    code, _, err = cli(
        *("run", make_config(make_sites()), *sets("model.whitening=0.5")),
        *("--out", tmp_path / "run"),
    )
    assert code == 2
    assert "because model.init is 'random'; set model.whitening to 0" in err
    assert not (tmp_path / "run").exists()
