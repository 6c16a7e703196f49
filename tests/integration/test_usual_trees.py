"""Trees as data sets are distributed: the commands that `check` prints make sites of them."""

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.config.file import load_config
from fusseg.data.class_file import read_classes
from fusseg.data.items import Item
from fusseg.data.masks import load_mask

CASES = Path(__file__).parents[3] / "shared" / "cases"
FAST = (
    "--set",
    "local.steps=1",
    "--set",
    "local.stego.positions=10",
    "--set",
    "federation.rounds=1",
)


@dataclass(frozen=True)
class Usual:
    """A tree, where to look at it, and the sites that it becomes."""

    files: tuple[str, ...]
    """Of each file its path; `{}` stands for 0 to 2, and `=` goes before the values of a mask."""
    sites: dict[str, tuple[int, int]]
    """Images and masks of each."""
    look_at: str = "."
    held_out: tuple[str, ...] = ()


def voc(year, labels="0,15,255"):
    base = f"VOCdevkit/{year}"
    return (
        f"{base}/JPEGImages/2007_00{{}}.jpg",
        f"{base}/JPEGImages/2008_00{{}}.jpg",
        f"{base}/Annotations/2007_00{{}}.xml",
        f"{base}/SegmentationClass/2007_00{{}}.png={labels}",
        f"{base}/SegmentationObject/2007_00{{}}.png=0,1,2",
        f"{base}/ImageSets/Segmentation/train.txt",
    )


ADE = (
    *("images/training/ADE_{}.jpg", "annotations/training/ADE_{}.png=0,1,7"),
    *("images/validation/ADE_v{}.jpg", "annotations/validation/ADE_v{}.png=0,1,7"),
    "objectInfo150.txt",
)
YOLO = ("images/train/{}.jpg", "labels/train/{}.txt", "images/val/{}.jpg", "labels/val/{}.txt")
BOTTLE = (
    *("train/good/{}.png", "test/good/{}.png", "test/big hole/{}.png", "test/dent/{}.png"),
    *("ground_truth/big hole/{}_mask.png=0,255", "ground_truth/dent/{}_mask.png=0,255"),
    "license.txt",
)
MVTEC = tuple(f"{category}/{name}" for category in ("bottle", "metal nut") for name in BOTTLE)
TWO_SPLITS = {"training": (3, 3), "validation": (3, 3)}
USUAL = {
    "VOC": Usual(voc("VOC2012"), {"VOC2012": (6, 3)}),
    "VOC, the year itself": Usual(voc("VOC2012"), {"VOC2012": (6, 3)}, "VOCdevkit/VOC2012"),
    "VOC, the folder of its masks": Usual(
        voc("VOC2012"), {"VOC2012": (6, 3)}, "VOCdevkit/VOC2012/SegmentationClass"
    ),
    "VOC of two years": Usual(
        voc("VOC2007") + voc("VOC2012"), {"VOC2007": (6, 3), "VOC2012": (6, 3)}
    ),
    "ADE20K": Usual(ADE, TWO_SPLITS, held_out=("validation",)),
    "ADE20K, the folder above": Usual(
        tuple(f"ADEChallengeData2016/{name}" for name in ADE), TWO_SPLITS, held_out=("validation",)
    ),
    "ADE20K, the folder of images": Usual(ADE, TWO_SPLITS, "images", ("validation",)),
    "ADE20K, the folder of masks": Usual(ADE, TWO_SPLITS, "annotations/training", ("validation",)),
    "ADE20K with its parts": Usual(
        (
            "images/ADE/training/urban/street/ADE_{}.jpg",
            "images/ADE/training/urban/street/ADE_{}_seg.png",
            "images/ADE/training/urban/street/ADE_{}_parts_1.png",
            "images/ADE/training/urban/street/ADE_{}/instance_000.png=0,255",
            "images/ADE/validation/home/ADE_v{}.jpg",
        ),
        {"training": (3, 0), "validation": (3, 0)},
        held_out=("validation",),
    ),
    "YOLO": Usual(YOLO, {"train": (3, 0), "val": (3, 0)}, held_out=("val",)),
    "COCO": Usual(
        ("train2017/{}.jpg", "val2017/{}.jpg", "annotations/instances_val2017.json"),
        {"train2017": (3, 0), "val2017": (3, 0)},
        held_out=("val2017",),
    ),
    "MVTec AD": Usual(
        MVTEC,
        {"bottle": (12, 6), "metal nut": (12, 6)},
        held_out=("bottle", "metal nut"),
    ),
    "MVTec AD, one category": Usual(MVTEC, {"bottle": (12, 6)}, "bottle", ("bottle",)),
    "CamVid": Usual(
        tuple(
            name
            for split in ("train", "val", "test")
            for name in (f"{split}/{split}{{}}.png", f"{split}annot/{split}{{}}.png=0,3,11")
        ),
        {"train": (3, 3), "val": (3, 3), "test": (3, 3)},
        held_out=("val",),
    ),
    "MVTec AD, the folder of a defect's masks": Usual(
        MVTEC, {"bottle": (12, 6)}, "bottle/ground_truth/dent", ("bottle",)
    ),
    "masks some folders below": Usual(
        (
            *("images/10k/train/{}.jpg", "labels/sem_seg/masks/train/{}.png=0,1,2"),
            *("labels/sem_seg/colormaps/train/{}.png", "labels/pan_seg/polygons/{}.json"),
        ),
        {"10k-train": (3, 3)},
    ),
    "masks in a folder of annotations": Usual(
        (
            *("images/{}.jpg", "annotations/trimaps/{}.png=1,2,3", "annotations/xmls/{}.xml"),
            "annotations/list.txt",
        ),
        {"data": (3, 3)},
        "annotations/trimaps",
    ),
    "train and train_masks": Usual(
        ("train/{}.jpg", "train_masks/{}_mask.png=0,255"), {"train": (3, 3)}
    ),
    "masks among the images": Usual(("{}.jpg", "{}_mask.png=0,255"), {"data": (3, 3)}),
}


