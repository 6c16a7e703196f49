"""A new site, later: start from a saved model, or move its centroids to new images."""

import json
import tomllib
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from torch.nn.functional import cosine_similarity
from typed_form import check_form

from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state, save_state

NAMES = """
[[regions]]
cluster = 0
name = "gravel"
color = "#112233"

[[regions]]
cluster = 1
name = "metal"
color = "#fedcba"
"""


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


@pytest.fixture
def saved_run(cli, make_sites, make_config, tmp_path):
    """A run of two sites; a third is held out."""
    run_dir = tmp_path / "saved"
    assert cli("run", make_config(make_sites()), "--out", run_dir)[0] == 0
    return run_dir


def test_a_run_starts_from_a_saved_model(cli, saved_run, tmp_path):
    (saved_run / "regions.toml").write_text(NAMES)
    new = tmp_path / "new"
    code, _, err = cli("run", "--from", saved_run, "--set", "seed=3", "--out", new)
    assert (code, err) == (0, "")
    state = (saved_run / "state.safetensors").read_bytes()
    record = record_of(new)
    assert record["start"] == {
        "path": saved_run.name,
        "name": "saved",
        "round": 3,
        "state_digest": sha256(state).hexdigest(),
    }
    assert [entry["round"] for entry in record["rounds"]] == [1, 2, 3]
    assert tomllib.loads((new / "config.toml").read_text())["model"]["start"] == str(saved_run)
    assert (new / "regions.toml").read_text() == NAMES
    report = (new / "report.html").read_text()
    assert "gravel" in report
    assert "rgb(254 220 186)" in report


def test_names_that_cannot_be_read_stop_a_run_before_it_begins(cli, saved_run, tmp_path):
    (saved_run / "regions.toml").write_text("[[regions]]\ncluster = 0\n")
    code, _, err = cli("run", "--from", saved_run, "--out", tmp_path / "new")
    assert code == 2
    assert "regions.toml" in err
    assert not (tmp_path / "new").exists()


