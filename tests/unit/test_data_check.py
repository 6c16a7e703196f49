from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.data.checks.check import check_sites
from fusseg.data.findings import Finding


@pytest.fixture
def root(tmp_path):
    """Two sites with three different labeled images each."""
    generator = np.random.default_rng(0)
    for site in ("a", "b"):
        for folder in ("images", "masks"):
            (tmp_path / site / folder).mkdir(parents=True)
        for stem in "123":
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / site / "images" / f"{stem}.png")
            labels = generator.integers(0, 2, (40, 50), dtype=np.uint8)
            Image.fromarray(labels).save(tmp_path / site / "masks" / f"{stem}.png")
    (tmp_path / "classes.toml").write_text('names = ["ground", "pipe"]\nignore_index = 255\n')
    return tmp_path


def check(root, at_sites=False, **settings):
    config = DataConfig(root=str(root), image_size=(32, 32), **settings)
    return list(check_sites(config, at_sites=at_sites))


def grave(findings):
    return [finding for finding in findings if finding.severity != "note"]


def test_a_good_set_is_described(root):
    table = "stem,site,split\n1,a,train\n2,a,train\n3,a,val\n"
    (root / "splits.csv").write_text(table)
    assert check(root) == [
        Finding("note", "a", "3 images, 3 masks; splits: train 2, val 1"),
        Finding("note", "b", "3 images, 3 masks"),
        Finding("note", str(root), "2 classes: ground, pipe; 255 ignored"),
        Finding("note", "selection", "6 images train, 0 held out"),
        Finding("note", str(root), "all images are 40 x 50"),
    ]


def test_a_set_that_cannot_be_opened_is_one_error(tmp_path):
    missing = str(tmp_path / "no")
    message = (
        f"data.root does not exist: {missing!r}; correct data.root, for a run in its "
        "config.toml (a relative path starts at the working directory); "
        "expected ROOT/SITE/images/*.jpg (or png, tif, bmp, webp)"
    )
    assert check(missing) == [Finding("error", missing, message)]


def test_a_selection_that_fails_is_an_error(root):
    message = "unknown site 'z' in data.held_out_sites; choose one of a, b"
    assert grave(check(root, held_out_sites=("z",))) == [Finding("error", "selection", message)]


def test_a_broken_image_is_a_warning_while_two_are_left(root):
    path = root / "a" / "images" / "1.png"
    path.write_bytes(b"")
    broken = Finding("warning", "a/1.png", f"image is empty (0 bytes): {path}; a run skips it")
    assert grave(check(root)) == [broken]


def test_a_site_left_with_one_image_is_an_error(root):
    for stem in "12":
        (root / "a" / "images" / f"{stem}.png").write_bytes(b"junk")
    message = (
        "site 'a' has 1 usable training image, at least 2 are needed; fusseg check lists what is "
        'skipped; add images, move the site out of data.root, or set data.train_sites = ["b"]'
    )
    findings = grave(check(root))
    assert [finding.subject for finding in findings] == ["a/1.png", "a/2.png", "a"]
    assert findings[-1] == Finding("error", "a", message)
    assert [f.severity for f in grave(check(root, held_out_sites=("a",)))] == ["warning"] * 2


def test_a_bad_mask_is_an_error_where_it_would_be_read(root):
    path = root / "a" / "masks" / "1.png"
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(path)
    message = (
        "mask has the values 9, neither a class (0 to 1) nor ignored; correct the mask, or add "
        f"names or an ignore_index to classes.toml: {path}"
    )
    assert grave(check(root, held_out_sites=("a",))) == [Finding("error", "a/1.png", message)]
    assert grave(check(root, held_out_sites=("b",))) == [Finding("warning", "a/1.png", message)]
    assert grave(check(root)) == [Finding("warning", "a/1.png", message)]


def test_a_bad_training_mask_is_an_error_where_sites_are_scored_on_their_own(root):
    path = root / "a" / "masks" / "1.png"
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(path)
    config = DataConfig(root=str(root), image_size=(32, 32), train_sites=("a",))
    found = [(f.severity, f.subject) for f in grave(check_sites(config, at_sites=True))]
    assert found == [("error", "a/1.png")]
    elsewhere = replace(config, train_sites=("b",))
    found = [(f.severity, f.subject) for f in grave(check_sites(elsewhere, at_sites=True))]
    assert found == [("warning", "a/1.png")]


def test_one_usable_image_is_enough_where_its_crops_train(root):
    for stem in "12":
        (root / "a" / "images" / f"{stem}.png").write_bytes(b"junk")
    assert {f.severity for f in grave(check(root, crops="five"))} == {"warning"}


def test_a_bad_mask_of_another_split_is_a_warning(root):
    table = "stem,site,split\n1,a,train\n2,a,train\n3,a,val\n1,b,train\n2,b,train\n3,b,val\n"
    (root / "splits.csv").write_text(table)
    for stem in "13":
        (root / "a" / "masks" / f"{stem}.png").write_bytes(b"junk")
    findings = check(root, train_split="train", held_out_sites=("a",), held_out_split="val")
    found = [(finding.severity, finding.subject) for finding in grave(findings)]
    assert found == [("warning", "a/1.png"), ("error", "a/3.png")]


