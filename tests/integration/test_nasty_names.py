"""Names that run, hide or escape somewhere, tried in every file and line that is handed on."""

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from PIL import Image
from tests.integration.conftest import draw_materials

import fusseg

NASTY = (
    "=1+2",
    "+1",
    "-1",
    "@SUM(1)",
    "'=1",
    "\tcell",
    "a\u202egnp.b",
    "a\u2066b",
    "line\nbreak",
    "\x1b[31mred",
    "[bold]x",
    "<script>alert(1)<\\script>",
    '"quoted"&',
    "$x^{",
    "|pipe|`code`",
    "{{ site }}{% x %}",
    "%s{0}",
    "über 가",
)
PRINTABLE = tuple(name for name in NASTY if name.isprintable())
FORMULA = re.compile(r"[=+\-@\t\r]")
"""How a cell begins that a spreadsheet computes."""


@pytest.fixture
def nasty_config(make_sites, make_config):
    """Write a configuration for sites, images and classes of nasty names, in an absolute folder."""
    root = make_sites(sites=NASTY, num_images=2)
    for site, stem in zip(NASTY, reversed(NASTY), strict=True):
        for kind in ("images", "masks"):
            (root / site / kind / "000.png").rename(root / site / kind / f"{stem}.png")
        (root / site / "images" / "broken.png").write_bytes(b"no image")
    names = json.dumps(["<b>=gravel", "$metal|{{ x }}"])
    (root / "classes.toml").write_text(f"names = {names}\n")
    return make_config(root, held_out=NASTY[-8:])


def is_plain(text):
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def names_folder(path, tmp_path):
    """Whether a file names a folder of this machine: of the data, the program or a library."""
    libraries = (Path(package.__path__[0]).parent for package in (fusseg, torch))
    return any(str(folder).encode() in path.read_bytes() for folder in (tmp_path, *libraries))


def is_clean(text, tmp_path):
    return is_plain(text) and str(tmp_path) not in text and str(fusseg.__path__[0]) not in text


def is_clean_page(path, tmp_path):
    page = path.read_text()
    return (
        is_clean(page, tmp_path)
        and "<script>alert" not in page
        and "<b>=" not in page
        and page.count("<script") == page.count("</script>")
    )


def read_cells(path):
    return [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]


def is_text(cell):
    """Whether a spreadsheet takes a cell as text or number."""
    if not FORMULA.match(cell):
        return True
    return re.fullmatch(r"-\d+(\.\d+)?(e-\d+)?", cell) is not None


@pytest.fixture
def run(cli):
    """Run a command that succeeds, whatever it prints in plain text."""

    def run(*arguments):
        code, out, err = cli(*arguments)
        assert code == 0, (arguments, out, err)
        assert is_plain(out), (arguments, out)
        assert is_plain(err), (arguments, err)

    return run


def test_what_comes_before_a_run(run, nasty_config, tmp_path):
    run("check", nasty_config)
    run("init", tmp_path / "sites", "--out", tmp_path / "init.toml")
    few = ("--k", "2,3")
    run("suggest-k", nasty_config, "--out", tmp_path / "k.html", *few)
    assert is_clean_page(tmp_path / "k.html", tmp_path)


def test_a_run_and_its_pages(run, nasty_config, tmp_path):
    table, run_dir, adapted = tmp_path / "part.csv", tmp_path / "=run", tmp_path / "=adapted"
    run("partition", nasty_config, "--out", table, "--figure", tmp_path / "f.svg")
    assert all(map(is_text, read_cells(table)))
    assert is_clean((tmp_path / "f.svg").read_text(), tmp_path)
    settings = ("--set", f"data.partition=file:{table}", "--set", "federation.rounds=1")
    run("run", nasty_config, "--out", run_dir, *settings)
    text = (run_dir / "record.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    clients = sorted(client["client_id"] for client in record["clients"])
    assert clients == sorted(NASTY[:-8])
    assert len(record["skipped_images"]) == len(NASTY)
    run("cache")
    run("evaluate", run_dir)
    run("quality", run_dir, "--out", tmp_path / "quality.html")
    run("adapt", run_dir, tmp_path / "sites" / NASTY[0] / "images", "--out", adapted)
    run("report", run_dir, adapted, "--out", tmp_path / "compared.html")
    assert str(tmp_path) not in (adapted / "record.json").read_text()
    pages = (run_dir / "report.html", adapted / "adaptation.html", tmp_path / "quality.html")
    for page in (*pages, tmp_path / "compared.html"):
        assert is_clean_page(page, tmp_path), page


def test_predictions_and_models(run, start_cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites(sites=NASTY[:2], num_images=2), held_out=NASTY[1:2])
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for place, name in enumerate(NASTY):
        image, _ = draw_materials(place, 16, 24)
        Image.fromarray(image).save(pictures / f"{name}.png")
    run_dir, regions = tmp_path / "run", tmp_path / "regions"
    run("run", config, "--out", run_dir, "--set", "federation.rounds=1")
    run("name", run_dir)
    names = run_dir / "regions.toml"
    names.write_text(names.read_text().replace('""', '"=<b>|`{{ x }}"', 1))
    run("predict", run_dir, pictures, "--out", regions)
    assert len(list(regions.glob("*.json"))) == len(NASTY)
    assert not any(names_folder(path, tmp_path) for path in regions.glob("*.json"))
    # a labeling tool is given names that can be printed, or none
    for path in [*pictures.iterdir(), *regions.iterdir()]:
        if not path.name.isprintable():
            path.unlink()
    out = tmp_path / "out"
    formats = {"coco": "c.json", "label-studio": "l.json", "cvat": "c.xml", "labelme": "labelme"}
    for kind, name in formats.items():
        run("annotate", regions, "--images", pictures, "--format", kind, "--out", out / name)
    files = {entry["file_name"] for entry in json.loads((out / "c.json").read_text())["images"]}
    assert files == {f"{name}.png" for name in PRINTABLE}
    ET.parse(out / "c.xml")
    run("pack", run_dir, "--out", out / "m.safetensors")
    # in a process of its own: torch traces nothing whose shapes are checked
    exporting = start_cli("export", run_dir, "--out", out / "m.onnx", "--images", pictures)
    assert is_plain(exporting.stdout.read())
    assert exporting.wait() == 0
    assert (out / "m.onnx").exists()
    assert not any(names_folder(path, tmp_path) for path in out.rglob("*.*"))


GRID = """
title = "=Title <b>"
seeds = 1
references = ["=FedAvg|<b>"]

[config.data]
root = {root}
held_out_sites = ["@SUM(1)"]
image_size = [64, 96]

[config.model]
num_clusters = 2
code_dim = 4

[config.local]
steps = 2
batch_size = 2

[config.local.stego]
positions = 10

[config.federation]
rounds = 1

[methods."=FedAvg|<b>"]
federation.strategy = "fedavg"

[methods."@lloyd"]
federation.strategy = "lloyd"

[columns."=sites"]
"""


def test_tables_of_experiments(run, make_sites, tmp_path):
    root = make_sites(sites=("=1+2", "-1", "@SUM(1)"), num_images=2)
    grid, out = tmp_path / "grid.toml", tmp_path / "=bench"
    grid.write_text(GRID.format(root=json.dumps(str(root))))
    run("bench", grid, "--out", out)
    cells = read_cells(out / "table.csv")
    assert all(map(is_text, cells))
    assert {"'=FedAvg|<b>", "'@lloyd", "'@SUM(1)"} <= set(cells)
    assert str(tmp_path) not in (out / "table.md").read_text()
    assert is_clean_page(out / "table.html", tmp_path)
