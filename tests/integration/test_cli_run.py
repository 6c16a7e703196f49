"""Train, resume, score, predict and report from the command line, on a tiny folder of sites."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typed_form import check_form

import fusseg
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def test_a_run_leaves_its_files_and_a_whole_record(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    code, out, err = cli("run", config, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.toml",
        "record.json",
        "state.safetensors",
        "report.html",
        "history",
    }
    record = record_of(tmp_path / "run")
    check_form(record, Record, "record")
    final = record["final"]
    assert 0.5 < final["mean_iou"] <= 1
    assert 0.5 < final["pixel_accuracy"] <= 1
    assert list(final["per_class_iou"]) == ["gravel", "metal"]
    assert [entry["round"] for entry in record["rounds"]] == [1, 2, 3]
    for entry in record["rounds"]:
        assert {"mean_iou", "loss", "bytes_up", "bytes_down"} <= entry.keys()
    assert record["rounds"][-1]["mean_iou"] == final["mean_iou"]
    assert {"extract", "train", "evaluate"} == record["seconds"].keys()
    assert record["skipped_images"] == []
    assert record["seed"] == 0
    assert record["versions"]["fusseg"]
    assert f"mIoU {final['mean_iou']:.4f}" in out


def test_bytes_are_those_of_head_and_centroids(cli, make_sites, make_config, tmp_path):
    cli("run", make_config(make_sites()), "--out", tmp_path / "run")
    record, saved = record_of(tmp_path / "run"), load_state(tmp_path / "run")
    dim, code = record["backbone"]["feature_dim"], 8
    head = 2 * (dim * code + code) + dim * dim + dim
    sent = 4 * (head + 2 * code)
    assert sum(weight.numel() for weight in saved.state.model.head.values()) == head
    plan = 4 * dim + 4 * 8
    # A count and a loss go up with it, the round number comes down, and once the plan: the mean
    # feature, the number of steps and three shifts.
    assert record["rounds"][0]["clients"][0]["bytes_up"] == sent + 16
    assert record["rounds"][0]["bytes_up"] == 2 * (sent + 16)
    assert record["rounds"][0]["bytes_down"] == 2 * (sent + 8 + plan)
    assert record["rounds"][1]["bytes_down"] == 2 * (sent + 8)


def test_the_saved_configuration_repeats_the_run_bit_for_bit(
    cli, make_sites, make_config, tmp_path
):
    cli("run", make_config(make_sites()), "--out", tmp_path / "a", "--set", "seed=5")
    code, _, _ = cli("run", tmp_path / "a" / "config.toml", "--out", tmp_path / "b")
    assert code == 0
    state = (tmp_path / "a" / "state.safetensors").read_bytes()
    assert (tmp_path / "b" / "state.safetensors").read_bytes() == state
    cli("run", tmp_path / "a" / "config.toml", "--out", tmp_path / "c", "--set", "seed=6")
    assert (tmp_path / "c" / "state.safetensors").read_bytes() != state


@pytest.mark.parametrize(
    "switches",
    [
        ["federation.strategy=local"],
        ["federation.strategy=fedavg", "federation.aggregate_heads=false"],
        ["federation.strategy=fedcc-maximin", "federation.aggregate_centroids=false"],
        ["federation.strategy=centralized"],
        ["federation.strategy=fedcc-kmeans", "federation.distance=euclidean"],
    ],
)
def test_resuming_after_a_round_gives_the_bits_of_an_uninterrupted_run(
    cli, make_sites, make_config, tmp_path, switches
):
    config = make_config(make_sites())
    sets = [part for switch in switches for part in ("--set", switch)]
    assert cli("run", config, *sets, "--out", tmp_path / "whole")[0] == 0
    assert (
        cli("run", config, *sets, "--out", tmp_path / "cut", "--set", "federation.rounds=1")[0] == 0
    )
    shutil.copy(tmp_path / "whole" / "config.toml", tmp_path / "cut" / "config.toml")
    code, _, err = cli("run", "--resume", "--out", tmp_path / "cut")
    assert (code, err) == (0, "")
    whole = (tmp_path / "whole" / "state.safetensors").read_bytes()
    assert (tmp_path / "cut" / "state.safetensors").read_bytes() == whole
    final = record_of(tmp_path / "whole")["final"]
    assert record_of(tmp_path / "cut")["final"] == final
    assert [entry["round"] for entry in record_of(tmp_path / "cut")["rounds"]] == [1, 2, 3]


def test_a_finished_run_can_be_resumed_without_change(cli, make_sites, make_config, tmp_path):
    cli("run", make_config(make_sites()), "--out", tmp_path / "run")
    state = (tmp_path / "run" / "state.safetensors").read_bytes()
    final = record_of(tmp_path / "run")["final"]
    assert cli("run", "--resume", "--out", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == state
    assert record_of(tmp_path / "run")["final"] == final


def test_local_scores_are_the_mean_over_the_sites_own_models(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(), more='strategy = "local"')
    cli("run", config, "--out", tmp_path / "run")
    record = record_of(tmp_path / "run")
    models = record["final"]["models"]
    assert [model["client_id"] for model in models] == ["north", "south"]
    mean = sum(model["mean_iou"] for model in models) / 2
    assert record["final"]["mean_iou"] == pytest.approx(mean)
    assert record["rounds"][0]["clients"][0]["bytes_up"] == 16


def test_centralized_takes_the_steps_of_the_whole_federation(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(), more='strategy = "centralized"')
    cli("run", config, "--out", tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert record["hello"]["local_steps"] == 2 * 4
    assert [client["client_id"] for client in record["rounds"][0]["clients"]] == ["centralized"]
    assert record["rounds"][0]["bytes_up"] == 0


def test_without_labels_scores_are_null_and_label_free_figures_stand_in(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(labeled=False))
    code, out, _ = cli("run", config, "--out", tmp_path / "run")
    final = record_of(tmp_path / "run")["final"]
    assert code == 0
    assert final["mean_iou"] is None
    assert final["per_class_iou"] is None
    assert sum(final["quality"]["cluster_share"]) == pytest.approx(1)
    assert -1 <= final["quality"]["mean_cosine"] <= 1
    assert "no labels: scores are null" in out


def test_nothing_held_out_trains_on_all_sites_and_shows_their_images(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(), held_out=())
    assert cli("run", config, "--out", tmp_path / "run")[0] == 0
    record = record_of(tmp_path / "run")
    assert len(record["clients"]) == 3
    assert record["final"]["mean_iou"] is None
    code, _, err = cli("evaluate", tmp_path / "run")
    assert code == 2
    assert err == (
        "error: nothing to evaluate: the run has no held-out site; give --data or --sites\n"
    )


def test_training_reads_no_label(cli, make_sites, make_config, tmp_path):
    root = make_sites()
    cli("run", make_config(root), "--out", tmp_path / "a")
    for mask in [*root.glob("north/masks/*"), *root.glob("south/masks/*")]:
        mask.write_bytes(b"not an image")
    code, _, _ = cli("run", make_config(root), "--out", tmp_path / "b")
    assert code == 0
    state = (tmp_path / "a" / "state.safetensors").read_bytes()
    assert (tmp_path / "b" / "state.safetensors").read_bytes() == state


def test_broken_images_are_skipped_by_name_and_the_run_goes_on(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites()
    images = root / "north" / "images"
    (images / "000.png").write_bytes(b"")
    (images / "001.png").write_bytes((images / "001.png").read_bytes()[:300])
    (images / "notes.jpg").write_text("not an image")
    code, out, _ = cli("run", make_config(root), "--out", tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert code == 0
    assert [entry["image"] for entry in record["skipped_images"]] == ["000", "001", "notes"]
    assert all(entry["site"] == "north" and entry["reason"] for entry in record["skipped_images"])
    assert record["clients"][0] == {"client_id": "north", "num_images": 4}
    assert "skipped north/000: " in out


def test_a_site_without_enough_usable_images_stops_the_run_by_name(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites(num_images=2)
    (root / "north" / "images" / "000.png").write_bytes(b"")
    code, _, err = cli("run", make_config(root), "--out", tmp_path / "run")
    assert code == 2
    assert err == (
        "error: site 'north' has 1 usable training image, at least 2 are needed; fusseg check "
        "lists what is skipped; add images, move the site out of data.root, or set "
        'data.train_sites = ["south"]\n'
    )


def test_the_second_run_extracts_nothing(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    _, first, _ = cli("run", config, "--out", tmp_path / "a")
    _, second, _ = cli("run", config, "--out", tmp_path / "b")
    assert "extracting features: 18 of 18" in first
    assert "extracting features" not in second


def test_predictions_have_the_images_own_size_and_the_indices_of_the_regions(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites()
    cli("run", make_config(root), "--out", tmp_path / "run")
    folder = tmp_path / "new" / "day"
    folder.mkdir(parents=True)
    Image.effect_noise((131, 77), 50).convert("RGB").save(folder / "a.jpg")
    (tmp_path / "new" / "b.png").write_bytes(b"broken")
    code, out, _ = cli(
        "predict", tmp_path / "run", tmp_path / "new", root / "west" / "images" / "003.png",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 1  # one was skipped, and said so
    assert "skipped" in out
    assert "2 of 3 images are in" in out
    with Image.open(tmp_path / "out" / "day" / "a.png") as regions:
        assert regions.size == (131, 77)
        assert set(np.unique(np.asarray(regions))) <= {0, 1}
    with Image.open(tmp_path / "out" / "day" / "a.overlay.jpg") as overlay:
        assert (overlay.size, overlay.mode) == ((131, 77), "RGB")
    assert (tmp_path / "out" / "003.png").exists()


def test_a_prediction_at_the_training_size_is_what_the_evaluation_scores(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites()
    cli("run", make_config(root), "--out", tmp_path / "run")
    cli("predict", tmp_path / "run", root / "west" / "images", "--out", tmp_path / "out")
    final = record_of(tmp_path / "run")["final"]
    counts = np.zeros((2, 2), int)
    for path in sorted((tmp_path / "out").glob("*.png")):
        regions = np.asarray(Image.open(path))
        mask = np.asarray(Image.open(root / "west" / "masks" / path.name))
        np.add.at(counts, (regions, mask), 1)
    assert counts.tolist() == final["confusion"]


def test_evaluate_scores_the_runs_held_out_images_or_others(cli, make_sites, make_config, tmp_path):
    root = make_sites()
    cli("run", make_config(root), "--out", tmp_path / "run")
    final = record_of(tmp_path / "run")["final"]
    code, out, _ = cli("evaluate", tmp_path / "run", "--json", tmp_path / "scores.json")
    assert code == 0
    assert f"mIoU {final['mean_iou']:.4f}" in out
    assert json.loads((tmp_path / "scores.json").read_text())["mean_iou"] == final["mean_iou"]
    other = make_sites(sites=("east", "far"), name="other")
    code, out, _ = cli("evaluate", tmp_path / "run", "--data", other, "--sites", "far")
    assert code == 0
    assert "far: mIoU" in out
    assert "east" not in out
    code, out, _ = cli("evaluate", tmp_path / "run", "--data", other)
    assert "far: mIoU" in out
    assert "east: mIoU" in out


def test_report_is_written_anew_and_does_without_pictures_where_the_data_are_gone(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites()
    cli("run", make_config(root), "--out", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "report.html").unlink()
    assert cli("report", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == page
    shutil.rmtree(root)
    code, _, err = cli("report", tmp_path / "run")
    assert code == 2
    assert "report.html is kept as it was; delete it to get one without pictures" in err
    assert (tmp_path / "run" / "report.html").read_bytes() == page
    (tmp_path / "run" / "report.html").unlink()
    code, out, _ = cli("report", tmp_path / "run")
    assert code == 1
    assert "the report has no pictures: " in out
    assert (tmp_path / "run" / "report.html").exists()


def test_extract_fills_the_cache_and_cache_lists_and_prunes_it(
    cli, make_sites, make_config, tmp_path
):
    code, out, _ = cli("cache")
    assert (code, out) == (0, f"nothing in the cache {tmp_path / 'cache'}\n")
    config = make_config(make_sites())
    assert cli("extract", config)[0] == 0
    _, out, _ = cli("cache")
    assert [line for line in out.splitlines() if "filterbank" in line and " 6 " in line]
    code, _, err = cli("cache", "--prune")
    assert code == 2
    assert "needs a condition: --older-than DAYS, --backbone, --site, or --all" in err
    code, _, err = cli("cache", "--prune", "--older-than", "-5")
    assert (code, err) == (2, "error: --older-than must be at least 0, got -5\n")
    _, out, _ = cli("cache", "--prune", "--older-than", "1")
    assert out == "freed 0.0 MB\n"
    _, out, _ = cli("cache", "--prune", "--site", "north")
    assert out.startswith("deleted north-")
    cli("cache", "--prune", "--all")
    _, out, _ = cli("cache")
    assert out == f"nothing in the cache {tmp_path / 'cache'}\n"


def test_pruning_under_a_condition_keeps_the_neighbors_even_with_all(
    cli, make_sites, make_config, tmp_path
):
    cli("extract", make_config(make_sites()))
    neighbors = tmp_path / "cache" / "neighbors"
    neighbors.mkdir()
    _, out, _ = cli("cache", "--prune", "--all", "--site", "north")
    assert out.startswith("deleted north-")
    assert neighbors.exists()
    cli("cache", "--prune", "--all")
    assert not neighbors.exists()


def test_a_cache_that_is_a_file_is_refused(cli, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for options in ((), ("--prune", "--all")):
        code, _, err = cli("cache", *options, "--cache", file)
        assert code == 2
        assert f"the cache {file} is not a folder; choose another with --cache" in err


@pytest.mark.parametrize("kind", ["store", "neighbors"])
def test_a_cache_folder_that_cannot_be_deleted_is_named(
    kind, cli, make_sites, make_config, tmp_path, monkeypatch
):
    def refuse(path, *args, **kwargs):
        raise OSError(30, "Read-only file system", str(path))

    cache = tmp_path / "cache"
    cli("extract", make_config(make_sites()))
    (cache / "neighbors").mkdir()
    if kind == "store":
        (folder,) = cache.glob("north-*")
    else:
        folder = cache / "neighbors"
        for store in cache.glob("*-*"):
            shutil.rmtree(store)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    code, _, err = cli("cache", "--prune", "--all")
    assert code == 2
    assert err == (
        f"error: cannot delete the cache folder {folder}: Read-only file system; "
        "make it writable or delete it by hand\n"
    )


@pytest.mark.parametrize("strategy", ["consensus", "lloyd", "fedavg", "local"])
def test_a_finish_is_scored_before_and_after(cli, make_sites, make_config, tmp_path, strategy):
    config = make_config(make_sites(), more=f'strategy = "{strategy}"\nlloyd_rounds = 2')
    code, out, err = cli("run", config, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    record = record_of(tmp_path / "run")
    rounds = record["rounds"]
    assert [entry["phase"] for entry in rounds[-3:]] == ["training", "lloyd", "lloyd"]
    assert record["trained"]["mean_iou"] == rounds[-3]["mean_iou"]
    assert record["final"]["mean_iou"] == rounds[-1]["mean_iou"]
    assert rounds[-1]["loss"] is None
    assert "Lloyd step" in out
    sent = {client["bytes_up"] for entry in rounds[-2:] for client in entry["clients"]}
    # sums (2 x 8, float64) and counts, and one number; nothing where clients finish alone
    assert sent == ({8} if strategy == "local" else {(2 * 8 + 2) * 8 + 8})
    names = sorted(path.name for path in (tmp_path / "run" / "history").iterdir())
    assert names == [f"round-{entry['round']:03d}.safetensors" for entry in rounds]


def test_pca_trains_nothing_and_segments_all_the_same(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(), more='strategy = "pca"\nlloyd_rounds = 5')
    code, _, err = cli("run", config, "--out", tmp_path / "run", "--set", "model.init=pca")
    assert (code, err) == (0, "")
    record = record_of(tmp_path / "run")
    # The start, five Lloyd steps, and the choice.
    assert [entry["loss"] for entry in record["rounds"]] == [None] * 7
    assert record["trained"] is None
    assert record["final"]["mean_iou"] > 0.5
    assert "loss-curves" not in (tmp_path / "run" / "report.html").read_text()


def test_paths_in_python_may_be_text(make_sites, make_config, tmp_path):
    config = fusseg.load_config(str(make_config(make_sites())), ["federation.rounds=1"])
    out = str(tmp_path / "run")
    *_, last = fusseg.run_experiment(config, out, str(tmp_path / "cache"))
    assert last.record["name"] == "run"
    assert fusseg.load_run(out).rounds_done == 1
