"""What each page finds in the folder in which its blocks are run."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fusseg.data.synthetic.scenes import SCENES

ROOT = Path(__file__).parents[2]
SITES = ("tank", "tunnel", "yard")
SHAPE = (64, 96)
NUM_IMAGES = 9
CONFIGURATION = """\
[data]
root = "my_sites"
image_size = [64, 96]
held_out_sites = ["tank"]

[model]
num_clusters = 3
code_dim = 8

[local]
steps = 4
batch_size = 4

[local.stego]
positions = 30

[federation]
rounds = 2
"""
TINY = (
    "--set",
    "data.image_size=[64, 96]",
    "--set",
    "local.steps=4",
    "--set",
    "local.stego.positions=30",
)


QUICK = ("--set", "federation.rounds=1", "--set", "local.steps=4")
"""For images of their own size."""


def write_site(folder, site, num_images=NUM_IMAGES):
    """Draw small images of a generated site with their masks."""
    for index in range(num_images):
        generator = np.random.default_rng([index, *site.encode()])
        image, mask = SCENES["pipes"].draw(site, generator, SHAPE)
        for name, pixels in (("images", image), ("masks", mask)):
            (folder / site / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / site / name / f"{index:03d}.png")


def write_sites(folder, sites=SITES):
    for site in sites:
        write_site(folder, site)
    classes = SCENES["pipes"]
    colors = [list(color) for color in classes.colors]
    (folder / "classes.toml").write_text(
        f"names = {list(classes.class_names)}\ncolors = {colors}\n"
    )


def images(shared, folder):
    """Labeled sites, and images without a label."""
    shutil.copytree(shared / "my_sites", folder / "my_sites")
    for name in ("new_images", "photos"):
        shutil.copytree(shared / "my_sites" / "yard" / "images", folder / name)
    for name in ("photo.jpg", "image.jpg"):
        Image.open(folder / "photos" / "000.png").save(folder / name)


def configuration(shared, folder):
    """Images and a configuration of them."""
    images(shared, folder)
    (folder / "mine.toml").write_text(CONFIGURATION)


def finished_run(shared, folder):
    """Images, configuration, and what a run left."""
    configuration(shared, folder)
    shutil.copytree(shared / "runs" / "mine", folder / "runs" / "mine")


def several_runs(shared, folder):
    """Runs that differ in their seed."""
    finished_run(shared, folder)
    shutil.copytree(shared / "runs" / "mine-seed-1", folder / "runs" / "mine-seed-1")
    for name, run in (("a", "mine"), ("b", "mine-seed-1"), ("c", "mine")):
        shutil.copytree(shared / "runs" / run, folder / "runs" / name)


def labeled_sites(shared, folder):
    finished_run(shared, folder)
    shutil.copytree(shared / "my_sites", folder / "labeled_sites")


def new_sites(shared, folder):
    finished_run(shared, folder)
    write_sites(folder / "new_sites", ("hall", "yard"))
    write_sites(folder / "other_sites", ("hall",))
    rows = "".join(f"{stem:03d},hall,test\n" for stem in range(NUM_IMAGES))
    (folder / "other_sites" / "splits.csv").write_text("stem,site,split\n" + rows)


def own_entries(_shared, folder):
    """The scripts that the page shows."""
    for script in ("own_strategy.py", "own_objective.py"):
        shutil.copy(ROOT / "examples" / "extending" / script, folder)


def two_sites(_shared, folder):
    """What two sites have that start together: images without a label."""
    for name, look in (("hamburg", "yard"), ("porto", "tank")):
        write_site(folder / "drawn", look)
        shutil.copytree(folder / "drawn" / look / "images", folder / "my_sites" / name / "images")


def nothing(_shared, _folder):
    """An empty folder."""


@dataclass(frozen=True)
class Page:
    """How the blocks of a page are run."""

    prepare: Callable[[Path, Path], None] = nothing
    """Fills the folder; the first argument is the folder that all pages share."""
    smaller: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arguments put behind a command of this name, so that it takes seconds."""
    leaves: tuple[str, ...] = ()
    """Files that are there at the end."""
    own_cache: bool = False
    """Where a page empties the cache, the others keep theirs."""


