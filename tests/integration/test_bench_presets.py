"""The paper's tables as shipped, on trees of their layouts small enough to run."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.integration.conftest import draw_materials

from fusseg.data.layouts.cityscapes import CITIES

FORMATS = Path(__file__).parents[3] / "shared" / "data" / "formats"
SMALL = (
    "backbone.name=filterbank",
    "federation.rounds=2",
    "federation.lloyd_rounds=1",
    "local.steps=1",
    "local.batch_size=2",
    "local.stego.positions=9",
    "model.num_clusters=3",
    "data.image_size=[32, 32]",
    "evaluation.image_size=[48, 48]",
)


@pytest.fixture
def cityscapes(tmp_path):
    """The tree of Cityscapes with all of its cities, one frame each."""
    root = tmp_path / "cityscapes"
    splits = {"train": CITIES, "val": ("frankfurt", "lindau", "munster")}
    for split, cities in splits.items():
        for number, city in enumerate(cities):
            image, mask = draw_materials(number, 48, 96)
            stem = f"{city}_000000_000019"
            for kind, pixels, ending in (
                ("leftImg8bit", image, "leftImg8bit"),
                ("gtFine", np.where(mask == 1, 11, 7).astype(np.uint8), "gtFine_labelIds"),
            ):
                folder = root / kind / split / city
                folder.mkdir(parents=True)
                Image.fromarray(pixels).save(folder / f"{stem}_{ending}.png")
    return root


def run(cli, out, *arguments):
    sets = [part for setting in SMALL for part in ("--set", setting)]
    code, printed, err = cli("bench", *arguments, *sets, "--out", out, "--no-figures")
    assert (code, err) == (0, ""), printed
    with (out / "table.csv").open() as file:
        return list(csv.DictReader(file)), (out / "table.md").read_text()


def test_table_1_runs_on_cityscapes_with_three_and_six_clients(cli, cityscapes, tmp_path):
    rows, table = run(
        cli,
        tmp_path / "out",
        *("table1", "--preset", "cityscapes", "--data", cityscapes, "--seeds", "1"),
        *("--only", "FedMOON + FedCC", "--only", "federated PCA + Lloyd"),
        *("--column", "3 clients", "--column", "6 clients"),
        *("--set", "model.code_dim=8"),
    )
    found = {(row["method"], row["column"], row["site"]) for row in rows}
    assert ("FedMOON + FedCC", "6 clients", "munster") in found
    # the paper's figures beside ours, and how many crops each client has
    assert "20.35" in table
    assert "21.76" in table
    assert "3: 30, 30, 30" in table


def test_table_3_runs_on_cityscapes(cli, cityscapes, tmp_path):
    rows, table = run(
        cli,
        tmp_path / "out",
        *("table3", "--preset", "cityscapes", "--data", cityscapes, "--seeds", "1"),
        *("--only", "FedCC k-means, C or W+C", "--column", "3 clients"),
    )
    assert {row["method"] for row in rows if row["score"] == "mean_iou" and row["site"]} == {
        "FedCC k-means, C or W+C"
    }
    assert "federation.aggregate_heads = no" in table


@pytest.mark.skipif(not FORMATS.exists(), reason="needs ../shared/data/formats")
def test_table_2_runs_on_the_coco_originals(cli, tmp_path):
    listed = tmp_path / "val.txt"
    listed.write_text("000000000139\n000000000785\n")
    rows, table = run(
        cli,
        tmp_path / "out",
        *("table2", "--data", FORMATS / "coco_stuff", "--seeds", "1", "--only", "FedProx"),
        *("--set", "data.num_clients=2", "--set", f"data.held_out_list={listed}"),
    )
    assert {row["column"] for row in rows} == {"18 clients, Dirichlet", "18 clients, i.i.d."}
    assert "22.39" in table


def test_the_ips_protocol_holds_out_each_of_four_sites(cli, make_sites, tmp_path):
    root = make_sites(sites=("east", "north", "south", "west"), num_images=3)
    rows, table = run(
        cli,
        tmp_path / "out",
        *("table1", "--preset", "ips", "--data", root, "--seeds", "1", "--only", "FedAvg"),
    )
    held_out = {row["held_out"] for row in rows if row["method"] == "FedAvg" and row["held_out"]}
    assert held_out == {"east", "north", "south", "west"}
    assert "84.10" in table
