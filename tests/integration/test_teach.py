"""Classes from a few labels: in a federation, on one machine, and what uses them afterwards."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typed_form import check_form

import fusseg
from fusseg.federation.state import ClientUpdate
from fusseg.runs.engine import RoundDone
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state

TEACH = "federation.teach=true"


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def taught_by(run_dir):
    return load_state(run_dir).state.taught


@pytest.fixture
def sites(make_sites):
    return make_sites()


@pytest.fixture
def train(cli, sites, make_config, tmp_path):
    """Train a run of two rounds."""
    config = make_config(sites)

    def run(name, *overrides):
        sets = [word for one in ("federation.rounds=2", *overrides) for word in ("--set", one)]
        code, _, err = cli("run", config, *sets, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        return tmp_path / name

    return run


def train_list(tmp_path, *images):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(images) + "\n")
    return path


def test_a_federation_with_labels_ends_with_classes(train):
    record = record_of(run := train("run", TEACH))
    check_form(record, Record, "record")
    assert [entry["phase"] for entry in record["rounds"]] == ["training", "training", "teach"]
    taught = record["taught"]
    assert taught["num_labeled_images"] == 12
    assert list(taught["positions_per_class"]) == ["gravel", "metal"]
    assert sum(taught["positions_per_class"].values()) == 12 * 8 * 12
    assert taught["mean_iou"] > 0.9
    assert list(taught["per_class_iou"]) == ["gravel", "metal"]
    assert taught["unknown_share"] == 0
    # Counts and sums of 2 classes, their products, the number of images; then what 8 shrinkages and
    # 7 temperatures give; and with each the number of images that a client has.
    dim = record["backbone"]["feature_dim"]
    statistics = 8 * (2 + 2 * dim + dim * dim + 1)
    trials = 8 * (8 * 2 * 2 + 8 * 7)
    assert record["rounds"][-1]["bytes_up"] == 2 * (statistics + trials + 2 * 8)
    assert record["final"]["mean_iou"] == record["rounds"][1]["mean_iou"]
    assert 'names = [\n    "gravel",\n    "metal",\n]' in (run / "classes.toml").read_text()
    assert "On left-out labels" in (run / "report.html").read_text()


def test_without_the_setting_no_training_label_is_read(train, sites):
    for mask in sites.glob("[ns]o*/masks/*.png"):
        mask.write_bytes(b"no mask")
    assert record_of(run := train("run"))["taught"] is None
    assert not (run / "classes.toml").exists()


def test_teaching_on_one_machine_gives_the_classifier_of_the_federation(
    train, cli, sites, tmp_path
):
    federated, alone = train("federated", TEACH), train("alone")
    before = load_state(alone).state
    images = [f"{site}/{index:03d}" for site in ("north", "south") for index in range(6)]
    code, out, err = cli("teach", alone, "--labels", sites, "--list", train_list(tmp_path, *images))
    assert (code, err) == (0, "")
    assert "2 classes taught from 12 labeled images, 1,152 positions" in out
    assert "by class: mIoU" in out
    expected, found = taught_by(federated), taught_by(alone)
    assert found.chosen.shrinkage == expected.chosen.shrinkage
    assert found.chosen.temperature == expected.chosen.temperature
    torch.testing.assert_close(found.classifier.weight, expected.classifier.weight)
    torch.testing.assert_close(found.classifier.bias, expected.classifier.bias)
    entries = [record_of(run)["taught"] for run in (federated, alone)]
    assert entries[0]["mean_iou"] == pytest.approx(entries[1]["mean_iou"])
    code, out, _ = cli("evaluate", alone, "--json", tmp_path / "scores.json")
    assert code == 0
    assert "by class: mIoU" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["taught"]["mean_iou"] == entries[1]["mean_iou"]
    # The label-free model is as it was.
    after = load_state(alone).state
    assert torch.equal(after.model.centroids, before.model.centroids)
    assert after.round_number == before.round_number


def test_predictions_name_classes_unless_regions_are_asked_for(train, cli, sites, tmp_path):
    run, images = train("run", TEACH), sites / "west" / "images"
    assert cli("predict", run, images, "--out", tmp_path / "classes")[0] == 0
    assert cli("predict", run, images, "--out", tmp_path / "regions", "--regions")[0] == 0
    names = {}
    for kind in ("classes", "regions"):
        described = json.loads((tmp_path / kind / "000.json").read_text())
        names[kind] = [region["name"] for region in described["regions"]]
    assert names == {"classes": ["gravel", "metal"], "regions": ["cluster 0", "cluster 1"]}
    found = np.array(Image.open(tmp_path / "classes" / "000.png"))
    truth = np.array(Image.open(sites / "west" / "masks" / "000.png"))
    assert (found == truth).mean() > 0.9


def test_regions_are_still_named_and_judged(train, cli, sites):
    run = train("run", TEACH, "model.num_clusters=3")
    assert cli("name", run, "--labels", sites)[0] == 0
    assert (run / "regions.toml").read_text().count("[[regions]]") == 3
    assert cli("quality", run)[0] == 0
    # Classes keep their own names.
    assert fusseg.Segmenter.load(run).regions.names == ("gravel", "metal")


def test_unknown_pixels_keep_their_regions(train, cli, sites, tmp_path):
    run = train("run", TEACH, "teach.unknown_below=0.999")
    segmenter = fusseg.Segmenter.load(run)
    names = ("gravel", "metal", "unknown: cluster 0", "unknown: cluster 1")
    assert segmenter.regions.names == names
    taught = record_of(run)["taught"]
    assert 0 < taught["unknown_share"] < 1
    image = sites / "west" / "images" / "000.png"
    found = segmenter.predict(image).regions
    plain = fusseg.Segmenter.load(run, regions=True).predict(image).regions
    unknown = found >= 2
    assert 0 < unknown.mean() < 1
    assert np.array_equal(found[unknown] - 2, plain[unknown])


def test_the_model_file_carries_the_classes(train, cli, sites, tmp_path):
    run = train("run", TEACH, "teach.unknown_below=0.9")
    for name, options in (("with", ()), ("again", ())):
        assert cli("pack", run, "--out", tmp_path / f"{name}.safetensors", *options)[0] == 0
    packed = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("with", "again")]
    assert packed[0] == packed[1]
    assert b'\\"format_version\\": 4' in packed[0]
    image = sites / "west" / "images" / "001.png"
    found = fusseg.from_pretrained(tmp_path / "with.safetensors")
    expected = fusseg.Segmenter.load(run)
    assert found.regions == expected.regions
    assert np.array_equal(found.predict(image).regions, expected.predict(image).regions)


@pytest.mark.parametrize(("rounds", "updates"), [(2, 0), (2, 1), (2, 3)])
def test_a_run_stopped_while_classes_are_taught_goes_on_to_the_same_bits(
    rounds, updates, train, cli, tmp_path
):
    whole, cut = train("whole", TEACH), tmp_path / "cut"
    config = fusseg.load_config(tmp_path / "config.toml", [TEACH, "federation.rounds=2"])
    events = fusseg.run_experiment(config, cut, tmp_path / "cache")
    done = 0
    for event in events:
        done += isinstance(event, RoundDone)
        updates -= done == rounds and isinstance(event, ClientUpdate)
        if done == rounds and updates == 0:
            break
    events.close()
    assert cli("run", "--resume", "--out", cut)[0] == 0
    expected = (whole / "state.safetensors").read_bytes()
    assert (cut / "state.safetensors").read_bytes() == expected
    for field in ("taught", "trained", "final"):
        assert record_of(cut)[field] == record_of(whole)[field]


def test_no_rounds_can_be_added_after_teaching(train, cli):
    run = train("run", TEACH, "federation.keep=last")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("\nrounds = 2\n", "\nrounds = 5\n"))
    code, _, err = cli("run", "--resume", "--out", run)
    assert code == 2
    assert "has ended with teaching, so no rounds can be added" in err


def test_rounds_can_be_added_to_a_run_that_was_taught_afterwards(train, cli, sites):
    run = train("run", "federation.keep=last")
    assert cli("teach", run, "--labels", sites / "north")[0] == 0
    weight, entry = taught_by(run).classifier.weight, record_of(run)["taught"]
    config = run / "config.toml"
    config.write_text(config.read_text().replace("\nrounds = 2\n", "\nrounds = 3\n"))
    assert cli("run", "--resume", "--out", run)[0] == 0
    # It is made of features, which training does not change.
    assert torch.equal(taught_by(run).classifier.weight, weight)
    assert record_of(run)["taught"] == entry


def test_clicks_teach_too(train, cli, sites, tmp_path):
    run = train("run")
    lines = ["stem,x,y,class"]
    for index in range(4):
        mask = np.array(Image.open(sites / "north" / "masks" / f"{index:03d}.png"))
        for value, name in enumerate(("gravel", "metal")):
            rows, columns = np.nonzero(mask == value)
            places = (0, len(rows) // 2)
            lines += [f"{index:03d},{columns[at]},{rows[at]},{name}" for at in places]
    (tmp_path / "clicks.csv").write_text("\n".join(lines) + "\n")
    options = ["--clicks", tmp_path / "clicks.csv", "--labels", sites / "north"]
    code, out, _ = cli("teach", run, *options)
    assert code == 0
    assert "2 classes taught from 4 labeled images" in out
    assert record_of(run)["taught"]["mean_iou"] > 0.6
    # Both sites have images of these stems.
    code, _, err = cli("teach", run, "--clicks", tmp_path / "clicks.csv")
    assert code == 2
    assert "names the stem '000', but 2 images have it" in err


def test_labeled_held_out_images_are_not_scored(train, cli, sites, tmp_path):
    run = train("run")
    labels = [f"west/{index:03d}" for index in range(2)]
    code, out, _ = cli("teach", run, "--labels", sites, "--list", train_list(tmp_path, *labels))
    assert code == 0
    assert "not scored: 2 held-out images" in out
    code, out, _ = cli("teach", run, "--labels", sites / "west")
    assert code == 0
    assert "no labeled held-out images: scores of the classes are null" in out
    assert record_of(run)["taught"]["mean_iou"] is None


def test_a_changed_color_is_used_and_other_classes_are_refused(train, cli, sites, tmp_path):
    run = train("run", TEACH)
    path = run / "classes.toml"
    path.write_text('names = ["gravel", "metal"]\ncolors = [[1, 2, 3], [4, 5, 6]]\n')
    assert fusseg.Segmenter.load(run).regions.legend["gravel"] == (1, 2, 3)
    path.write_text('names = ["gravel", "steel"]\ncolors = [[1, 2, 3], [4, 5, 6]]\n')
    code, _, err = cli("predict", run, sites / "west" / "images", "--out", tmp_path / "out")
    assert code == 2
    assert "must give a color to each of the taught classes, gravel, metal" in err


def test_labels_that_cannot_teach_are_refused_and_nothing_changes(train, cli, make_sites, tmp_path):
    run = train("run")
    before = {name: (run / name).read_bytes() for name in ("state.safetensors", "record.json")}
    bare = make_sites(name="bare", labeled=False)
    few = make_sites(name="few", num_images=2)
    for mask in few.glob("*/masks/*.png"):
        values = np.full((64, 96), 255, np.uint8)
        values[0, 0] = 1
        Image.fromarray(values).save(mask)
    (few / "north" / "classes.toml").write_text('names = ["gravel", "metal"]\n')
    for options, fragment in (
        ([], "nothing to teach from"),
        (["--labels", bare / "north"], "has no masks"),
        (["--labels", tmp_path / "none"], "none"),
        (["--labels", few / "north"], "fewer than 2 classes have enough labeled positions"),
        (["--labels", few, "--list", train_list(tmp_path, "north/999")], "do not exist"),
        (["--labels", few, "--unknown-below", "2"], "teach.unknown_below must lie in"),
    ):
        code, _, err = cli("teach", run, *options)
        assert code != 0, options
        assert fragment in err, options
        assert "Traceback" not in err
    assert before == {name: (run / name).read_bytes() for name in before}


def test_teaching_on_another_backbone_is_refused(train, cli, sites):
    run = train("run")
    config = run / "config.toml"
    text = config.read_text()
    assert 'name = "filterbank"' in text
    state = load_state(run)
    assert len(state.fingerprint) == 64
    content = (run / "state.safetensors").read_bytes()
    other = content.replace(state.fingerprint.encode(), b"0" * 64)
    (run / "state.safetensors").write_bytes(other)
    code, _, err = cli("teach", run, "--labels", sites / "north")
    assert code == 2
    assert "was trained on a backbone with fingerprint" in err


def test_a_federation_in_which_no_mask_has_two_classes_is_refused(cli, make_sites, make_config):
    root = make_sites(name="bare", labeled=False)
    config = make_config(root, held_out=())
    code, _, err = cli("run", config, "--set", TEACH)
    assert code != 0
    assert "fewer than 2 classes (none); add masks at a client" in err


def test_a_map_that_cannot_be_read_is_refused_before_anything_is_written(
    cli, sites, make_config, tmp_path
):
    more = ("--set", TEACH, "--set", "teach.class_map=none.toml", "--out", tmp_path / "run")
    code, _, err = cli("run", make_config(sites), *more)
    assert code == 2
    assert "the map of classes cannot be read" in err
    assert not (tmp_path / "run").exists()


def test_an_adapted_run_has_no_classes(train, cli, sites, tmp_path):
    run = train("run", TEACH)
    code, _, err = cli("adapt", run, sites, "--out", tmp_path / "adapted")
    assert (code, err) == (0, "")
    assert taught_by(tmp_path / "adapted") is None