def test_held_out_images_that_are_all_broken_are_an_error(root):
    for path in (root / "b" / "images").iterdir():
        path.write_bytes(b"junk")
    message = (
        "every held-out image is skipped (3 in all), fusseg check says why; replace them, or hold "
        "out other sites"
    )
    findings = grave(check(root, held_out_sites=("b",)))
    assert [finding.severity for finding in findings] == ["warning"] * 3 + ["error"]
    assert findings[-1] == Finding("error", "selection", message)


def test_classes_are_inferred_from_readable_held_out_masks_where_none_are_named(root):
    (root / "classes.toml").unlink()
    (root / "b" / "masks" / "2.png").write_bytes(b"junk")
    (root / "b" / "images" / "3.png").write_bytes(b"junk")
    for mask in ("a/masks/1.png", "b/masks/3.png"):
        Image.fromarray(np.full((40, 50), 9, np.uint8)).save(root / mask)
    findings = check(root, held_out_sites=("b",))
    text = "no classes.toml; the scored masks show 2 of the classes 0 to 1, 255 ignored"
    assert Finding("note", str(root), text) in findings
    found = [(finding.severity, finding.subject) for finding in grave(findings)]
    assert found == [("warning", "b/3.png"), ("warning", "a/1.png"), ("error", "b/2.png")]


def test_masks_without_classes_are_only_looked_at_where_nothing_is_held_out(root):
    (root / "classes.toml").unlink()
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(root / "a" / "masks" / "1.png")
    (root / "a" / "masks" / "2.png").write_bytes(b"junk")
    findings = check(root)
    assert not [
        finding for finding in findings if "class" in finding.message.replace(str(root), "")
    ]
    assert [(f.severity, f.subject) for f in grave(findings)] == [("warning", "a/2.png")]


def test_held_out_images_without_masks_and_classes_are_fine(root):
    (root / "classes.toml").unlink()
    for path in (root / "b" / "masks").iterdir():
        path.unlink()
    assert grave(check(root, held_out_sites=("b",))) == []


def test_black_and_white_masks_without_classes_are_an_error(root):
    (root / "classes.toml").unlink()
    for path in root.glob("*/masks/*.png"):
        Image.fromarray(np.tile(np.array([0, 255], np.uint8), (40, 25))).save(path)
    (found,) = grave(check(root, held_out_sites=("b",)))
    assert (found.severity, found.subject) == ("error", str(root))
    assert found.message.startswith("masks hold no values but 0 and 255, and 255 is ignored")
    assert found.message.endswith(f": {root / 'b' / 'masks' / '1.png'}")
    assert grave(check(root, at_sites=True)) == [
        replace(found, message=found.message.replace("/b/masks/1.png", "/a/masks/1.png"))
    ]
    assert [finding.severity for finding in grave(check(root))] == ["warning"]


def test_copies_are_warned_about_across_sites(root):
    data = (root / "a" / "images" / "1.png").read_bytes()
    (root / "b" / "images" / "3.png").write_bytes(data)
    message = "same bytes as b/3.png; remove the copies"
    assert grave(check(root)) == [Finding("warning", "a/1.png", message)]


def test_rows_without_an_image_are_warned_about(root):
    (root / "splits.csv").write_text("stem,site,split\n1,a,train\n1.png,a,train\n8,b,val\n")
    message = (
        "2 rows without an image, the first: line 3 (stem '1.png' of site 'a'); "
        "stems are written without a suffix"
    )
    assert grave(check(root)) == [Finding("warning", str(root / "splits.csv"), message)]


def test_masks_without_an_image_are_warned_about(root):
    (root / "a" / "images" / "2.png").unlink()
    message = "1 mask without an image, the first: '2.png'; a mask has the name of its image"
    assert grave(check(root)) == [Finding("warning", str(root / "a" / "masks"), message)]


def test_a_site_without_images_is_warned_about(root):
    (root / "c" / "images").mkdir(parents=True)
    message = "no image in its folder 'images'; it is not a site"
    assert grave(check(root)) == [Finding("warning", "c", message)]


def test_missing_masks_are_noted_in_a_partly_labeled_site(root):
    (root / "a" / "masks" / "2.png").unlink()
    (root / "a" / "masks" / "3.png").unlink()
    message = "2 images without a mask, the first: '2'; evaluation leaves them out"
    assert Finding("note", "a", message) in check(root)


def test_small_images_are_noted(root):
    Image.new("RGB", (31, 64)).save(root / "b" / "images" / "1.png")
    (root / "b" / "masks" / "1.png").unlink()
    sizes = Finding("note", str(root), "image sizes from 64 x 31 to 40 x 50")
    assert sizes in check(root)
    message = "1 image smaller than data.image_size 32 x 32, this one 64 x 31; scaled up"
    assert Finding("note", "b/1.png", message) in check(root)


def test_generated_scenes_can_be_checked_and_tracked():
    seen = []

    def track(items):
        for item in items:
            seen.append(item.stem)
            yield item

    config = DataConfig(layout="synthetic", images_per_site=2, image_size=(224, 320))
    findings = list(check_sites(config, track))
    assert seen == ["00000", "00001"] * 4
    assert grave(findings) == []


def test_a_site_that_is_left_out_for_want_of_images_is_warned_about(root):
    (root / "c" / "images").mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(root / "c" / "images" / "1.png")
    message = (
        "1 training image, but a site needs 2 to train; it does not train; add images or hold "
        "it out"
    )
    assert grave(check(root, train_sites=("a", "b"))) == [Finding("warning", "c", message)]
    assert grave(check(root, train_sites=("a",), held_out_sites=("c",))) == []
    assert grave(check(root, num_clients=1)) == []
