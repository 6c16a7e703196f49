"""What version 0.1.0 wrote: its runs, model file and cache are used, its unfinished run is not."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typed_form import check_form

from fusseg import load_config
from fusseg.bench.cells import Cell, cell_progress, run_cell
from fusseg.config.file import dump_config, parse_config
from fusseg.core.errors import ConfigError
from fusseg.core.version import VERSION
from fusseg.runs.directory import load_record, read_run_config
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import resume_run
from fusseg.runs.saved_state import load_state, state_round
from fusseg.segmentation.objectives import spell_out

WRITTEN = Path(__file__).parents[1] / "previous_version" / "0.1.0"

AGREED = ("shift_self", "shift_neighbor", "shift_random")


@pytest.fixture
def finished(tmp_path):
    """A finished run, as it was left."""
    return Path(shutil.copytree(WRITTEN / "finished", tmp_path / "finished"))


@pytest.fixture
def unfinished(tmp_path):
    """A run that was stopped after round 1 of 2."""
    return Path(shutil.copytree(WRITTEN / "unfinished", tmp_path / "unfinished"))


@pytest.fixture
def cached(tmp_path):
    """The cache of the training sites, at the place where `cli` has it."""
    return Path(shutil.copytree(WRITTEN / "cache", tmp_path / "cache"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_record():
    return json.loads((WRITTEN / "finished" / "record.json").read_text())


def todays_config():
    """The settings of the runs, as they are written today."""
    table = tomllib.loads((WRITTEN / "experiment.toml").read_text())
    local = table["local"]
    table["local"] = {key: local.pop(key) for key in ("steps", "batch_size")} | {"stego": local}
    # There was no other start, and no choice.
    table["model"] |= {"init": "random", "whitening": 0.0}
    table["federation"]["keep"] = "last"
    return parse_config(table)


def test_the_files_are_those_of_the_previous_version():
    record = written_record()
    assert (record["format_version"], record["versions"]["fusseg"]) == (1, "0.1.0")
    assert tomllib.loads((WRITTEN / "finished" / "config.toml").read_text())["local"]["dropout"]
    for name in ("finished", "unfinished"):
        with safe_open(WRITTEN / name / "state.safetensors", framework="pt") as opened:
            metadata = json.loads(opened.metadata()["fusseg"])
        assert (metadata["format_version"], metadata["fusseg"]) == (1, "0.1.0")
        assert len(metadata["shift"]) == 3


@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_its_records_are_translated_to_the_form_of_today(name):
    check_form(load_record(WRITTEN / name), Record, "record")


def test_its_configuration_has_the_new_names():
    config = read_run_config(WRITTEN / "finished")
    assert (config.local.objective, config.local.steps) == ("stego", 3)
    stego = config.local.tables["stego"]
    assert (stego["dropout"], stego["positions"], stego["shift"]) == (0.2, 8, "auto")
    assert config == spell_out(todays_config())


def test_its_record_and_state_have_the_new_form():
    record, written = load_record(WRITTEN / "finished"), written_record()
    assert list(record["hello"]["agreed"]) == list(AGREED)
    assert list(record["hello"]["agreed"].values()) == written["hello"]["shift"]
    assert "shift" not in record["hello"]
    assert record["final"] == written["final"]
    assert state_round(WRITTEN / "finished") == 2
    saved = load_state(WRITTEN / "finished")
    assert saved.state.plan.num_steps == 3
    assert saved.state.model.centroids.shape == (4, 3)


def test_its_model_segments_as_it_did(cli, finished, tmp_path):
    code, _, err = cli("predict", finished, WRITTEN / "image.png", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    found = np.asarray(Image.open(tmp_path / "out" / "image.png"))
    np.testing.assert_array_equal(found, np.asarray(Image.open(WRITTEN / "predicted.png")))


def test_its_packed_model_segments_as_it_did(cli, tmp_path):
    model = WRITTEN / "model.safetensors"
    code, _, err = cli("predict", model, WRITTEN / "image.png", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    found = np.asarray(Image.open(tmp_path / "out" / "image.png"))
    np.testing.assert_array_equal(found, np.asarray(Image.open(WRITTEN / "predicted.png")))


def test_its_regions_are_judged_and_the_next_command_says_what_to_rename(cli, finished, tmp_path):
    code, out, err = cli("quality", finished, "--out", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "has names of fusseg 0.1.0: first change those that the command lists" in out
    config = finished / "config.toml"
    assert f"fusseg run {config}" in out
    code, _, err = cli("run", config, "--set", "seed=1", "--out", tmp_path / "second")
    assert code == 2
    assert "local.dropout is now local.stego.dropout" in err


def test_it_is_scored_as_it_was(cli, finished, tmp_path):
    code, _, err = cli("evaluate", finished, "--json", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    scores, before = json.loads((tmp_path / "scores.json").read_text()), written_record()["final"]
    assert scores["confusion"] == before["confusion"]
    assert scores["mean_iou"] == pytest.approx(before["mean_iou"])


def test_its_report_is_written_anew_and_compared(cli, finished, tmp_path):
    before = contents(finished)
    code, _, err = cli("report", finished)
    assert (code, err) == (0, "")
    page = (finished / "report.html").read_text()
    assert "[local.stego]" in page
    assert "dropout = 0.2" in page
    # Nothing that it has read is written back.
    assert before.items() <= contents(finished).items()
    other = shutil.copytree(finished, tmp_path / "other")
    # A table of an objective may be written out in one run and not in another.
    config = todays_config()
    config = replace(config, local=replace(config.local, tables={}))
    (other / "config.toml").write_text(dump_config(config))
    code, _, err = cli("report", finished, other, "--out", tmp_path / "both.html")
    assert (code, err) == (0, "")
    assert "local.stego.dropout" in (tmp_path / "both.html").read_text()


def test_it_is_packed(cli, finished, tmp_path):
    code, _, err = cli("pack", finished, "--out", tmp_path / "model.safetensors")
    assert (code, err) == (0, "")
    with (
        safe_open(tmp_path / "model.safetensors", framework="pt") as new,
        safe_open(WRITTEN / "model.safetensors", framework="pt") as old,
    ):
        assert sorted(new.keys()) == sorted(old.keys())
        assert all(torch.equal(new.get_tensor(name), old.get_tensor(name)) for name in new.keys())  # noqa: SIM118
        described = [json.loads(file.metadata()["fusseg"]) for file in (new, old)]
        assert described[0]["training"] == described[1]["training"]


def test_it_is_adapted_to_other_images(cli, finished, make_sites, tmp_path):
    code, _, err = cli("adapt", finished, make_sites(), "--out", tmp_path / "adapted")
    assert (code, err) == (0, "")
    record = load_record(tmp_path / "adapted")
    assert (record["format_version"], record["start"]["name"]) == (2, "finished")
    # Nothing was exchanged: what was agreed on is that of the old run.
    assert record["hello"]["agreed"] == load_record(finished)["hello"]["agreed"]


def test_a_new_run_starts_from_it(cli, finished, tmp_path):
    code, _, err = cli("run", "--from", finished, "--out", tmp_path / "new", "--set", "seed=4")
    assert (code, err) == (0, "")
    record = load_record(tmp_path / "new")
    assert (record["versions"]["fusseg"], record["start"]["round"]) == (VERSION, 2)


def test_its_cache_is_used_as_it_is(cli, cached, finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in cached.rglob("features.f16")}
    assert len(before) == 2
    config = tmp_path / "new.toml"
    config.write_text(
        (WRITTEN / "experiment.toml").read_text().split("[local]")[0]
        + "[local]\nsteps = 1\nbatch_size = 2\n[local.stego]\nneighbors = 1\n"
    )
    code, out, err = cli("extract", config, "--set", "data.held_out_sites=[]")
    assert (code, err) == (0, "")
    assert "reading images: 6 of 6" in out
    assert "extracting features" not in out
    assert {path: path.stat().st_mtime_ns for path in cached.rglob("features.f16")} == before


def test_its_unfinished_run_is_not_gone_on_with(cli, unfinished):
    before = contents(unfinished)
    code, _, err = cli("run", "--resume", "--out", unfinished)
    assert code == 2
    assert re.search(r"started with fusseg 0\.1\.0 and cannot be resumed with", err)
    code, _, err = cli("run", "--resume", "--out", unfinished, "--set", "seed=3")
    assert code == 2
    assert "started with fusseg 0.1.0" in err
    assert contents(unfinished) == before


def test_a_finished_cell_of_a_grid_is_not_run_again_and_an_unfinished_one_is_refused(
    finished, unfinished, tmp_path
):
    cell = Cell("all", "FedCC", 3, "", todays_config(), None, finished)
    assert cell_progress(cell) == "finished"
    assert list(run_cell(cell, tmp_path / "cache")) == []
    with pytest.raises(ConfigError, match=r"started with fusseg 0\.1\.0"):
        list(run_cell(replace(cell, path=unfinished), tmp_path / "cache"))
    other = replace(cell, config=replace(cell.config, seed=4))
    with pytest.raises(ConfigError, match=r"another configuration \(differs in seed\)"):
        cell_progress(other)


@pytest.mark.parametrize("left", ["config.toml", "record.json"])
def test_it_is_told_by_either_file(left, unfinished):
    if left == "config.toml":
        (unfinished / "record.json").unlink()
    else:
        (unfinished / "config.toml").write_text("seed = 3\n")
    with pytest.raises(ConfigError, match=r"started with fusseg 0\.1\.0"):
        resume_run(unfinished, None)


def test_its_configuration_file_is_refused_with_the_new_names(cli, tmp_path):
    path = WRITTEN / "experiment.toml"
    with pytest.raises(ConfigError, match=r"local\.dropout is now local\.stego\.dropout"):
        load_config(path)
    code, _, err = cli("run", path, "--out", tmp_path / "run")
    assert code == 2
    assert "local.positions is now local.stego.positions" in err
    assert not (tmp_path / "run").exists()
