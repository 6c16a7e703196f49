"""Predict anything, and name the regions, from the command line and from Python."""

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg import ConfigError, DataError, PredictOptions, Segmenter
from fusseg.core.colors import overlay

LONG_NAME = Path(__file__).parents[3] / "shared/cases/long-name"


@pytest.fixture
def trained(cli, make_sites, make_config, tmp_path):
    cli("run", make_config(make_sites()), "--out", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def image(tmp_path):
    return tmp_path / "sites" / "west" / "images" / "003.png"


def pixels_of(path):
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def regions_of(path):
    with Image.open(path) as opened:
        return np.array(opened)


def test_the_description_says_what_is_in_the_index_png(cli, trained, image, tmp_path):
    cli("predict", trained, image, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "003.json").read_text())
    regions = regions_of(tmp_path / "out" / "003.png")
    assert found["format_version"] == 1
    assert found["image"] == {"file": "003.png", "height": 64, "width": 96}
    assert found["seen"] == {
        "height": 64,
        "width": 96,
        "tile_height": 64,
        "tile_width": 96,
        "tiles": 1,
    }
    for index, area in enumerate(found["regions"]):
        pixels = int((regions == index).sum())
        assert area["index"] == index
        assert (area["name"], area["clusters"]) == (f"cluster {index}", [index])
        assert (area["pixels"], area["share"]) == (pixels, pixels / regions.size)
        assert area["color"] == ("#e69f00", "#56b4e9")[index]
        assert 0 < area["confidence"] < 2
    assert found["made_by"]["run"] == "run"
    assert len(found["made_by"]["state"]) == 64


def test_the_same_from_python(cli, trained, image, tmp_path):
    cli("predict", trained, image, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "003.json").read_text())
    segmentation = Segmenter.load(trained).predict(pixels_of(image))
    assert (segmentation.regions == regions_of(tmp_path / "out" / "003.png")).all()
    assert segmentation.names == {0: "cluster 0", 1: "cluster 1"}
    assert segmentation.colors == {0: (230, 159, 0), 1: (86, 180, 233)}
    assert list(segmentation.shares.values()) == [area["share"] for area in found["regions"]]
    assert [segmentation.confidence[index] for index in (0, 1)] == [
        area["confidence"] for area in found["regions"]
    ]
    assert (Segmenter.load(str(trained)).predict(image).regions == segmentation.regions).all()


def test_the_overlay_is_that_of_the_whole_image(cli, trained, tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (700, 90, 3)).astype(np.uint8)
    Image.fromarray(wide).save(tmp_path / "tall.png")
    cli("predict", trained, tmp_path / "tall.png", "--out", tmp_path / "out")
    regions = regions_of(tmp_path / "out" / "tall.png")
    colors = np.array([(230, 159, 0), (86, 180, 233)], np.uint8)
    Image.fromarray(overlay(wide, regions, colors)).save(tmp_path / "own.jpg", quality=90)
    drawn = (tmp_path / "out" / "tall.overlay.jpg").read_bytes()
    assert drawn == (tmp_path / "own.jpg").read_bytes()


def test_what_is_done_is_skipped_until_image_model_names_or_options_change(
    cli, trained, image, tmp_path
):
    out, done = tmp_path / "out", "1 were already done; --again segments them again"
    predict = ("predict", trained, image, "--out", out)
    assert done not in cli(*predict)[1]
    png = out / "003.png"
    before = png.stat().st_mtime_ns
    assert done in cli(*predict)[1]
    assert png.stat().st_mtime_ns == before
    assert done not in cli(*predict, "--again")[1]
    assert done in cli(*predict)[1]
    assert done not in cli(*predict, "--tile", 32)[1]
    assert done not in cli(*predict)[1]
    png.unlink()
    assert done not in cli(*predict)[1]
    later = png.stat().st_mtime + 5
    os.utime(image, (later, later))
    assert done in cli(*predict)[1]
    os.utime(image, (later - 100, later - 100))
    cli("name", trained)
    text = (trained / "regions.toml").read_text()
    (trained / "regions.toml").write_text(text.replace('name = ""', 'name = "gravel"', 1))
    assert done not in cli(*predict)[1]
    assert done in cli(*predict)[1]


