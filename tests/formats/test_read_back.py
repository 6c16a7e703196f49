"""Annotations read by the libraries of the tools they are for; run by make test-formats."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from fusseg.cli.annotate import AnnotateOptions, run_annotate
from fusseg.export.annotations.annotated_image import AnnotationOptions

pytestmark = pytest.mark.formats

SCRIPT = Path(__file__).with_name("read_back.py")
NAMES = ["sky & sea", 'the "road"', "car", "<tree>"]
SUFFIX = {"label-studio": ".json", "cvat": ".xml", "labelme": ""}


@pytest.fixture
def predictions(tmp_path):
    """Two images with predictions; regions have holes, several parts, and touch across."""
    images, folder = tmp_path / "images", tmp_path / "predictions"
    places = {}
    for number, name in enumerate(("a.jpg", "sub/b c.png")):
        noise = np.random.default_rng(number).normal(size=(4, 40 + number, 57))
        values = gaussian_filter(noise, (0, 1.5, 1.5)).argmax(axis=0).astype(np.uint8)
        path = folder / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        Image.new("RGB", values.shape[::-1]).save(images / name)
        regions = [
            {"index": index, "name": label, "color": f"#0000{index:02x}"}
            for index, label in enumerate(NAMES)
        ]
        path.with_suffix(".json").write_text(json.dumps({"regions": regions}))
        places[name] = values
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    return places


def read_back(tmp_path, kind, **how):
    """Write annotations and have them read by the tool's library."""
    out = tmp_path / "out" / f"found{SUFFIX[kind]}"
    options = AnnotationOptions(min_area=0, **how)
    images = tmp_path / "images"
    run_annotate(AnnotateOptions(tmp_path / "predictions", images, kind, out, None, None, options))
    python = os.environ["FUSSEG_FORMATS_PYTHON"]
    command = [python, SCRIPT, kind, out, images, tmp_path / "found.npz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        return {name.replace("%20", " "): found[name] for name in found}


def expected(values):
    """The map as the script writes it: by sorted names, from 1."""
    return np.array([sorted(NAMES).index(name) + 1 for name in NAMES])[values]


@pytest.mark.parametrize("instances", ["components", "region"])
@pytest.mark.parametrize("kind", SUFFIX)
def test_masks_come_back_as_they_were(tmp_path, predictions, kind, instances):
    found = read_back(tmp_path, kind, shapes="rle", instances=instances)
    assert found.keys() == predictions.keys()
    for name, values in predictions.items():
        assert (found[name] == expected(values)).all()


@pytest.mark.parametrize("kind", ["label-studio", "cvat"])
def test_unsimplified_polygons_are_the_regions(tmp_path, predictions, kind):
    found = read_back(tmp_path, kind, shapes="polygons", tolerance=0.0)
    for name, values in predictions.items():
        assert (found[name] == expected(values)).all()


def test_labelme_draws_polygons_and_the_pixels_that_their_lines_touch(tmp_path, predictions):
    found = read_back(tmp_path, "labelme", shapes="polygons", tolerance=0.0)
    for name, values in predictions.items():
        wanted = expected(values)
        wrong = found[name] != wanted
        same = np.stack([distance_transform_edt(values == value) for value in range(len(NAMES))])
        assert wrong.any()
        assert same.max(axis=0)[wrong].max() <= 2**0.5