PAGES: dict[str, Page] = {
    "CONTRIBUTING.md": Page(),
    "README.md": Page(
        images,
        {"run": TINY},
        leaves=(
            "runs/mine/report.html",
            "runs/mine/contact_sheet.png",
            "regions/008.png",
            "keys/server.crt",
            "hamburg-keys/hamburg.key",
        ),
    ),
    "docs/annotations.md": Page(finished_run, leaves=("coco.json",)),
    "docs/backbones.md": Page(configuration, own_cache=True),
    "docs/bench.md": Page(configuration),
    "docs/cluster.md": Page(),
    "docs/configuration.md": Page(configuration, leaves=("runs/five-rounds/state.safetensors",)),
    "docs/data.md": Page(configuration, leaves=("clients.csv", "clients.svg")),
    "docs/deployment.md": Page(leaves=("authority/ca.key", "keys/server.key", "keys/hamburg.key")),
    "docs/faq.md": Page(),
    "docs/export.md": Page(finished_run, leaves=("model.onnx",)),
    "docs/extending.md": Page(
        own_entries,
        {"scenes": ("--images", "6")},
        leaves=(
            "runs/matched/state.safetensors",
            "runs/network/state.safetensors",
            "runs/flat/state.safetensors",
            "regions/00005.png",
            "again/00005.png",
            "runs/teacher/state.safetensors",
        ),
    ),
    "docs/glossary.md": Page(),
    "docs/index.md": Page(
        smaller={"scenes": ("--images", "4"), "run": TINY}, leaves=("regions/00003.png",)
    ),
    "docs/install.md": Page(),
    "docs/method.md": Page(),
    "docs/naming.md": Page(labeled_sites, leaves=("runs/mine/regions.toml",)),
    "docs/new-sites.md": Page(
        new_sites, leaves=("runs/wider/state.safetensors", "runs/moved/adaptation.html")
    ),
    "docs/teach.md": Page(labeled_sites, leaves=("runs/mine/classes.toml",)),
    "docs/predict.md": Page(finished_run, leaves=("regions/008.overlay.jpg",)),
    "docs/privacy.md": Page(),
    "docs/quality.md": Page(several_runs, leaves=("suggest-k.html", "runs/mine/quality.html")),
    "docs/record.md": Page(),
    "docs/reference/command-line.md": Page(),
    "docs/reference/data.md": Page(),
    "docs/reference/features.md": Page(),
    "docs/reference/federation.md": Page(),
    "docs/reference/python.md": Page(),
    "docs/reference/regions.md": Page(),
    "docs/report.md": Page(several_runs, leaves=("runs/a/report.html", "pages/ab.html")),
    "docs/results.md": Page(),
    "docs/results-drawn-start.md": Page(),
    "docs/scale.md": Page(),
    "docs/several-sites.md": Page(
        two_sites,
        {"run": QUICK},
        leaves=("runs/simulated/report.html", "keys/server.crt", "porto-keys/porto.key"),
    ),
    "docs/share.md": Page(finished_run, leaves=("model.safetensors", "folder/README.md")),
    "docs/speed.md": Page(),
    "docs/tracking.md": Page(
        configuration, leaves=("runs/mine/report.html", "runs/in-python/state.safetensors")
    ),
    "docs/tutorial.md": Page(
        smaller={"scenes": ("--images", "6"), "suggest-k": ("--k", "2,3"), "run": QUICK},
        leaves=(
            "suggest-k.html",
            "runs/mine/contact_sheet.png",
            "runs/mine/quality.html",
            "regions/00005.overlay.jpg",
            "tasks.config.xml",
            "cvat.xml",
            "coco.json",
            "pipes.safetensors",
        ),
    ),
}
"""Every page; one without blocks needs no folder, but stands here all the same."""
