"""From a run to files for labeling tools, on the command line."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def predicted(cli, make_sites, make_config, tmp_path):
    """A run, and predictions of the images of one site."""
    sites = make_sites()
    cli("run", make_config(sites), "--out", tmp_path / "run")
    cli("predict", tmp_path / "run", sites / "west/images", "--out", tmp_path / "found")
    return tmp_path / "found", sites / "west/images"


def test_a_prediction_becomes_a_file_of_every_format(cli, predicted, tmp_path):
    folder, images = predicted
    stems = {path.stem for path in folder.glob("*.png")}
    for kind, name in {
        "coco": "coco.json",
        "label-studio": "tasks.json",
        "cvat": "cvat.xml",
        "labelme": "labelme",
    }.items():
        command = ("annotate", folder, "--images", images, "--format", kind)
        code, out, err = cli(*command, "--out", tmp_path / name, "--min-area", "0")
        assert code == 0, err
        assert f"annotations of {len(stems)} images are in {tmp_path / name}" in out
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert {entry["file_name"].rsplit(".")[0] for entry in coco["images"]} == stems
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert all(task["data"]["image"].startswith("/data/local-files/?d=") for task in tasks)
    found = ElementTree.parse(tmp_path / "cvat.xml").getroot().findall("image")
    assert {entry.attrib["name"].rsplit(".")[0] for entry in found} == stems
    assert {path.stem for path in (tmp_path / "labelme").glob("*.json")} == stems
    count = len(coco["annotations"])
    assert sum(len(task["predictions"][0]["result"]) for task in tasks) == count
    assert sum(len(entry.findall("polygon")) for entry in found) == count


def test_options_reach_the_file(cli, predicted, tmp_path):
    folder, images = predicted
    command = ("annotate", folder, "--images", images, "--out", tmp_path / "tasks.json")
    said = ("--format", "label-studio", "--shapes", "rle", "--instances", "region")
    code, out, err = cli(*command, *said, "--image-prefix", "s3://bucket/")
    assert code == 0, err
    assert f"labeling configuration: {tmp_path / 'tasks.config.xml'}" in out
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        name = task["data"]["image"].removeprefix("s3://bucket/")
        values = np.asarray(Image.open((folder / name).with_suffix(".png")))
        results = task["predictions"][0]["result"]
        assert {result["type"] for result in results} == {"brushlabels"}
        assert len(results) == len(np.unique(values))


def test_an_error_is_one_line(cli, predicted, tmp_path):
    folder, images = predicted
    command = ("annotate", folder, "--images", images, "--out", tmp_path / "x.json")
    assert cli(*command, "--format", "tfrecord") == (
        2,
        "",
        "error: unknown --format 'tfrecord'; choose one of coco, label-studio, cvat, labelme\n",
    )


def test_predictions_are_not_overwritten(cli, predicted):
    folder, images = predicted
    before = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    code, _, err = cli(
        "annotate", folder, "--images", images, "--out", folder, "--format", "labelme"
    )
    assert code == 2
    assert "--out must not be the folder of predictions" in err
    assert {file.name: file.read_bytes() for file in folder.glob("*.json")} == before


def test_a_prediction_of_another_image_is_refused(cli, predicted, tmp_path):
    folder, images = predicted
    command = ("annotate", folder, "--images", images, "--out", tmp_path / "x.json")
    assert "warning" not in cli(*command, "--format", "coco")[1]
    (images / "001.png").write_bytes((images / "002.png").read_bytes())
    (tmp_path / "x.json").unlink()
    code, out, err = cli(*command, "--format", "coco")
    assert (code, out) == (2, "")
    assert "1 of 6 predictions are of other images" in err
    assert f"{folder / '001.png'} and {images / '001.png'}" in err
    assert not (tmp_path / "x.json").exists()


def test_doubtful_predictions_are_warned_of(cli, predicted, tmp_path):
    folder, images = predicted
    with Image.open(folder / "001.png") as index:
        index.putpixel((0, 0), 1 - index.getpixel((0, 0)))
        index.save(folder / "001.png")
    for name, key in (("002.json", "image_sha256"), ("003.json", "made_by")):
        described = json.loads((folder / name).read_text())
        described[key] = {"state": "another", "site": None} if key == "made_by" else None
        (folder / name).write_text(json.dumps(described))
    command = ("annotate", folder, "--images", images, "--format", "coco")
    code, out, _ = cli(*command, "--out", tmp_path / "x.json")
    assert code == 0
    assert f"changed after the prediction: 1, the first: {folder / '001.png'}" in out
    assert f"(no image_sha256 in a JSON beside them): 1, the first: {folder / '002.png'}" in out
    assert "warning: predictions of 2 models" in out