def damage(name):
    """Ways in which a result can differ from what was written."""

    def cut(path):
        path.write_bytes(path.read_bytes()[:-1])

    def repaint(path):
        regions = Image.open(path)
        regions.putpixel((0, 0), 1 - regions.getpixel((0, 0)))
        regions.save(path)

    def drop(*keys):
        def change(path):
            described = json.loads(path.read_text())
            for key in keys:
                del described[key]
            path.write_text(json.dumps(described))

        return change

    return {
        "cut off": cut,
        "missing": Path.unlink,
        "painted over": repaint,
        "no JSON": lambda path: path.write_text("{"),
        "deep JSON": lambda path: path.write_text("[" * 100_000),
        "without the digest of the image": drop("image_sha256"),
        "without the digest of the PNG": drop("png_sha256"),
    }[name]


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("003.png", "cut off"),
        ("003.png", "missing"),
        ("003.png", "painted over"),
        ("003.overlay.jpg", "cut off"),
        ("003.overlay.jpg", "missing"),
        ("003.json", "missing"),
        ("003.json", "no JSON"),
        ("003.json", "deep JSON"),
        ("003.json", "without the digest of the image"),
        ("003.json", "without the digest of the PNG"),
    ],
)
def test_a_damaged_result_is_made_anew(cli, trained, image, tmp_path, file, how):
    out = tmp_path / "out"
    cli("predict", trained, image, "--out", out)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    damage(how)(out / file)
    assert "were already done" not in cli("predict", trained, image, "--out", out)[1]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_a_result_is_known_by_the_bytes_of_its_image_and_not_by_name_and_time(
    cli, trained, image, tmp_path
):
    first, second, out = tmp_path / "one/a.png", tmp_path / "two/a.png", tmp_path / "out"
    for path, source in ((first, image), (second, image.with_name("002.png"))):
        path.parent.mkdir()
        shutil.copy(source, path)
    cli("predict", trained, first.parent, "--out", out)
    for age in (-1e6, 1e6):
        for path in (second, first):
            os.utime(path, (path.stat().st_mtime + age,) * 2)
            _, told, _ = cli("predict", trained, path.parent, "--out", out)
            assert "results of other images of the same name" in told
            cli("predict", trained, path, "--out", tmp_path / "fresh", "--again")
            for name in ("a.png", "a.overlay.jpg", "a.json"):
                assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert json.loads((out / "a.json").read_text())["image_sha256"] == digest
    # The same bytes under another name are another file, and their description says which.
    first.rename(first.with_name("a.PNG"))
    assert "were already done" not in cli("predict", trained, first.parent, "--out", out)[1]
    assert json.loads((out / "a.json").read_text())["image"]["file"] == "a.PNG"


def test_settings_of_the_run_that_change_how_it_sees_images_make_results_anew(
    cli, trained, image, tmp_path
):
    predict = ("predict", trained, image, "--out", tmp_path / "out")
    cli(*predict)
    config = trained / "config.toml"
    changes = (
        ("[64, 96]", "[32, 48]"),
        ('"bilinear"', '"box"'),
        ('alpha_channel = "blend"', 'alpha_channel = "ignore"'),
        ("[data]", "[data]\nwhite_level = { 1 = 4095 }"),
    )
    for old, new in changes:
        text = re.sub(r"\[\s*64,\s*96,?\s*\]", "[64, 96]", config.read_text())
        assert old in text
        config.write_text(text.replace(old, new))
        assert "were already done" not in cli(*predict)[1]
        assert "1 were already done" in cli(*predict)[1]


