"""Examples and shipped grids hold the settings of the paper and its authors' configuration."""

from pathlib import Path

import pytest

from fusseg.bench.grid import cell_config
from fusseg.bench.grid_file import find_grid, load_grid
from fusseg.config.file import flatten, load_config, to_table
from fusseg.segmentation.objectives import spell_out

EXAMPLES = Path(__file__).parents[2] / "examples"

COMMON = {
    "backbone.name": "facebook/dino-vitb8",
    "backbone.center": "auto",  # off for ViTs
    "data.image_size": (224, 224),
    "data.fit": "crop",
    "evaluation.image_size": (320, 320),
    "evaluation.whole": False,
    "model.num_clusters": 27,
    "model.code_dim": 70,
    "model.start": "",
    "local.batch_size": 8,
    "local.stego.positions": 121,
    "local.stego.neighbors": 2,
    "local.stego.random_supports": 5,
    "local.stego.dropout": 0.1,
    "local.head_learning_rate": 5e-4,
    "local.centroid_learning_rate": 5e-3,
    "local.stego.separation_weight": 0.0,
    "federation.rounds": 10,
    "federation.clients_per_round": 0,
    "federation.server_learning_rate": 1.0,
    "federation.server_optimizer": "none",
    "federation.weights": "images",
    "federation.aggregate_heads": True,
    "federation.aggregate_centroids": True,
    "federation.wire": "float32",
}
CITYSCAPES = COMMON | {
    "data.layout": "cityscapes",
    "data.train_sites": (),
    "data.train_split": "train",
    "data.held_out_sites": ("frankfurt", "lindau", "munster"),
    "data.held_out_split": "val",
    "data.partition": "site",
    "data.crops": "five",
    "local.stego.self_weight": 1.0,
    "local.stego.neighbor_weight": 0.577453,
    "local.stego.random_weight": 0.905876,
    "local.stego.shift": (0.458285, 0.175435, 0.313612),
}
COCO_STUFF = COMMON | {
    "data.layout": "coco-stuff",
    "data.train_sites": ("train2017",),
    "data.held_out_sites": ("val2017",),
    "data.partition": "dirichlet",
    "data.num_clients": 18,
    "data.alpha": 0.5,
    "data.crops": "none",
    "local.steps": 333,
    "local.stego.self_weight": 0.1,
    "local.stego.neighbor_weight": 1.0,
    "local.stego.random_weight": 0.153848,
    "local.stego.shift": (0.12, 0.2, 1.0),
}
METHOD = {
    "federation.strategy": "fedcc-kmeans",
    "federation.distance": "euclidean",
    "local.fedprox_weight": 0.0,
    "local.fedmoon_weight": 0.0,
}
"""FedAvg + FedCC, the paper's own."""
STEPS = {"3 clients": (3, 833), "6 clients": (6, 500), "18 clients": (18, 833)}
"""Clients, and steps of each in a round."""


def settings_of(config):
    return flatten(to_table(spell_out(config)))


def check(config, expected):
    settings = settings_of(config)
    assert {key: settings[key] for key in expected} == expected


def configurations(table, preset, column):
    """Every row that trains, in one column."""
    grid = load_grid(find_grid(table), preset)
    place = next(one for one in grid.columns if one.name == column)
    return {
        method.name: cell_config(grid, place, method, 0)
        for method in grid.methods
        if method.anchor is None
    }


def test_the_example_of_cityscapes_has_the_papers_settings():
    three = {"data.num_clients": 3, "local.steps": 833, "federation.lloyd_rounds": 0}
    check(load_config(EXAMPLES / "cityscapes.toml"), CITYSCAPES | METHOD | three)


def test_the_example_of_coco_stuff_has_the_papers_settings():
    no_finish = {"federation.lloyd_rounds": 0}
    check(load_config(EXAMPLES / "coco_stuff.toml"), COCO_STUFF | METHOD | no_finish)


SWITCHES = {"federation.weights", "federation.aggregate_heads", "federation.aggregate_centroids"}


@pytest.mark.parametrize("column", STEPS)
@pytest.mark.parametrize("table", ["table1", "table3"])
def test_every_row_on_cityscapes_has_the_papers_settings(table, column):
    clients, steps = STEPS[column]
    expected = CITYSCAPES | {"data.num_clients": clients, "local.steps": steps}
    rows = configurations(table, "cityscapes", column)
    assert len(rows) > 10
    for config in rows.values():
        # Which of the switches are on is what the rows of Table 3 are about.
        dropped = SWITCHES if table == "table3" else set()
        check(config, {key: value for key, value in expected.items() if key not in dropped})


@pytest.mark.parametrize(
    ("column", "partition"),
    [("18 clients, Dirichlet", "dirichlet"), ("18 clients, i.i.d.", "iid")],
)
def test_every_row_on_coco_stuff_has_the_papers_settings(column, partition):
    for config in configurations("table2", "coco-stuff", column).values():
        check(config, COCO_STUFF | {"data.partition": partition})


@pytest.mark.parametrize(
    ("table", "preset", "column"),
    [("table1", "cityscapes", "3 clients"), ("table2", "coco-stuff", "18 clients, Dirichlet")],
)
def test_the_papers_methods_and_regularizers_are_as_published(table, preset, column):
    rows = configurations(table, preset, column)
    for name, strategy in {
        "FedAvg": "fedavg",
        "FedAvg + FedCC": "fedcc-kmeans",
        "FedProx": "fedavg",
        "FedProx + FedCC": "fedcc-kmeans",
        "FedMOON": "fedavg",
        "FedMOON + FedCC": "fedcc-kmeans",
        "centralized": "centralized",
    }.items():
        config = rows[name]
        assert config.federation.strategy == strategy
        if strategy == "fedcc-kmeans":
            assert config.federation.distance == "euclidean"
        assert config.local.fedprox_weight == (0.001 if "FedProx" in name else 0.0)
        assert config.local.fedmoon_weight == (1.0 if "FedMOON" in name else 0.0)
        assert config.local.fedmoon_temperature == 0.5


@pytest.mark.parametrize(
    ("example", "table", "preset", "column"),
    [
        ("cityscapes", "table1", "cityscapes", "3 clients"),
        ("coco_stuff", "table2", "coco-stuff", "18 clients, Dirichlet"),
    ],
)
def test_an_example_is_one_cell_of_its_table(example, table, preset, column):
    cell = settings_of(configurations(table, preset, column)["FedAvg + FedCC"])
    own = settings_of(load_config(EXAMPLES / f"{example}.toml"))
    # Where the data is, and the finish that the table shows beside the score after training.
    differs = {key for key in own if own[key] != cell[key]}
    assert differs <= {"data.root", "data.train_list", "federation.lloyd_rounds"}


@pytest.mark.parametrize("table", ["table1", "table3"])
def test_other_data_of_the_paper_is_trained_and_scored_at_its_sizes(table):
    for config in configurations(table, "ips", "3 clients").values():
        assert config.model.num_clusters == 2
        assert (config.data.image_size, config.evaluation.image_size) == ((224, 224), (320, 320))
