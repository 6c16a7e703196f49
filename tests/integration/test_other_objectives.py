"""`fusseg run` with every objective: on generated scenes, resumed, and with what is refused."""

import json
import signal

import pytest
from test_kill_resume import finish, wait_until

OBJECTIVES = {
    "contrastive": ("positives=0.7", "positions=30"),
    "smooseg": ("positions=60", "momentum=0.9"),
    "primaps": ("positions=60",),
}
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


def traffic(cli, config, out, objective):
    code, _, err = cli("run", config, "--set", f"local.objective={objective}", "--out", out)
    assert code == 0, err
    rounds = json.loads((out / "record.json").read_text())["rounds"]
    return [[(one["bytes_up"], one["bytes_down"]) for one in each["clients"]] for each in rounds]


def test_with_masks_only_centroids_are_sent_after_the_first_delivery(
    cli, make_sites, make_config, tmp_path
):
    config, centroids = make_config(make_sites()), 2 * 8 * 4
    found = traffic(cli, config, tmp_path / "masks", "primaps")
    assert found[1] == found[2] == [(centroids + 16, centroids + 8)] * 2
    first = found[0]
    assert all(up == centroids + 16 for up, _ in first)
    assert all(down > 1000 for _, down in first)  # head and plan, once
    stego = traffic(cli, config, tmp_path / "stego", "stego")
    for mine, other in zip(found[1], stego[1], strict=True):
        assert 20 * sum(mine) < sum(other)


def test_a_run_killed_while_images_are_prepared_ends_in_the_same_bits(
    start_cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(num_images=40))
    words = ("run", config, *sets("primaps", "data.image_size=[192, 288]", "local.steps=5"))
    finish(start_cli(*words, "--out", tmp_path / "whole", "--cache", tmp_path / "other"))
    cut, masks = tmp_path / "cut", tmp_path / "cache" / "masks"
    process = start_cli(*words, "--out", cut)
    wait_until(process, lambda: len(list(masks.glob("*/*.u8"))) > 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in masks.glob("*/*.u8")}
    assert 3 < len(kept) < 80
    assert not (cut / "state.safetensors").exists()
    printed = finish(start_cli("run", "--resume", "--out", cut))
    assert "preparing images: 80 of 80" in printed
    assert len(list(masks.glob("*/*.u8"))) == 80
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    whole = (tmp_path / "whole" / "state.safetensors").read_bytes()
    assert (cut / "state.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("setting", "fragment"),
    [
        ("local.fedprox_weight=0.1", "trains no head"),
        ("federation.strategy=lloyd", "takes only heads"),
        ("federation.aggregate_heads=false", "federation.aggregate_heads is false"),
    ],
)
def test_what_needs_a_trained_head_is_refused_before_anything_is_written(
    cli, make_sites, make_config, tmp_path, setting, fragment
):
    config, out = make_config(make_sites()), tmp_path / "run"
    code, _, err = cli("run", config, *sets("primaps", setting), "--out", out)
    assert code == 2
    assert fragment in err
    assert not out.exists()
