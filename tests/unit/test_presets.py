from pathlib import Path

import pytest

from fusseg.config.file import flatten, load_config, parse_config, to_table
from fusseg.config.presets import PRESETS, find_preset
from fusseg.federation.strategies import resolve
from fusseg.segmentation.objectives import spell_out

EXAMPLES = Path(__file__).parents[2] / "examples"


def settings_of(config):
    return flatten(to_table(spell_out(config)))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_configuration_of_known_keys(name):
    config = parse_config(find_preset(name))
    resolve(config)
    assert settings_of(config).items() >= flatten(find_preset(name)).items()


def test_the_paper_draws_its_start_compares_by_euclidean_distance_and_keeps_the_last_model():
    paper, default = (settings_of(parse_config(find_preset(name))) for name in ("paper", "default"))
    differing = {key for key in default if paper[key] != default[key]}
    chosen = {
        "model.init": "random",
        "model.whitening": 0.0,
        "federation.distance": "euclidean",
        "federation.keep": "last",
    }
    assert {key: paper[key] for key in differing} == chosen


@pytest.mark.parametrize("name", ["cityscapes", "coco_stuff"])
def test_the_examples_of_the_papers_tables_have_its_settings(name):
    paper = flatten(find_preset("paper"))
    assert settings_of(load_config(EXAMPLES / f"{name}.toml")).items() >= paper.items()


def test_a_preset_lies_below_the_file_and_the_overrides(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[model]\ncode_dim = 9\n[local.stego]\nneighbors = 3\n")
    config = load_config(path, ["federation.rounds=4", "local.stego.dropout=0.2"], "paper")
    assert (config.model.init, config.model.code_dim) == ("random", 9)
    assert (config.federation.rounds, config.federation.distance) == (4, "euclidean")
    stego = config.local.tables["stego"]
    assert (stego["neighbors"], stego["dropout"], stego["positions"]) == (3, 0.2, 121)
    # The next one finds the preset as it was.
    assert find_preset("paper")["federation"]["rounds"] == 10
    assert find_preset("paper")["local"]["stego"]["dropout"] == 0.1
