"""Models that the clients judge: several starts, and the choice between start and trained model."""

import json

import pytest
from typed_form import check_form

import fusseg
from fusseg.federation.state import ClientUpdate
from fusseg.runs.engine import RoundDone
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state

COMPUTED = "model.init=pca"
LAST = "federation.keep=last"
WHITENED = ("model.whitening=1", "model.init_steps=2")
"""A start that training improves on, by both figures."""
THREE = ("model.init_steps=2",)
"""Three starts, of which the first is kept to the end."""


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


@pytest.fixture
def train(cli, make_sites, make_config, tmp_path, all_zoomable):
    """Train with a computed start and all other defaults of the rules; returns the run."""
    config = make_config(make_sites())

    def run(name, *overrides):
        sets = [word for one in (COMPUTED, *overrides) for word in ("--set", one)]
        code, _, err = cli("run", config, *sets, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        return tmp_path / name

    return run


def kept_by(run_dir):
    return [one["name"] for one in record_of(run_dir)["candidates"] if one["kept"]]


def model_of(run_dir):
    return load_state(run_dir).state.model


def test_the_defaults_judge_three_starts_and_the_trained_model(train):
    record = record_of(run := train("run"))
    check_form(record, Record, "record")
    assert record["settings"]["model.whitening"] == "auto"
    assert record["settings"]["federation.keep"] == "best"
    names = ["whitening 0", "whitening 0.5", "whitening 1", "trained"]
    assert [one["name"] for one in record["candidates"]] == names
    assert all(0 < one["agreement"] <= 1 for one in record["candidates"])
    assert all(0 < one["margin"] <= 2 for one in record["candidates"])
    assert len(kept_by(run)) == 1
    phases = [(entry["round"], entry["phase"]) for entry in record["rounds"]]
    expected = ["start", "training", "training", "training", "choice"]
    assert phases == list(enumerate(expected))
    # Two sites: a count of pairs for each of 2 x 2 regions, a margin, and two numbers of positions
    # and images.
    assert record["rounds"][-1]["bytes_up"] == 2 * 8 * (4 + 1 + 1 + 1)
    saved = load_state(run).state
    # The best one is the model itself, which is saved once.
    assert saved.kept is saved.model
    assert saved.starts == ()


def test_a_start_that_is_kept_has_the_bits_and_scores_of_a_run_without_training(train, same_bits):
    chosen, start = train("chosen"), train("start", "federation.strategy=pca")
    assert kept_by(chosen) == kept_by(start) == ["whitening 0"]
    assert record_of(chosen)["candidates"][:3] == record_of(start)["candidates"]
    assert same_bits(model_of(chosen), model_of(start))
    found, expected = record_of(chosen), record_of(start)
    assert found["final"] == expected["final"]
    assert found["rounds"][-1]["mean_iou"] == found["rounds"][0]["mean_iou"]
    # The scores after training are still told.
    assert found["trained"] != found["final"]


@pytest.mark.parametrize("finish", [0, 1])
def test_a_trained_model_that_is_kept_has_the_bits_and_scores_of_the_last_one(
    finish, train, same_bits
):
    settings = (*WHITENED, f"federation.lloyd_rounds={finish}")
    chosen, last = train("chosen", *settings), train("last", *settings, LAST)
    assert kept_by(chosen) == ["trained"]
    assert record_of(last)["candidates"] == []
    assert same_bits(model_of(chosen), model_of(last))
    found, expected = record_of(chosen), record_of(last)
    assert found["final"] == expected["final"]
    assert len(found["rounds"]) == len(expected["rounds"]) + 1


def test_all_clients_judge_however_few_are_drawn_for_training(train):
    rounds = record_of(train("run", "federation.clients_per_round=1"))["rounds"]
    assert [len(entry["clients"]) for entry in rounds] == [2, 1, 1, 1, 2]


def test_models_of_merged_clusters_are_judged_by_their_regions(train):
    run = train("run", "model.num_clusters=6", "model.num_regions=3")
    assert model_of(run).num_regions == record_of(run)["num_regions"] == 3
    assert record_of(run)["rounds"][-1]["bytes_up"] == 2 * 8 * (9 + 3)
    assert len(record_of(run)["final"]["confusion"]) == 3


@pytest.mark.parametrize(
    ("settings", "rounds", "updates"),
    [
        # In round 0: while the only start is judged, and while three are placed.
        (WHITENED, 0, 7),
        (THREE, 0, 5),
        # After the last round of training, and in the choice.
        (WHITENED, 4, 0),
        (WHITENED, 4, 1),
        (THREE, 4, 1),
    ],
)
def test_a_run_stopped_where_models_are_judged_goes_on_to_the_same_bits(
    settings, rounds, updates, train, cli, tmp_path
):
    whole, cut = train("whole", *settings), tmp_path / "cut"
    config = fusseg.load_config(tmp_path / "config.toml", [COMPUTED, *settings])
    events = fusseg.run_experiment(config, cut, tmp_path / "cache")
    done = 0
    for event in events:
        done += isinstance(event, RoundDone)
        updates -= done == rounds and isinstance(event, ClientUpdate)
        if done == rounds and updates == 0:
            break
    events.close()
    assert (cut / "state.safetensors").exists() is (rounds > 0)
    assert cli("run", "--resume", "--out", cut)[0] == 0
    expected = (whole / "state.safetensors").read_bytes()
    assert (cut / "state.safetensors").read_bytes() == expected
    for field in ("candidates", "trained", "final"):
        assert record_of(cut)[field] == record_of(whole)[field]


def test_no_rounds_can_be_added_after_the_choice(train, cli):
    run = train("run", "model.whitening=0")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("\nrounds = 3\n", "\nrounds = 5\n"))
    code, _, err = cli("run", "--resume", "--out", run)
    assert code == 2
    assert "no rounds can be added; train on from it: fusseg run --from" in err


def test_other_rounds_do_not_depend_on_the_choice(train):
    runs = [train("best"), train("last", LAST)]
    best, last = (record_of(run)["rounds"] for run in runs)
    scores = [[entry["mean_iou"] for entry in rounds] for rounds in (best, last)]
    assert scores[0][:-1] == scores[1]
    losses = [[entry["loss"] for entry in rounds] for rounds in (best, last)]
    assert losses[0][:-1] == losses[1]