def write(root, files):
    generator = np.random.default_rng(0)
    for name in files:
        name, _, values = name.partition("=")
        for number in range(3) if "{}" in name else [0]:
            path = root / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            if values:
                shown = np.array(list(map(int, values.split(","))), np.uint8)
                Image.fromarray(np.resize(shown, (32, 48))).save(path)
            elif path.suffix in (".jpg", ".png"):
                Image.fromarray(generator.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(path)
            else:
                path.write_text("{}")


def listing(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def follow(cli, root):
    """Run the commands that check prints, as they stand there; return the folder they make."""
    out = cli("check", root)[1]
    lines = [line[2:] for line in out.splitlines() if line.startswith("  ")]
    made = lines.pop()
    assert made.startswith("fusseg check ")
    done = subprocess.run(["sh", "-e"], input="\n".join(lines), text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return subprocess.run(
        ["sh", "-c", f"printf %s {made.removeprefix('fusseg check ')}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make a tree in a folder whose name needs quotes, and work beside it."""
    monkeypatch.chdir(tmp_path)

    def make(usual):
        root = tmp_path / 'it\'s "my" $HOME' / "data"
        write(root, usual.files)
        return root

    return make


@pytest.mark.parametrize("name", USUAL)
def test_a_usual_tree_becomes_sites_by_the_commands_that_check_prints(cli, tree, name):
    usual = USUAL[name]
    root = tree(usual)
    before = listing(root)
    code, out, _ = cli("check", root / usual.look_at)
    assert code == (0 if name == "masks among the images" else 1)
    # Folders of masks are neither images nor sites to be.
    assert "images, but no folder 'images'" not in out
    made = follow(cli, root / usual.look_at)
    assert listing(root) == before
    code, out, _ = cli("check", made)
    assert code == 0
    found = {
        site: (len(list((Path(made) / site / "images").glob("*.*"))), 0) for site in usual.sites
    }
    for site, (images, masks) in usual.sites.items():
        assert f"note: {site}: {images} images, {masks} masks" in out
        assert found[site][0] >= images
    assert "0 warnings" in out or name in ("YOLO", "COCO")
    code, _, err = cli("init", made, "--out", "mine.toml")
    assert (code, err) == (0, "")
    assert load_config("mine.toml").data.held_out_sites == usual.held_out
    assert cli("check", "mine.toml")[0] == 0


@pytest.mark.parametrize("name", ["VOC", "ADE20K", "YOLO", "MVTec AD, one category"])
def test_a_run_scores_what_is_labeled_there(cli, tree, name):
    usual = USUAL[name]
    made = follow(cli, tree(usual) / usual.look_at)
    cli("init", made, "--out", "mine.toml")
    code, out, _ = cli("run", "mine.toml", "--out", "run", *FAST)
    assert code == 0
    assert ("mIoU" in out) == any(masks for _, masks in usual.sites.values())


def test_init_and_run_refuse_a_tree_in_the_words_of_check(cli, tree):
    root = tree(USUAL["ADE20K"])
    out = cli("check", root)[1]
    code, _, err = cli("init", root, "--out", "mine.toml")
    assert code == 2
    assert err.removeprefix("error: ").strip() in out
    assert not Path("mine.toml").exists()


def test_defects_are_a_class_of_their_own(cli, tree):
    made = Path(follow(cli, tree(USUAL["MVTec AD"])))
    classes = read_classes(made / "classes.toml")
    assert classes.names == ("good", "defect")
    mask = made / "metal nut" / "masks" / "test-big hole-1.png"
    image = made / "metal nut" / "images" / "test-big hole-1.png"
    counts = Counter(load_mask(Item("a", "1", "", image, mask), classes).ravel().tolist())
    assert counts == {0: 32 * 24, 1: 32 * 24}


def test_a_second_folder_of_links_does_not_touch_the_first(cli, tree):
    root = tree(USUAL["VOC"])
    first, second = follow(cli, root), follow(cli, root)
    assert (first, second) == ("VOC2012-sites", "VOC2012-sites-2")
    # The same commands once more find everything there.
    before = listing(root)
    shutil.rmtree(second)
    out = cli("check", root)[1]
    for line in [line[2:] for line in out.splitlines() if line.startswith("  ")][:-1] * 2:
        subprocess.run(["sh", "-c", line], capture_output=True)
    assert listing(root) == before


def test_no_command_is_printed_for_a_name_that_would_not_be_seen(cli, tree):
    root = tree(USUAL["ADE20K"])
    hidden = root / "images" / "x\n  rm -r all"
    (root / "images" / "training").rename(hidden)
    code, out, _ = cli("check", root)
    assert code == 1
    assert not [line for line in out.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("look_at", [".", "cs", "cs/leftImg8bit", "cs/leftImg8bit/train"])
def test_cityscapes_is_found_above_and_below(cli, tree, look_at):
    files = ("cs/leftImg8bit/train/ulm/{}_leftImg8bit.png", "cs/gtFine/train/ulm/{}_gtFine.png=7")
    code, out, _ = cli("check", tree(Usual(files, {})) / look_at)
    assert code == 0
    assert "note: ulm: 3 images" in out


@pytest.mark.skipif(not CASES.is_dir(), reason="the small inputs that go wrong are not there")
@pytest.mark.parametrize(("case", "site"), [("voc-tree", "VOC2012"), ("ade-tree", "training")])
def test_the_trees_at_hand_run(cli, tmp_path, monkeypatch, case, site):
    monkeypatch.chdir(tmp_path)
    made = follow(cli, CASES / case)
    code, out, _ = cli("check", made)
    assert code == 0
    assert f"note: {site}: 8 images, 8 masks" in out
    assert cli("init", made, "--out", "mine.toml")[0] == 0
    code, out, _ = cli("run", "mine.toml", "--out", "run", *FAST)
    assert code == 0
    assert f"  {site}: mIoU" in out