def test_a_write_that_fails_leaves_no_description_of_other_regions(
    cli, trained, image, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    cli("predict", trained, image, "--out", out)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("fusseg.prediction.results.write_atomically", full)
    code, _, err = cli("predict", trained, image, "--out", out, "--again")
    assert code == 2
    assert "No space left on device" in err
    assert not (out / "003.json").exists()


@pytest.mark.parametrize(
    "letters", [78, 80, 81, 82, 83], ids=lambda number: f"{3 * number + 1} bytes"
)
def test_a_name_that_is_too_long_for_a_result_costs_that_image_alone(
    cli, trained, image, tmp_path, letters
):
    stem = "가" * letters + "x"
    (tmp_path / "long").mkdir()
    shutil.copy(image, tmp_path / "long" / f"{stem}.png")
    shutil.copy(image, tmp_path / "long" / "가.png")
    out = tmp_path / "out"
    code, told, _ = cli("predict", trained, tmp_path / "long", "--out", out)
    written = {path.name for path in out.iterdir()}
    results = {f"{name}{end}" for name in (stem, "가") for end in (".png", ".overlay.jpg", ".json")}
    if len(f"{stem}.overlay.jpg".encode()) <= 255:
        assert (code, written) == (0, results)
        assert "2 of 2 images are in" in told
        return
    assert (code, written) == (1, {"가.png", "가.overlay.jpg", "가.json"})
    assert f"skipped {tmp_path / 'long' / stem}.png: cannot write to {out}: " in told
    assert f"{len(stem.encode()) + 12} bytes; rename the image" in told
    assert "1 of 2 images are in" in told


def test_a_result_that_cannot_be_written_costs_that_image_alone(cli, trained, image, tmp_path):
    folder, out = tmp_path / "some", tmp_path / "out"
    (folder / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png", "d.png"):
        shutil.copy(image, folder / name)
    (out / "a.overlay.jpg").mkdir(parents=True)
    (out / "b").write_text("no folder")
    code, told, _ = cli("predict", trained, folder, "--out", out)
    assert code == 1
    assert f"skipped {folder / 'a.png'}: cannot write to {out}: a.overlay.jpg is a folder" in told
    assert f"skipped {folder / 'b/c.png'}: cannot write to {out / 'b'}: " in told
    assert {path.name for path in out.iterdir()} == {
        "a.overlay.jpg", "b", "d.png", "d.overlay.jpg", "d.json"
    }  # fmt: skip
    code, _, err = cli("predict", trained, folder, "--out", out / "b")
    assert code == 2
    assert f"cannot write to {out / 'b'}: " in err


@pytest.mark.skipif(not LONG_NAME.is_dir(), reason="../shared/cases is absent")
def test_the_long_name_is_predicted(cli, trained, tmp_path):
    (image,) = LONG_NAME.glob("*.jpg")
    assert cli("predict", trained, LONG_NAME, "--out", tmp_path / "out")[0] == 0
    expected = Segmenter.load(trained).predict(image).regions
    assert (regions_of(tmp_path / "out" / f"{image.stem}.png") == expected).all()


def test_tiles_and_strips_give_nearly_the_regions_of_the_whole(trained, image):
    segmenter = Segmenter.load(trained)
    pixels = pixels_of(image).repeat(2, 0).repeat(2, 1)
    whole = segmenter.predict(pixels, PredictOptions(scale=1.0))
    tiled = segmenter.predict(pixels, PredictOptions(scale=1.0, tile=80, batch=3))
    assert whole.seen.tiling.num_tiles == 1
    assert tiled.seen.tiling.num_tiles == 6
    assert (whole.regions == tiled.regions).mean() > 0.9
    by_one = segmenter.predict(pixels, PredictOptions(scale=1.0, tile=80))
    assert (by_one.regions == tiled.regions).all()


def test_images_of_one_batch_give_what_each_gives_alone(cli, trained, tmp_path):
    images = tmp_path / "sites" / "west" / "images"
    (images / "broken.png").write_bytes(b"broken")
    Image.new("RGB", (50, 70)).save(images / "other.png")
    assert cli("predict", trained, images, "--out", tmp_path / "one")[0] == 1
    assert cli("predict", trained, images, "--out", tmp_path / "many", "--batch", 4)[0] == 1
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 3 * 7
    for name in names:
        one, many = tmp_path / "one" / name, tmp_path / "many" / name
        assert one.read_bytes() == many.read_bytes(), name


def test_a_pattern_finds_images_and_keeps_their_path_below_its_fixed_part(cli, trained, tmp_path):
    pattern = tmp_path / "sites" / "*" / "images" / "00[01].png"
    code, out, _ = cli("predict", trained, pattern, "--out", tmp_path / "out")
    assert code == 0
    assert "6 of 6 images are in" in out
    assert (tmp_path / "out" / "north" / "images" / "001.json").exists()
    code, _, err = cli("predict", trained, tmp_path / "*.gif", "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(f"error: no image matches {tmp_path / '*.gif'}; known are .jpg")


@pytest.mark.parametrize("refine", ["guided", "crf"])
def test_refined_borders_are_nearer_to_the_edge_of_the_image(trained, image, refine, tmp_path):
    segmenter = Segmenter.load(trained)
    mask = regions_of(tmp_path / "sites" / "west" / "masks" / "003.png")
    plain = segmenter.predict(image).regions
    refined = segmenter.predict(image, PredictOptions(refine=refine)).regions
    agreement = [max((found == mask).mean(), (found != mask).mean()) for found in (plain, refined)]
    assert agreement[1] > agreement[0]


def test_the_crf_refuses_large_images_and_names_the_other_way(cli, trained, tmp_path):
    Image.new("RGB", (2001, 1000)).save(tmp_path / "large.png")
    code, out, _ = cli(
        "predict", trained, tmp_path / "large.png", "--out", tmp_path / "out", "--refine", "crf"
    )
    assert code == 1
    assert "the CRF takes images of up to 2000000 pixels, got 2001 x 1000; use --refine guid" in out


def test_what_is_no_image_is_refused(trained):
    segmenter = Segmenter.load(trained)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match="an image must be an array of uint8 of shape"):
            segmenter.predict(wrong)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 300)])
