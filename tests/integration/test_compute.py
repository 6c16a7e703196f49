"""Precision, threads and batched clients from the command line."""

import json

import pytest


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def run(cli, config, out, *more):
    settings = [word for setting in more for word in ("--set", setting)]
    code, _, err = cli("run", config, "--out", out, *settings)
    assert (code, err) == (0, "")
    return record_of(out)


def test_batched_clients_score_like_clients_one_by_one(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    alone = run(cli, config, tmp_path / "alone")
    together = run(cli, config, tmp_path / "together", "compute.clients_at_once=2")
    assert alone["compute"] == {"device": "cpu", "precision": "float32"}
    for expected, found in zip(alone["rounds"], together["rounds"], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert found["mean_iou"] == pytest.approx(expected["mean_iou"], abs=0.02)


def test_a_run_in_bfloat16_says_so_and_goes_on_in_it_only(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    record = run(cli, config, tmp_path / "run", "compute.precision=bfloat16")
    assert record["compute"]["precision"] == "bfloat16"
    assert record["final"]["mean_iou"] > 0.5
    exact = run(cli, config, tmp_path / "exact")
    assert record["rounds"][0]["loss"] != exact["rounds"][0]["loss"]
    assert record["rounds"][0]["loss"] == pytest.approx(exact["rounds"][0]["loss"], abs=0.05)


def test_a_run_is_not_resumed_where_auto_stands_for_another_precision(
    cli, make_sites, make_config, tmp_path
):
    out = tmp_path / "run"
    run(cli, make_config(make_sites()), out, "compute.precision=auto", "federation.rounds=1")
    record = record_of(out)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[record["compute"]["precision"]]
    record["compute"]["precision"] = other
    (out / "record.json").write_text(json.dumps(record))
    code, _, err = cli("run", "--resume", "--out", out)
    assert code == 2
    assert err.startswith(f"error: {out} was started in {other} ")
    assert "compute.precision 'auto' is " in err


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    out = tmp_path / "run"
    code, _, err = cli("run", config, "--out", out, "--set", "compute.device=mps")
    assert code == 2
    assert "compute.device is 'mps', but torch" in err
    assert not out.exists()
