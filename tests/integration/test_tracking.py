"""Rounds of a run in TensorBoard, MLflow and Weights & Biases: the real packages, offline."""

import json

import pytest

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.runs.trackers import FOLDER, check_trackers, track


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_every_round_of_a_run_is_logged_to_tensorboard(cli, make_sites, make_config, tmp_path):
    pytest.importorskip("tensorboard", reason="needs fusseg[trackers]")
    out = tmp_path / "run"
    code, _, err = cli("run", make_config(make_sites()), "--out", out, "--track", "tensorboard")
    assert (code, err) == (0, "")
    rounds = json.loads((out / "record.json").read_text())["rounds"]
    found = scalars(out / FOLDER)
    for name in ("loss", "mean_iou", "bytes_up"):
        expected = {entry["round"]: entry[name] for entry in rounds}
        assert found[name] == pytest.approx(expected, rel=1e-6)


# Its own databases' libraries warn of each other.
@pytest.mark.filterwarnings("ignore")
def test_rounds_and_settings_are_logged_to_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs fusseg[trackers]")
    pytest.importorskip("sqlalchemy", reason="MLflow keeps local runs in a database")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with track(["mlflow"], tmp_path / "some-run", Config(seed=5)) as log:
        log(1, {"loss": -0.25})
        log(2, {"loss": -0.5})
    (run,) = mlflow.search_runs(experiment_names=["fusseg"], output_format="list")
    assert run.info.run_name == "some-run"
    assert run.data.params["seed"] == "5"
    assert run.data.params["model.num_clusters"] == "27"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert {point.step: point.value for point in history} == {1: -0.25, 2: -0.5}


@pytest.mark.filterwarnings("ignore")
def test_rounds_are_logged_to_wandb(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb", reason="needs fusseg[trackers]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with track(["wandb"], tmp_path, Config()) as log:
        log(1, {"loss": -0.25})
    assert "failed" not in capfd.readouterr().err
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert written.stat().st_size > 0


def test_a_run_does_not_fail_because_a_tracker_does(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="needs fusseg[trackers]")
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with track(["tensorboard"], tmp_path, Config()) as log:
        log(1, {"loss": 0.0})
    error = capsys.readouterr().err
    assert error.startswith("tracker tensorboard failed and is left out: ")
    assert error.count("\n") == 1


def test_an_error_of_the_run_is_not_taken_for_one_of_the_tracker(tmp_path):
    pytest.importorskip("tensorboard", reason="needs fusseg[trackers]")
    with pytest.raises(ZeroDivisionError), track(["tensorboard"], tmp_path, Config()):
        raise ZeroDivisionError


def test_an_unknown_tracker_is_refused_before_anything_is_written(
    cli, make_sites, make_config, tmp_path
):
    out = tmp_path / "run"
    code, _, err = cli("run", make_config(make_sites()), "--out", out, "--track", "tensorbord")
    assert code == 2
    assert err == "error: unknown tracker 'tensorbord'; did you mean 'tensorboard'?\n"
    assert not out.exists()


def test_a_tracker_that_is_not_installed_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr("fusseg.runs.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fusseg\[trackers\]'"):
        check_trackers(["wandb"])