def test_without_a_name_it_is_called_after_the_saved_one(cli, saved_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("run", "--from", saved_run, "--set", "federation.rounds=1")[0] == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("saved-2")


def test_new_sites_agree_on_a_mean_of_their_own(cli, saved_run, tmp_path):
    sites = 'data.train_sites=["south"]'
    cli("run", "--from", saved_run, "--set", sites, "--out", tmp_path / "new")
    plain = ["--set", sites, "--set", "model.start="]
    cli("run", saved_run / "config.toml", *plain, "--out", tmp_path / "drawn")
    means = [
        load_state(run_dir).state.plan.mean_feature
        for run_dir in (saved_run, tmp_path / "new", tmp_path / "drawn")
    ]
    assert torch.equal(means[1], means[2])
    assert not torch.equal(means[0], means[1])


def test_the_first_update_sets_out_from_the_saved_model(cli, saved_run, tmp_path):
    still = ["--set", "local.head_learning_rate=1e-9", "--set", "federation.rounds=1"]
    still += ["--set", "local.centroid_learning_rate=1e-9", "--set", "federation.strategy=fedavg"]
    cli("run", "--from", saved_run, *still, "--out", tmp_path / "new")
    old, new = load_state(saved_run).state.model, load_state(tmp_path / "new").state.model
    for name, weight in old.head.items():
        torch.testing.assert_close(new.head[name], weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(new.centroids, old.centroids, rtol=0, atol=1e-6)


@pytest.mark.parametrize("silenced", [False, True])
def test_training_on_from_federated_pca_moves_the_whole_head(
    silenced, cli, make_sites, make_config, tmp_path
):
    pca = tmp_path / "pca"
    only_pca = ["--set", "federation.strategy=pca", "--set", "model.init=pca"]
    assert cli("run", make_config(make_sites()), *only_pca, "--out", pca)[0] == 0
    saved = load_state(pca)
    head = saved.state.model.head
    if silenced:
        # As such runs were once saved: no gradient reaches two layers of zeros.
        silent = {name: torch.zeros_like(head[name]) for name in head if "hidden" in name}
        model = replace(saved.state.model, head=head | silent)
        save_state(pca, replace(saved, state=replace(saved.state, model=model)))
    more = ["--set", "federation.strategy=fedavg", "--set", "federation.lloyd_rounds=0"]
    assert cli("run", "--from", pca, *more, "--out", tmp_path / "more")[0] == 0
    for name, part in load_state(tmp_path / "more").state.model.head.items():
        assert bool(part.any()), name
        assert not torch.equal(part, head[name]), name


def test_its_configuration_repeats_it_and_it_resumes(cli, saved_run, tmp_path):
    cli("run", "--from", saved_run, "--out", tmp_path / "a")
    state = (tmp_path / "a" / "state.safetensors").read_bytes()
    cli("run", tmp_path / "a" / "config.toml", "--out", tmp_path / "b")
    assert (tmp_path / "b" / "state.safetensors").read_bytes() == state
    # Even where the saved run is gone: what is needed of it is in the new one's state.
    (saved_run / "state.safetensors").unlink()
    code, _, err = cli("run", "--resume", "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    assert (tmp_path / "b" / "state.safetensors").read_bytes() == state


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.num_clusters=5", "has 2 centroids of 8 channels, but model.num_clusters is 5"),
        ("federation.strategy=local", "does not train one model for all sites"),
        ("backbone.center=false", "was trained with backbone.center true, but here it is false"),
    ],
)
def test_what_cannot_start_is_refused(cli, saved_run, tmp_path, override, reason):
    code, _, err = cli("run", "--from", saved_run, "--set", override, "--out", tmp_path / "new")
    assert code == 2
    assert reason in err


def test_a_saved_run_must_be_there_and_share_one_model(
    cli, make_sites, make_config, tmp_path, saved_run
):
    code, _, err = cli("run", "--from", tmp_path / "absent", "--out", tmp_path / "new")
    assert code == 2
    assert "there is no run directory" in err
    code, _, err = cli("run", "--from", saved_run, "--resume", "--out", tmp_path / "new")
    assert code == 2
    assert "--from starts a new run, --resume continues one" in err
    own = tmp_path / "own"
    config = tmp_path / "config.toml"
    cli("run", config, "--set", "federation.strategy=local", "--out", own)
    code, _, err = cli("run", "--from", own, "--out", tmp_path / "new")
    assert code == 2
    assert "does not train one model" in err
    joint = "federation.strategy=fedavg"
    code, _, err = cli("run", "--from", own, "--set", joint, "--out", tmp_path / "new")
    assert code == 2
    assert f"each site of {own} has its own model" in err


def test_centroids_move_to_a_folder_of_images(cli, saved_run, tmp_path):
    (saved_run / "regions.toml").write_text(
        '[[regions]]\ncluster = 0\nname = "gravel bed"\ncolor = "#010203"\n'
        '[[regions]]\ncluster = 1\nname = "plate"\ncolor = "#040506"\n'
    )
    out = tmp_path / "adapted"
    images = tmp_path / "sites" / "west" / "images"
    code, text, err = cli("adapt", saved_run, images, "--out", out, "--min-cosine", "0.9")
    assert (code, err) == (0, "")
    assert "no labels" in text
    old, new = load_state(saved_run).state, load_state(out).state
    assert not torch.equal(old.plan.mean_feature, new.plan.mean_feature)
    assert all(torch.equal(new.model.head[name], part) for name, part in old.model.head.items())
    cosines = cosine_similarity(old.model.centroids, new.model.centroids)
    assert float(cosines.min()) >= 0.9 - 1e-6
    assert float(cosines.max()) < 1 - 1e-9
    record = record_of(out)
    check_form(record, Record, "record")
    assert record["clients"] == [{"client_id": "images", "num_images": 6}]
    assert record["start"]["name"] == "saved"
    assert [region["cosine"] for region in record["adapted"]["regions"]] == pytest.approx(
        cosines.tolist(), abs=1e-6
    )
    page = (out / "adaptation.html").read_text()
    assert "Without labels" in page
    assert "gravel bed" in page
    assert (out / "regions.toml").read_bytes() == (saved_run / "regions.toml").read_bytes()
    assert cli("predict", out, images, "--out", tmp_path / "regions")[0] == 0
    assert cli("report", out)[0] == 0


def test_labels_score_before_and_after(cli, saved_run, make_sites, tmp_path):
    other = make_sites(sites=("east", "far"), num_images=4, name="others")
    out = tmp_path / "adapted"
    code, text, err = cli("adapt", saved_run, other, "--out", out)
    assert (code, err) == (0, "")
    adapted, final = record_of(out)["adapted"], record_of(out)["final"]
    assert f"mIoU before {adapted['before']['mean_iou']:.4f}, after {final['mean_iou']:.4f}" in text
    assert adapted["names_kept_mean_iou"] <= final["mean_iou"] + 1e-9


@pytest.mark.parametrize("wrong", ["out", "backbone"])
def test_what_cannot_be_adapted_is_refused_before_features_are_extracted(
    cli, saved_run, tmp_path, wrong
):
    out, cache = tmp_path / "adapted", tmp_path / "new-cache"
    if wrong == "out":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        reason = f"{out} exists and is not overwritten"
    else:
        saved = load_state(saved_run)
        save_state(saved_run, replace(saved, fingerprint="0" * 64))
        reason = f"{saved_run} was trained on a backbone with fingerprint 0000000000000000"
    images = tmp_path / "sites" / "west" / "images"
    code, _, err = cli("adapt", saved_run, images, "--out", out, "--cache", cache)
    assert code == 2
    assert reason in err
    assert not cache.exists()
