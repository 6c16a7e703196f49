"""A run whose clusters were merged: everything that uses it has its regions, and all agree."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from fusseg import Segmenter
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

CLUSTERS, REGIONS = 12, 3
MERGED = ("--set", f"model.num_regions={REGIONS}")
MODEL = f"""
strategy = "lloyd"
lloyd_rounds = 2

[model]
num_clusters = {CLUSTERS}
code_dim = 8
init = "random"
"""


@pytest.fixture
def runs(cli, make_sites, make_config, tmp_path):
    """A run with a region per cluster, and the same run that merges its clusters."""
    config = make_config(make_sites())
    text = config.read_text()
    model = '[model]\nnum_clusters = 2\ncode_dim = 8\ninit = "random"\n'
    assert model in text
    config.write_text(text.replace(model, "") + MODEL)
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    assert cli("run", config, "--out", plain)[0] == 0
    code, out, _ = cli("run", config, *MERGED, "--out", merged)
    assert code == 0
    assert f"{REGIONS} regions, merged from {CLUSTERS} clusters" in out
    return plain, merged


def map_of(run_dir):
    return load_state(run_dir).state.model.region_of.numpy()


def test_merging_changes_no_bit_of_head_and_centroids(runs, same_bits):
    plain, merged = (load_state(run).state.model for run in runs)
    assert merged.num_regions == REGIONS
    assert same_bits(replace(merged, region_of=None), plain)


@pytest.mark.parametrize(
    "setting", ["model.num_regions=auto", "model.merge_by=borders", "model.init=pca"]
)
def test_the_regions_of_other_settings_are_scored_and_predicted(setting, runs, cli, tmp_path):
    out = tmp_path / "other"
    assert cli("run", runs[0] / "config.toml", *MERGED, "--set", setting, "--out", out)[0] == 0
    record, segmenter = load_record(out), Segmenter.load(out)
    regions = record["num_regions"]
    assert 2 <= regions < CLUSTERS
    assert setting.endswith("auto") or regions == REGIONS
    assert len(record["final"]["confusion"]) == segmenter.model.num_regions == regions
    images = tmp_path / "sites" / "west" / "images"
    assert cli("predict", out, images, "--out", tmp_path / "found")[0] == 0
    found = [np.asarray(Image.open(file)).max() for file in (tmp_path / "found").glob("*.png")]
    assert 0 < max(found) < regions


@pytest.fixture
def picture(runs, tmp_path):
    """Images of the held-out site, stretched to other sizes."""

    def load(height, width, index=0):
        file = tmp_path / "sites" / "west" / "images" / f"{index:03d}.png"
        return np.asarray(Image.open(file).convert("RGB").resize((width, height)))

    return load


def test_predictions_are_those_of_the_clusters_regions(runs, cli, picture, tmp_path):
    plain, merged = runs
    image = picture(70, 90)
    clusters = Segmenter.load(plain).predict(image).regions
    expected = map_of(merged)[clusters]
    found = Segmenter.load(merged).predict(image)
    assert np.array_equal(found.regions, expected)
    assert set(found.names) == {0, 1, 2}
    assert len(np.unique(clusters)) > len(np.unique(expected)) > 1
    Image.fromarray(image).save(tmp_path / "image.png")
    assert cli("predict", merged, tmp_path / "image.png", "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "image.png")), expected)
    written = json.loads((tmp_path / "out" / "image.json").read_text())
    assert [region["index"] for region in written["regions"]] == [0, 1, 2]
    assert [region["pixels"] for region in written["regions"]] == np.bincount(
        expected.ravel(), minlength=REGIONS
    ).tolist()
    assert all(0 <= region["confidence"] <= 2 for region in written["regions"])


@pytest.mark.parametrize("refine", ["guided", "crf"])
def test_refined_predictions_have_regions_too(runs, cli, picture, tmp_path, refine):
    Image.fromarray(picture(64, 96)).save(tmp_path / "image.png")
    out = tmp_path / "out"
    given = ("predict", runs[1], tmp_path / "image.png", "--out", out, "--refine", refine)
    assert cli(*given)[0] == 0
    found = np.asarray(Image.open(out / "image.png"))
    plain = Segmenter.load(runs[1]).predict(picture(64, 96)).regions
    assert found.max() < REGIONS
    assert (found == plain).mean() > 0.8
    assert len(np.unique(found)) > 1


def test_a_packed_model_has_the_regions(runs, cli, picture, tmp_path):
    merged, file = runs[1], tmp_path / "model.safetensors"
    code, out, _ = cli("pack", merged, "--out", file)
    assert code == 0
    assert out.startswith(f"{file}: {REGIONS} regions, ")
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["fusseg"])
        assert np.array_equal(opened.get_tensor("region_of").numpy(), map_of(merged))
    assert (metadata["format_version"], metadata["num_regions"]) == (3, REGIONS)
    assert metadata["num_clusters"] == CLUSTERS
    image = picture(70, 90)
    expected = Segmenter.load(merged).predict(image)
    found = Segmenter.load(file).predict(image)
    assert np.array_equal(found.regions, expected.regions)
    assert found.names == expected.names
    repo = tmp_path / "repo"
    assert cli("push", merged, "me/merged", "--license", "mit", "--dry-run", repo)[0] == 0
    card = (repo / "README.md").read_text()
    assert f"splits images into {REGIONS} regions" in card
    assert f"| clusters that were merged to regions | {CLUSTERS} |" in card


def test_names_are_given_to_regions(runs, cli, picture):
    merged = runs[1]
    assert cli("name", merged)[0] == 0
    file = merged / "regions.toml"
    named = tomllib.loads(file.read_text())["regions"]
    assert [entry["cluster"] for entry in named] == [0, 1, 2]
    colors = file.read_text().replace('name = ""', 'name = "gravel"', 1)
    file.write_text(colors.replace('name = ""', 'name = "metal"', 2))
    image = picture(70, 90)
    number = Segmenter.load(merged).numbered().predict(image).regions
    found = Segmenter.load(merged).predict(image)
    assert dict(found.names) == {0: "gravel", 1: "metal"}
    assert np.array_equal(found.regions, np.minimum(number, 1))
    code, out, _ = cli("evaluate", merged)
    assert code == 0
    assert "by the names in regions.toml: mIoU" in out
    file.write_text(file.read_text().replace("cluster = 2", "cluster = 3"))
    code, _, err = cli("evaluate", merged)
    assert code == 2
    assert "unknown cluster 3; the model has 0 to 2" in err


def test_scores_and_the_report_are_of_regions(runs, cli, tmp_path):
    plain, merged = runs
    record = load_record(merged)
    assert record["num_clusters"] == CLUSTERS
    before = load_record(plain)["final"]
    final = record["final"]
    assert len(final["confusion"]) == len(final["matching"]) == REGIONS
    assert len(final["quality"]["cluster_share"]) == REGIONS
    summed = np.zeros_like(final["confusion"])
    np.add.at(summed, map_of(merged), np.array(before["confusion"]))
    assert summed.tolist() == final["confusion"]
    shares = np.zeros(REGIONS)
    np.add.at(shares, map_of(merged), before["quality"]["cluster_share"])
    assert final["quality"]["cluster_share"] == pytest.approx(shares)
    assert final["quality"]["mean_cosine"] == pytest.approx(before["quality"]["mean_cosine"])
    assert final["quality"]["mean_margin"] > before["quality"]["mean_margin"]
    code, out, _ = cli("evaluate", merged)
    assert code == 0
    assert f"{final['mean_iou']:.4f}" in out
    assert cli("report", merged)[0] == 0
    page = (merged / "report.html").read_text()
    assert f"<strong>{REGIONS} regions</strong> (merged from {CLUSTERS} clusters)" in page
    assert cli("report", plain)[0] == 0
    page = (plain / "report.html").read_text()
    assert f"<strong>{CLUSTERS} regions</strong> without labels" in page
    page = tmp_path / "compare.html"
    code, _, err = cli("report", plain, merged, "--out", page)
    assert (code, err) == (0, "")
    assert "The number of regions differs" in page.read_text()


def test_two_runs_with_other_numbers_of_regions_are_compared(runs, cli, tmp_path):
    plain, merged = runs
    page = tmp_path / "quality.html"
    code, out, err = cli("quality", merged, plain, "--out", page)
    assert (code, err) == (0, "")
    assert f"of {REGIONS} regions have a match" in out


def test_a_new_site_keeps_the_regions(runs, cli, make_sites, tmp_path):
    (plain, merged), new = runs, tmp_path / "moved"
    sites = make_sites(sites=("east", "harbor"), name="others")
    code, _, err = cli("adapt", merged, sites, "--out", new)
    assert (code, err) == (0, "")
    assert np.array_equal(map_of(new), map_of(merged))
    record = load_record(new)
    assert len(record["adapted"]["regions"]) == record["num_regions"] == REGIONS
    assert Segmenter.load(new).model.num_regions == REGIONS
    assert "cluster 2" in (new / "adaptation.html").read_text()
    wider = tmp_path / "wider"
    # The settings of a run that merges nothing itself.
    config = plain / "config.toml"
    code, _, err = cli("run", config, "--from", merged, "--set", "seed=4", "--out", wider)
    assert (code, err) == (0, "")
    assert np.array_equal(map_of(wider), map_of(merged))
    record = load_record(wider)
    assert record["num_regions"] == REGIONS
    assert len(record["final"]["matching"]) == REGIONS


def test_a_strategy_that_renumbers_clusters_does_not_start_from_merged_ones(runs, cli, tmp_path):
    config, new = runs[0] / "config.toml", tmp_path / "new"
    given = ("--from", runs[1], "--set", "federation.strategy=fedcc-kmeans", "--out", new)
    code, _, err = cli("run", config, *given)
    assert code == 2
    assert "has merged clusters, but federation.strategy 'fedcc-kmeans' numbers the clusters" in err
    assert not new.exists()
    # Merged again in every round, they need no old regions.
    assert cli("run", *given)[0] == 0
    assert load_record(new)["num_regions"] == REGIONS


def test_named_regions_are_not_merged_anew(runs, cli, tmp_path):
    merged, new = runs[1], tmp_path / "new"
    assert cli("name", merged)[0] == 0
    code, _, err = cli("run", "--from", merged, "--out", new)
    assert code == 2
    assert f"the regions of {merged} have names, but model.num_regions merges clusters" in err
    assert not new.exists()
    assert cli("run", runs[0] / "config.toml", "--from", merged, "--out", new)[0] == 0
    assert (new / "regions.toml").read_bytes() == (merged / "regions.toml").read_bytes()