def test_an_image_smaller_than_the_map_is_segmented(trained, size):
    found = Segmenter.load(trained).predict(np.full((*size, 3), 90, np.uint8))
    assert found.regions.shape == size
    assert sum(area.pixels for area in found.areas) == size[0] * size[1]


def test_a_tile_that_suits_no_image_is_refused_once(cli, trained, image, tmp_path):
    code, out, err = cli("predict", trained, image, "--out", tmp_path / "out", "--tile", "5")
    assert (code, out) == (2, "")
    assert "the tile must be at least the backbone's stride of 8, got 5" in err


def test_naming_by_hand_merges_names_and_keeps_what_was_filled_in(cli, trained, image, tmp_path):
    code, out, err = cli("name", trained)
    assert (code, err) == (0, "")
    assert "0 of 2 clusters have a name" in out
    with Image.open(trained / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
    file = trained / "regions.toml"
    text = file.read_text().replace('name = ""', 'name = "ground"').replace("#e69f00", "#010203")
    file.write_text(text)
    code, out, _ = cli("name", trained)
    assert "kept as it was" in out
    assert "2 of 2 clusters have a name, 1 joined another of the same name" in out
    assert file.read_text() == text
    cli("predict", trained, image, "--out", tmp_path / "out")
    (area,) = json.loads((tmp_path / "out" / "003.json").read_text())["regions"]
    assert (area["name"], area["clusters"], area["share"]) == ("ground", [0, 1], 1.0)
    assert (area["color"], area["confidence"]) == ("#010203", None)
    assert not regions_of(tmp_path / "out" / "003.png").any()
    file.write_text(text.replace("cluster = 1", "cluster = 2"))
    code, _, err = cli("predict", trained, image, "--out", tmp_path / "out")
    assert (code, err) == (2, f"error: unknown cluster 2; the model has 0 to 1: {file}\n")
    assert cli("name", trained, "--again")[0] == 2  # what is wrong in it is said first


def test_naming_tells_which_images_cannot_be_read(cli, trained, image, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "broken.png").write_bytes(image.read_bytes()[:200])
    code, _, err = cli("name", trained, "--images", folder)
    assert code == 2
    assert "none of 1 images can be read; give others with --images (the first: " in err
    assert not (trained / "regions.toml").exists()
    shutil.copy(image, folder / "whole.png")
    # Images of one name do not stand in each other's way: nothing is written beside them.
    Image.open(image).save(folder / "whole.jpg")
    code, out, err = cli("name", trained, "--images", folder)
    assert (code, err) == (0, "")
    assert f"skipped {folder / 'broken.png'}: " in out
    assert out.count("skipped") == 1


def test_naming_by_labels_says_how_sure_it_is(cli, trained, make_sites, tmp_path):
    code, out, err = cli("name", trained, "--labels", tmp_path / "sites")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("cluster ")]
    assert len(lines) == 2
    assert {line.split(": ")[1].split(",")[0] for line in lines} == {"gravel", "metal"}
    assert all("labeled pixels" in line and "unsure" not in line for line in lines)
    assert Segmenter.load(trained).predict(np.zeros((9, 9, 3), np.uint8)).names in (
        {0: "gravel", 1: "metal"},
        {0: "metal", 1: "gravel"},
    )
    code, _, err = cli("name", trained, "--labels", tmp_path / "sites")
    assert code == 2
    assert f"{trained / 'regions.toml'} exists and is not overwritten; give --again" in err
    unlabeled = make_sites(labeled=False, name="unlabeled")
    code, _, err = cli("name", trained, "--labels", unlabeled, "--again")
    assert (code, err) == (
        2,
        f"error: no image below {unlabeled} has a mask; put them at SITE/masks/STEM.png\n",
    )


def test_each_sites_own_model_has_its_own_names(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(), more='strategy = "local"')
    cli("run", config, "--out", tmp_path / "run")
    images = tmp_path / "sites" / "west" / "images"
    assert cli("name", tmp_path / "run", "--site", "north", "--images", images)[0] == 0
    file = tmp_path / "run" / "regions-north.toml"
    file.write_text(file.read_text().replace('name = ""', 'name = "gravel"', 1))
    assert (tmp_path / "run" / "contact_sheet-north.png").exists()
    assert Segmenter.load(tmp_path / "run", "north").regions.legend.keys() == {
        "gravel",
        "cluster 1",
    }
    assert "gravel" not in Segmenter.load(tmp_path / "run", "south").regions.legend
    with pytest.raises(ConfigError, match="each site of this run has its own model"):
        Segmenter.load(tmp_path / "run")
