"""`fusseg run` with every objective: on generated scenes, resumed, and with what is refused."""

import json

import pytest

OBJECTIVES = {"contrastive": ("positives=0.7", "positions=30")}
"""Objectives, each with settings for small images."""


def sets(objective, *more):
    tables = (f"local.{objective}.{setting}" for setting in OBJECTIVES[objective])
    return [
        word
        for setting in (f"local.objective={objective}", *tables, *more)
        for word in ("--set", setting)
    ]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_finds_the_two_materials(cli, make_sites, make_config, tmp_path, objective):
    config, out = make_config(make_sites()), tmp_path / "run"
    more = ("local.steps=30", "federation.lloyd_rounds=1")
    code, printed, err = cli("run", config, *sets(objective, *more), "--out", out)
    assert code == 0, err
    assert "round 3 of 4: loss" in printed
    record = json.loads((out / "record.json").read_text())
    assert record["final"]["pixel_accuracy"] > 0.9
    # Written out with every key, and only the chosen objective.
    written = (out / "config.toml").read_text()
    assert f"[local.{objective}]" in written
    assert f'objective = "{objective}"' in written
