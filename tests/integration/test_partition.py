"""`fusseg partition`, and runs on partitions and crops, end to end."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fusseg.config.file import load_config
from fusseg.runs.prepare import prepare

UNEVEN = """
[data]
root = {root}
held_out_sites = ["west"]
image_size = [64, 96]
partition = "dirichlet"
num_clients = 3
alpha = 5.0

[model]
num_clusters = 2
code_dim = 8

[local]
steps = 2
batch_size = 2

[local.stego]
positions = 30

[federation]
rounds = 1
"""


@pytest.fixture
def uneven(tmp_path, make_sites):
    path = tmp_path / "uneven.toml"
    path.write_text(UNEVEN.format(root=json.dumps(str(make_sites()))))
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_record(cli, config, run_dir, *sets):
    more = [part for setting in sets for part in ("--set", setting)]
    code, _, err = cli("run", config, "--out", run_dir, *more)
    assert (code, err) == (0, "")
    return json.loads((run_dir / "record.json").read_text())


def prepared(config, cache):
    stages = prepare(load_config(config), cache)
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            return stop.value


def test_a_partition_is_printed_saved_drawn_and_reused(cli, uneven, tmp_path):
    out, figure = tmp_path / "clients.csv", tmp_path / "clients.svg"
    code, text, err = cli("partition", uneven, "--out", out, "--figure", figure)
    assert (code, err) == (0, "")
    rows = rows_of(out)
    assert len({(row["site"], row["stem"]) for row in rows}) == len(rows) == 12
    counts = Counter(row["client"] for row in rows)
    for client, count in counts.items():
        line = next(line for line in text.splitlines() if line.startswith(client))
        assert line.split()[1] == str(count)
        assert "gravel" in line or "metal" in line
    assert f'data.partition = "file:{out}"' in text
    assert figure.read_text().count("client-0") == 3
    drawn = run_record(cli, uneven, tmp_path / "drawn")
    assert {one["client_id"]: one["num_images"] for one in drawn["clients"]} == counts
    saved = (f"data.partition=file:{out}", "data.num_clients=0")
    reused = run_record(cli, uneven, tmp_path / "reused", *saved)
    assert reused["clients"] == drawn["clients"]
    assert reused["final"] == drawn["final"]


def test_the_partition_does_not_depend_on_the_seed_of_training(cli, uneven, tmp_path):
    first, second, third = (tmp_path / f"{name}.csv" for name in "abc")
    cli("partition", uneven, "--out", first)
    cli("partition", uneven, "--out", second, "--set", "seed=9")
    cli("partition", uneven, "--out", third, "--set", "data.partition_seed=9")
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()


def test_images_without_masks_have_a_partition_but_no_figure(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites(labeled=False), more="\n")
    out = tmp_path / "p.csv"
    code, text, _ = cli("partition", config, "--out", out, "--set", "data.partition=iid")
    assert code == 0
    assert "dominant" not in text
    assert len(rows_of(out)) == 12
    out.unlink()
    code, _, err = cli("partition", config, "--out", out, "--figure", tmp_path / "p.svg")
    assert (code, err) == (
        2,
        "error: no training image has a mask to draw the classes of; leave --figure out\n",
    )
    assert not out.exists()


def test_a_partition_that_cannot_be_written_is_an_error(cli, uneven, tmp_path):
    out = tmp_path / "no" / "p.csv"
    code, _, err = cli("partition", uneven, "--out", out)
    assert (code, err) == (2, f"error: cannot write {out}: No such file or directory\n")


def test_a_partition_is_never_overwritten(cli, uneven, tmp_path):
    out = tmp_path / "clients.csv"
    out.write_text("edited")
    code, _, err = cli("partition", uneven, "--out", out)
    assert (code, err) == (
        2,
        f"error: {out} exists and is not overwritten; choose another --out or delete it\n",
    )
    assert out.read_text() == "edited"


def test_masks_decide_a_dirichlet_partition_and_nothing_else(cli, uneven, make_sites, tmp_path):
    """With the partition in a file, training gives the same bits without any training mask."""
    out = tmp_path / "clients.csv"
    cli("partition", uneven, "--out", out)
    saved = (f"data.partition=file:{out}", "data.num_clients=0")
    run_record(cli, uneven, tmp_path / "with", *saved)
    for site in ("north", "south"):
        for mask in (tmp_path / "sites" / site / "masks").iterdir():
            mask.unlink()
    run_record(cli, uneven, tmp_path / "without", *saved)
    states = [(tmp_path / name / "state.safetensors").read_bytes() for name in ("with", "without")]
    assert states[0] == states[1]


def test_crops_train_and_held_out_images_stay_whole(cli, make_sites, make_config, tmp_path):
    config = make_config(make_sites())
    text = config.read_text().replace("[data]", '[data]\ncrops = "five"')
    config.write_text(text)
    before = prepared(config, tmp_path / "cache")
    assert {client.client_id: len(client.features) for client in before.clients} == {
        "north": 30,
        "south": 30,
    }
    assert before.clients[0].features.names[:2] == ("north/000#top-left", "north/000#top-right")
    assert [item.stem for item in before.shown.items] == [f"{n:03d}" for n in range(6)]
    # The crop's features are those of a file with the same pixels.
    with Image.open(tmp_path / "sites" / "north" / "images" / "000.png") as image:
        part = np.asarray(image)[32:, 48:]
    alone = make_sites(sites=("north", "west"), num_images=2, name="alone")
    Image.fromarray(part).save(alone / "north" / "images" / "000.png")
    other = prepared(make_config(alone, name="alone.toml"), tmp_path / "cache")
    np.testing.assert_array_equal(
        before.clients[0].features.feature_map(3), other.clients[0].features.feature_map(0)
    )
    code, text, _ = cli("check", config)
    assert code == 0
    assert "60 crops replace the training images" in text
    assert "features: 66 images" in text


def test_training_images_are_shown_whole_where_nothing_is_held_out(
    make_sites, make_config, tmp_path
):
    config = make_config(make_sites(), held_out=())
    config.write_text(
        config.read_text().replace(
            "[data]", '[data]\ncrops = "five"\npartition = "iid"\nnum_clients = 2'
        )
    )
    found = prepared(config, tmp_path / "cache")
    assert [len(client.features) for client in found.clients] == [45, 45]
    assert len(found.shown.items) == 18
    assert all(item.crop is None and item.mask is None for item in found.shown.items)


def test_a_broken_image_is_skipped_once_per_crop_and_clients_are_named(
    cli, make_sites, make_config, tmp_path
):
    root = make_sites()
    (root / "north" / "images" / "000.png").write_bytes(b"")
    config = make_config(root)
    sets = ("data.partition=iid", "data.num_clients=2")
    record = run_record(cli, config, tmp_path / "run", *sets, "federation.rounds=1")
    assert [entry["image"] for entry in record["skipped_images"]] == ["000"]
    assert sum(client["num_images"] for client in record["clients"]) == 11


def test_values_of_a_column_are_sites_of_the_scores(cli, make_sites, make_config, tmp_path):
    root = make_sites(num_images=4)
    rows = ["stem,site,split,light"]
    for site in ("north", "south", "west"):
        rows += [f"{n:03d},{site},train,{'day' if n < 2 else 'night'}" for n in range(4)]
    (root / "splits.csv").write_text("\n".join(rows))
    config = make_config(root, held_out=("night",))
    sets = ("data.partition=column:light", "federation.rounds=1")
    record = run_record(cli, config, tmp_path / "run", *sets)
    assert record["clients"] == [{"client_id": "day", "num_images": 6}]
    assert {site: one["num_images"] for site, one in record["final"]["sites"].items()} == {
        "night": 6
    }
    # Other data have no such column, and need none.
    other = make_sites(sites=("east",), num_images=2, name="other")
    code, text, err = cli("evaluate", tmp_path / "run", "--data", other)
    assert (code, err) == (0, "")
    assert "east: mIoU" in text
