"""The demo separates pipes at a site that never trained; the benchmarks run on the real sets."""

import json
from pathlib import Path

import pytest

from fusseg.config.file import load_config

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


def test_the_demo_reaches_its_score_at_the_unseen_site(cli, tmp_path):
    code, _, err = cli("run", ROOT / "examples" / "pipes.toml", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert list(record["final"]["sites"]) == ["hall"]
    assert "hall" not in {client["client_id"] for client in record["clients"]}
    assert record["final"]["mean_iou"] >= 0.7


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real image sets are not at ../shared")
@pytest.mark.parametrize(
    ("name", "size", "sites"),
    [
        ("flood", "[64, 88]", {"batch3": 90}),
        ("camvid", "[48, 64]", {"0001TP": 62, "Seq05VD": 171}),
    ],
)
def test_a_benchmark_runs_on_its_real_set(cli, tmp_path, monkeypatch, name, size, sites):
    monkeypatch.chdir(ROOT)
    more = ("local.epochs=0.1", "federation.rounds=1", f"data.image_size={size}")
    sets = [part for setting in more for part in ("--set", setting)]
    code, _, err = cli("run", f"benchmarks/{name}.toml", *sets, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    found = {site: scores["num_images"] for site, scores in record["final"]["sites"].items()}
    assert found == sites
    assert record["skipped_images"] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.toml")), ids=lambda path: path.stem)
def test_every_example_is_a_whole_configuration(path):
    assert load_config(path).federation.rounds >= 1
