import tomllib

import pytest

from fusseg.bench.cells import folder_name, list_cells
from fusseg.bench.grid import cell_config, check_names, override_grid
from fusseg.bench.grid_file import dump_grid, find_grid, load_grid, read_seeds
from fusseg.core.errors import ConfigError
from fusseg.federation.strategies import resolve

GRID = """
title = "Two rows"
seeds = [3, 5]
references = ["FedAvg"]

[config.model]
num_clusters = 4

[columns."3 clients"]
local = { steps = 7 }

[columns."6 clients"]
model = { num_clusters = 6 }

[methods.FedAvg]
federation = { strategy = "fedavg" }

[methods."k-means"]
federation = { strategy = "fedcc-kmeans", distance = "euclidean" }
columns = ["6 clients"]

[methods.anchor]
anchor = "pca"

[published.FedAvg]
"3 clients" = 21.12
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="grid.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_cell_joins_grid_column_method_and_seed(write):
    grid = load_grid(write(GRID))
    config = cell_config(grid, grid.columns[0], grid.methods[0], 5)
    assert (config.seed, config.local.steps, config.model.num_clusters) == (5, 7, 4)
    assert config.federation.strategy == "fedavg"
    config = cell_config(grid, grid.columns[1], grid.methods[1], 3)
    assert (config.local.steps, config.model.num_clusters) == (None, 6)
    assert config.federation.distance == "euclidean"


def test_cells_are_listed_seed_by_seed_and_only_where_a_method_is_run(write, tmp_path):
    cells = list_cells(load_grid(write(GRID)), tmp_path)
    assert [(cell.seed, cell.column, cell.method) for cell in cells] == [
        (seed, column, method)
        for seed in (3, 5)
        for column, method in [
            ("3 clients", "FedAvg"),
            ("3 clients", "anchor"),
            ("6 clients", "FedAvg"),
            ("6 clients", "k-means"),
            ("6 clients", "anchor"),
        ]
    ]
    assert cells[0].path == tmp_path / "cells" / "3-clients" / "fedavg" / "3"
    assert cells[1].anchor == "pca"


def test_each_site_is_held_out_in_turn_in_a_folder_of_its_own(write, tmp_path):
    text = 'leave_one_out = true\nseeds = 1\n[config.data]\nlayout = "synthetic"\n[methods.a]\n'
    cells = list_cells(load_grid(write(text)), tmp_path)
    assert len(cells) > 2
    for cell in cells:
        assert cell.config.data.held_out_sites == (cell.held_out,)
        assert cell.held_out not in cell.config.data.train_sites
        assert cell.path == tmp_path / "cells" / "all" / "a" / "0" / cell.held_out


def test_a_base_file_lies_below_the_grid_and_is_found_beside_it(write):
    write("[model]\nnum_clusters = 9\ncode_dim = 5\n", "base.toml")
    grid = load_grid(write('base = "base.toml"\n[config.model]\nnum_clusters = 3\n[methods.a]\n'))
    config = cell_config(grid, grid.columns[0], grid.methods[0], 0)
    assert (config.model.num_clusters, config.model.code_dim) == (3, 5)
    assert grid.title == "grid"
    assert grid.seeds == (0, 1, 2)


def test_a_preset_of_settings_can_lie_below_a_grid(write):
    grid = load_grid(write('base = "paper"\n[config.federation]\nrounds = 3\n[methods.a]\n'))
    config = cell_config(grid, grid.columns[0], grid.methods[0], 0)
    assert (config.model.init, config.federation.distance) == ("random", "euclidean")
    assert config.federation.rounds == 3


def test_a_grid_written_back_is_the_same_grid(write):
    grid = load_grid(write(GRID))
    assert load_grid(write(dump_grid(grid), "again.toml")) == grid


def test_overrides_stand_above_columns_and_below_methods(write):
    grid = override_grid(load_grid(write(GRID)), {"local": {"steps": 2}})
    config = cell_config(grid, grid.columns[0], grid.methods[1], 3)
    assert (config.local.steps, config.federation.strategy) == (2, "fedcc-kmeans")


def test_overrides_of_what_a_row_is_about_are_refused(write):
    grid = load_grid(write(GRID))
    with pytest.raises(
        ConfigError, match=r"--set federation.strategy is set by the method 'FedAvg'"
    ):
        override_grid(grid, {"federation": {"strategy": "local"}})
    with pytest.raises(ConfigError, match="--set seed cannot be used with a grid; use --seeds"):
        override_grid(grid, {"seed": 1})


def test_a_preset_lies_over_its_grid(write):
    path = write(
        'seeds = 2\n[methods.a]\n[presets.x]\ntitle = "X"\n[presets.x.config.model]\n'
        "num_clusters = 5\n[presets.y]\nseeds = 1\n"
    )
    grid = load_grid(path, "x")
    assert (grid.title, grid.seeds, grid.config) == ("X", (0, 1), {"model": {"num_clusters": 5}})
    assert load_grid(path, "y").seeds == (0,)
    with pytest.raises(ConfigError, match="grid needs --preset; choose one of x, y"):
        load_grid(path)
    with pytest.raises(ConfigError, match="unknown preset 'z'; choose one of x, y"):
        load_grid(path, "z")
    with pytest.raises(ConfigError, match="has no presets; leave out --preset x"):
        load_grid(write("[methods.a]\n"), "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a grid needs at least one method"),
        ("metods = 1\n[methods.a]", "unknown key 'metods'; did you mean 'methods'?"),
        ("title = 3\n[methods.a]", "title must be a string, got 3"),
        ("leave_one_out = 1\n[methods.a]", "leave_one_out must be true or false, got 1"),
        ("config = 3\n[methods.a]", "config must be a table, got 3"),
        ("[methods]\na = 3", "methods.a must be a table, got 3"),
        ("[methods.a]\nfederatoin = {}", "method 'a': unknown key 'federatoin'; did you mean"),
        ("[methods.a]\nseed = 3", "method 'a': unknown key 'seed'"),
        ('[methods.a]\nanchor = "ica"', "methods.a.anchor must be one of features, pca"),
        ('[methods.a]\ncolumns = ["x"]\n[columns.y]', "methods.a.columns: unknown column 'x'"),
        ('[methods.a]\ncolumns = "x"', "methods.a.columns must be a list of strings, got 'x'"),
        ("[columns]\nx = 3\n[methods.a]", "columns.x must be a table, got 3"),
        ("[columns.x]\nfit = 3\n[methods.a]", "column 'x': unknown key 'fit'"),
        ('references = ["b"]\n[methods.a]', "references: unknown method 'b'"),
        ("[methods.a]\n[published.b]", "published: unknown method 'b'"),
        ("[methods.a]\n[published.a]\nx = 3", "published.a: unknown key 'x'"),
        ("[methods.a]\n[published.a]\nall = 103", "published.a.all must be a percentage"),
        (
            "[methods.a]\nlocal = { steps = 0 }",
            "method 'a', column 'all': local.steps must be at least 1, got 0",
        ),
        (
            '[methods.a]\nfederation = { strategy = "fedvag" }',
            "method 'a', column 'all': unknown federation.strategy 'fedvag'",
        ),
        ('base = "none.toml"\n[methods.a]', "cannot read the configuration"),
        ("[methods", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named(write, text, message):
    with pytest.raises(ConfigError) as caught:
        load_grid(write(text))
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [0, [], [1, 1], [-1], "3", True, [True], 2000, 1.5])
def test_bad_seeds_are_refused(value):
    with pytest.raises(ConfigError, match="seeds must be"):
        read_seeds(value)


def test_names_that_would_share_a_folder_are_refused(write, tmp_path):
    assert folder_name("FedCC k-means, Euclidean") == "fedcc-k-means-euclidean"
    with pytest.raises(ConfigError, match="'a b' and 'A-b' would share the folder 'a-b'"):
        list_cells(load_grid(write('[methods."a b"]\n[methods."A-b"]\n')), tmp_path)
    with pytest.raises(ConfigError, match="methods: '!' must have a letter or a digit"):
        list_cells(load_grid(write('[methods."!"]\n')), tmp_path)


def test_unknown_rows_and_grids_name_the_nearest():
    with pytest.raises(ConfigError, match="unknown method 'FedAv'; did you mean 'FedAvg'"):
        check_names("method", ["FedAv"], ["FedAvg", "local"])
    with pytest.raises(ConfigError, match="unknown grid 'tabel1'; did you mean 'table1'"):
        find_grid("tabel1")
    with pytest.raises(ConfigError, match=r"cannot read the grid none.toml: no such file"):
        find_grid("none.toml")


PRESETS = [
    (table, preset)
    for table in ("table1", "table2", "table3", "heterogeneity")
    for preset in tomllib.loads(find_grid(table).read_text())["presets"]
]


@pytest.mark.parametrize(("table", "preset"), PRESETS)
def test_shipped_grids_are_valid_and_rows_differ_in_what_they_say_alone(table, preset):
    grid = load_grid(find_grid(table), preset)
    assert {name.partition(".")[0] for m in grid.methods for name in m.settings} <= {
        "federation",
        "local",
        "model",
    }
    for method in grid.methods:
        assert set(method.settings.get("local", {})) <= {
            "fedprox_weight",
            "fedmoon_weight",
            "fedmoon_temperature",
        }
    settings = [(method.settings, method.anchor) for method in grid.methods]
    assert all(settings.count(one) == 1 for one in settings)


TABLE_3 = {
    "no aggregation": ("local", ""),
    "E, any strategy": ("fedavg", "E"),
    "W+E, any strategy": ("fedavg", "WE"),
    "FedAvg, C": ("fedavg", "C"),
    "FedAvg, W+C": ("fedavg", "WC"),
    "FedAvg, E+C": ("fedavg", "EC"),
    "FedAvg, W+E+C": ("fedavg", "WEC"),
    "FedCC k-means, C or W+C": ("fedcc-kmeans", "C"),
    "FedCC k-means, E+C": ("fedcc-kmeans", "EC"),
    "FedCC k-means, W+E+C": ("fedcc-kmeans", "WEC"),
    "FedCC maximin, C or W+C": ("fedcc-maximin", "C"),
    "FedCC maximin, E+C": ("fedcc-maximin", "EC"),
    "FedCC maximin, W+E+C": ("fedcc-maximin", "WEC"),
}
"""Strategy and switches of each row; W is left out where nothing is averaged."""


@pytest.mark.parametrize("preset", ["cityscapes", "ips", "camvid", "flood"])
def test_table_3_has_all_combinations_of_the_switches(preset):
    grid = load_grid(find_grid("table3"), preset)
    found = {}
    for method in grid.methods:
        config = cell_config(grid, grid.columns[0], method, 0)
        protocol = resolve(config)
        heads, centroids = protocol.aggregate_heads, protocol.aggregate_centroids
        averages = heads or (centroids and protocol.strategy_name == "fedavg")
        switches = {"W": protocol.weights == "images" and averages, "E": heads, "C": centroids}
        on = "".join(name for name, value in switches.items() if value)
        found[method.name] = (protocol.strategy_name, on)
        if protocol.strategy_name not in ("fedavg", "local"):
            assert protocol.distance == "euclidean"
    assert found == TABLE_3


def test_cityscapes_has_the_papers_steps_shifts_and_figures():
    grid = load_grid(find_grid("table1"), "cityscapes")
    fedavg = next(method for method in grid.methods if method.name == "FedAvg")
    configs = [cell_config(grid, column, fedavg, 0) for column in grid.columns]
    assert [(c.data.num_clients, c.local.steps) for c in configs] == [(3, 833), (6, 500), (18, 833)]
    assert configs[0].local.tables["stego"]["shift"] == (0.458285, 0.175435, 0.313612)
    assert configs[0].model.num_clusters == 27
    assert (configs[0].data.image_size, configs[0].evaluation.image_size) == (
        (224, 224),
        (320, 320),
    )
    assert grid.published["FedMOON + FedCC"]["6 clients"] == 21.76
