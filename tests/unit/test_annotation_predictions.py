"""Which predictions belong to which images, and what is wrong with those that do not fit."""

import json

import numpy as np
import pytest
from PIL import Image

from fusseg.cli.annotate import AnnotateOptions, choose_how, run_annotate
from fusseg.core.errors import ConfigError, DataError
from fusseg.export.annotations.annotated_image import AnnotationOptions, Label
from fusseg.export.annotations.predictions import find_predictions, read_predictions

VALUES = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)


@pytest.fixture
def folders(tmp_path):
    """One image in a folder of its own, predicted, without names."""
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "found/a").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "images/a/x.jpg")
    write_index(tmp_path / "found/a/x.png")
    return tmp_path / "found", tmp_path / "images"


def write_index(path, values=VALUES):
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 50, 60, 70, 255, 0, 0])
    image.save(path)


def describe(path, *regions):
    entries = [{"index": index, "name": name, "color": "#0a0b0c"} for index, name in regions]
    path.write_text(json.dumps({"regions": entries}))


def test_without_names_regions_are_called_by_number(folders):
    found = find_predictions(*folders, None)
    assert not found.named
    assert [label.name for label in found.names.labels] == ["region 0", "region 1", "region 2"]
    (image,) = read_predictions(found)
    assert image.name == "a/x.jpg"
    assert (image.regions == VALUES).all()


def test_a_palette_that_is_full_names_no_more_than_there_can_be(folders):
    image = Image.fromarray(VALUES)
    image.putpalette(list(range(256)) * 3)
    image.save(folders[0] / "a/x.png")
    assert len(find_predictions(*folders, None).names.labels) == 255
    Image.fromarray(VALUES + np.uint8(253)).save(folders[0] / "a/x.png")
    refused(folders, r"at most 254, got 255; predict again, or correct it: .*x\.png")


def test_names_are_those_beside_the_predictions(folders):
    describe(folders[0] / "a/x.json", (0, "road"), (2, "sky"))
    found = find_predictions(*folders, None)
    assert found.named
    assert found.names.labels == (Label("road", (10, 11, 12)), Label("sky", (10, 11, 12)))
    (image,) = read_predictions(found)
    assert (image.regions == VALUES // 2).all()


def test_a_names_file_goes_first_and_joins_clusters_of_one_name(folders, tmp_path):
    describe(folders[0] / "a/x.json", (0, "road"), (2, "sky"))
    entries = [(0, "pipe"), (1, ""), (2, "pipe")]
    (tmp_path / "regions.toml").write_text(
        "".join(
            f'[[regions]]\ncluster = {cluster}\nname = "{name}"\ncolor = "#00000{cluster}"\n'
            for cluster, name in entries
        )
    )
    found = find_predictions(*folders, tmp_path / "regions.toml")
    assert found.names.labels == (Label("pipe", (0, 0, 0)), Label("cluster 1", (0, 0, 1)))
    (image,) = read_predictions(found)
    assert (image.regions == 0).all()


def test_images_without_a_prediction_are_counted(folders):
    Image.new("RGB", (3, 2)).save(folders[1] / "y.jpg")
    assert find_predictions(*folders, None).num_without == 1


def test_predictions_may_lie_in_the_folder_of_the_images(folders, tmp_path):
    (tmp_path / "found").rename(tmp_path / "images/found")
    found = find_predictions(tmp_path / "images/found", tmp_path / "images", None)
    assert [prediction.name for prediction in found.predictions] == ["a/x.jpg"]
    assert found.num_without == 0


def refused(folders, message, names_file=None):
    with pytest.raises(DataError, match=message):
        list(read_predictions(find_predictions(*folders, names_file)))


def test_a_prediction_of_another_size_is_refused(folders):
    Image.new("RGB", (2, 3)).save(folders[1] / "a/x.jpg")
    refused(folders, "prediction has 3 x 2 pixels, its image 2 x 3; predict it again, or give")


def test_a_prediction_that_is_no_index_map_is_refused(folders):
    Image.new("RGB", (3, 2)).save(folders[0] / "a/x.png")
    refused(folders, "prediction must be an 8-bit PNG of indices, got color mode RGB: .*x.png")


def test_a_value_without_a_name_is_refused(folders):
    describe(folders[0] / "a/x.json", (0, "road"), (1, "sky"))
    refused(folders, "value 2 has no name; known are 0, 1: .*x.png")


def test_a_prediction_without_an_image_is_refused(folders):
    (folders[1] / "a/x.jpg").rename(folders[1] / "a/z.jpg")
    refused(folders, "prediction .*x.png has no image .*a/x with one of .jpg.*; --images must be")


def test_two_images_of_one_name_are_refused(folders):
    Image.new("RGB", (3, 2)).save(folders[1] / "a/x.tif")
    refused(folders, "x.png has two images, .*x.jpg and .*x.tif; rename one of them and predict")


def test_missing_folders_and_predictions_are_told(folders, tmp_path):
    refused((tmp_path / "none", folders[1]), "no such folder of predictions: .*none")
    refused((folders[0], tmp_path / "none"), "no such folder of images: .*none")
    (folders[0] / "a/x.png").unlink()
    refused(folders, "no index PNG in .*found; make some with fusseg predict")


def test_descriptions_must_be_there_for_all_and_agree(folders):
    describe(folders[0] / "a/x.json", (0, "road"), (2, "sky"))
    Image.new("RGB", (3, 2)).save(folders[1] / "y.png")
    write_index(folders[0] / "y.png")
    refused(folders, "y.json is missing, but other predictions have theirs; predict again, or")
    describe(folders[0] / "y.json", (0, "sea"), (2, "sky"))
    refused(folders, "region 0 is .*'sea'.* here and .*'road'.* in another prediction; predict")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"regions": [{"index": 300, "name": "a", "color": "#000000"}]}']
)
def test_a_broken_description_is_refused(folders, text):
    (folders[0] / "a/x.json").write_text(text)
    refused(folders, "description is not as fusseg predict writes it .*; predict again: .*x.json")


