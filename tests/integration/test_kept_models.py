"""The choice between start and trained model, as commands, pages and tables show it."""

import csv
import json

import pytest
import torch
from tiny_grid import TINY

from fusseg.export.artifact import load_artifact
from fusseg.runs.saved_state import load_state

# Steps too small to change any figure: the start is kept.
STILL = ("local.head_learning_rate=1e-12", "local.centroid_learning_rate=1e-12")
START_KEPT = "Training did not improve on the start, which was kept: the trained model's margin"


def sets(*overrides):
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture
def run(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    more = sets("model.init=pca", "federation.rounds=2", *STILL)
    code, out, err = cli("run", config, "--out", tmp_path / "run", *more)
    assert (code, err) == (0, "")
    return tmp_path / "run", out


def test_a_run_says_in_one_line_which_model_it_kept(run):
    _, out = run
    assert [line.startswith(START_KEPT) for line in out.splitlines() if "kept" in line] == [True]
    last = next(line for line in reversed(out.splitlines()) if line.startswith("training: "))
    assert last.endswith(" updates")
    assert "start: " in out
    assert "round 2 of 2: loss" in out
    assert "round 3" not in out


def test_page_and_model_file_of_a_kept_start_count_the_rounds_of_training(cli, run):
    run_dir, _ = run
    page = (run_dir / "report.html").read_text()
    assert START_KEPT.split(":")[0] in page
    assert "2 rounds of 4 steps" in " ".join(page.split())
    record = json.loads((run_dir / "record.json").read_text())
    assert [entry["phase"] for entry in record["rounds"]][-1] == "choice"
    assert cli("pack", run_dir, "--out", run_dir / "model.safetensors")[0] == 0
    training = load_artifact(run_dir / "model.safetensors").training
    assert (training["rounds"], training["rounds_planned"]) == (2, 2)
    assert training["choice"].startswith(START_KEPT)


def test_a_model_without_its_choice_is_said_to_lack_it(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    last = sets("model.init=pca", "federation.rounds=1", "federation.keep=last")
    assert cli("run", config, "--out", tmp_path / "run", *last)[0] == 0
    written = tmp_path / "run" / "config.toml"
    written.write_text(written.read_text().replace('keep = "last"', 'keep = "best"'))
    out = cli("evaluate", tmp_path / "run")[1]
    assert "the run is not finished: the choice between start and trained model is missing" in out


def test_a_table_has_the_kept_models_beside_the_trained_and_their_start_as_a_row(
    cli, tmp_path, all_zoomable
):
    grid, out = tmp_path / "grid.toml", tmp_path / "out"
    still = "".join(f"{line.split('.')[1].replace('=', ' = ')}\n" for line in STILL)
    grid.write_text(
        'title = "Pipes"\nseeds = 1\nreferences = ["start"]\n'
        + TINY.replace("steps = 2\n", f"steps = 2\n{still}")
        + "[config.federation]\nrounds = 2\n"
        + '[methods.start]\nfederation = { strategy = "pca" }\n'
        + '[methods.FedCC]\nfederation = { strategy = "fedcc-kmeans" }\n'
        + '[methods.local]\nfederation = { strategy = "local" }\n'
    )
    code, printed, err = cli("bench", grid, "--out", out)
    assert (code, err) == (0, "")
    table = (out / "table.md").read_text()
    assert "| method | all, trained | all, kept |" in table
    assert "| FedCC | +0.00 | +0.00 |" in table
    with (out / "table.csv").open() as file:
        phases = {(row["method"], row["phase"]) for row in csv.DictReader(file) if row["phase"]}
    assert phases == {
        ("start", "trained"),
        ("FedCC", "trained"),
        ("FedCC", "kept"),
        ("local", "trained"),
    }
    assert " trained, 0." in printed
    # A row of the strategy `pca` is the start of the others, bit for bit.
    start, kept = (load_state(out / f"cells/all/{name}/0").state for name in ("start", "fedcc"))
    assert start.candidates == kept.candidates[:-1]
    assert torch.equal(start.model.centroids, kept.model.centroids)
    assert start.model.head.keys() == kept.model.head.keys()
    for name, weights in start.model.head.items():
        assert torch.equal(weights, kept.model.head[name])