def test_two_regions_of_one_name_are_refused(folders):
    describe(folders[0] / "a/x.json", (0, "road"), (2, "road"))
    refused(folders, "regions 0 and 2 are both called 'road'; give regions.toml with --regions")


def test_a_names_file_that_is_not_there_is_told(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*regions.toml: No such file"):
        find_predictions(*folders, tmp_path / "regions.toml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "coca"}, "unknown --format 'coca'; did you mean 'coco'?"),
        ({"out": "x.xml"}, "--out must be a file that ends in .json, got .*x.xml"),
        ({"out": "x.json", "format": "cvat"}, "--out must be a file that ends in .xml, got"),
        ({"image_prefix": "s3://"}, "--image-prefix is for label-studio, got --format coco; leave"),
        ({"out": "file", "format": "labelme"}, "--out must be a folder for labelme, got the file"),
    ],
)
def test_options_that_do_not_fit_are_refused(folders, tmp_path, changed, message):
    (tmp_path / "file").touch()
    said = {"format": "coco", "out": "x.json", "regions": None, "image_prefix": None} | changed
    said["out"] = tmp_path / said["out"]
    with pytest.raises(ConfigError, match=message):
        run_annotate(AnnotateOptions(*folders, how=AnnotationOptions(), **said))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("rl", "region", 1.0, 0), "unknown --shapes 'rl'; did you mean 'rle'?"),
        (("rle", "regions", 1.0, 0), "unknown --instances 'regions'; did you mean 'region'?"),
        (("rle", "region", -1.0, 0), "tolerance must be at least 0 pixels, got -1.0"),
        (("rle", "region", float("nan"), 0), "tolerance must be at least 0 pixels, got nan"),
        (("rle", "region", 1.0, -1), "min-area must be at least 0 pixels, got -1"),
    ],
)
def test_shapes_that_do_not_exist_are_refused(said, message):
    with pytest.raises(ConfigError, match=message):
        choose_how(*said)


def test_a_failure_on_the_way_leaves_the_old_file(folders, tmp_path):
    out = tmp_path / "coco.json"
    out.write_text("old")
    Image.new("RGB", (2, 3)).save(folders[1] / "y.png")
    write_index(folders[0] / "y.png")
    options = AnnotateOptions(*folders, "coco", out, None, None, AnnotationOptions(min_area=0))
    with pytest.raises(DataError, match="prediction has 3 x 2 pixels"):
        run_annotate(options)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco.json", "found", "images"]


def test_an_image_whose_labelme_file_cannot_be_written_is_named_and_the_rest_goes_on(
    folders, tmp_path, capsys
):
    long = "가" * 83 + "xy"
    for name in (f"{long}.jpg", "y.jpg"):
        Image.new("RGB", (3, 2)).save(folders[1] / name)
        write_index((folders[0] / name).with_suffix(".png"))
    out = tmp_path / "labelme"
    options = AnnotateOptions(*folders, "labelme", out, None, None, AnnotationOptions(min_area=0))
    assert not run_annotate(options)
    told = capsys.readouterr().out
    assert f"skipped {long}.jpg: cannot write to {out}: " in told
    assert "256 bytes; rename the image" in told
    assert {path.name for path in out.rglob("*.json")} == {"x.json", "y.json"}
