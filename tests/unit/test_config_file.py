import re
import tomllib
from dataclasses import asdict, dataclass, fields

import pytest

from fusseg.config.file import (
    build_settings,
    differing_keys,
    dump_config,
    dump_portable_config,
    load_config,
    parse_config,
    spell_out,
)
from fusseg.config.previous_version import MOVED_KEYS
from fusseg.config.schema import Config, DataConfig, FederationConfig, LocalConfig
from fusseg.core.errors import ConfigError
from fusseg.segmentation.objectives.stego import StegoSettings


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('seed = 4\n[local]\nsteps = 7\n[data]\ntrain_sites = ["a", "b"]\n')
    return path


def expect_refusal(message, action, *arguments):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        action(*arguments)


def test_a_table_of_white_levels_is_written_back_and_compared(tmp_path):
    config = Config(data=DataConfig(white_level={"1": 4095, "3": 65535}))
    (tmp_path / "c.toml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.toml") == config
    assert hash(config) == hash(load_config(tmp_path / "c.toml"))
    other = Config(data=DataConfig(white_level={"1": 4095, "4": 1023}))
    assert differing_keys(config, other) == ["data.white_level.3", "data.white_level.4"]
    assert differing_keys(Config(data=DataConfig(white_level=4095)), Config()) == [
        "data.white_level"
    ]


@pytest.mark.parametrize("value", ["12bit", "[4095]", "{1 = 'x'}", "4095.0", "true"])
def test_what_is_no_white_level_is_refused(value, file):
    with pytest.raises(ConfigError, match="a whole number or a table of whole numbers"):
        load_config(file, [f"data.white_level={value}"])


def test_missing_keys_take_their_defaults(file):
    expected = Config(seed=4, local=LocalConfig(steps=7), data=DataConfig(train_sites=("a", "b")))
    assert load_config(file) == expected


def test_an_empty_file_is_the_default_configuration(tmp_path):
    (tmp_path / "c.toml").touch()
    assert load_config(tmp_path / "c.toml") == Config()


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "c.toml").write_bytes("seed = 3".encode("utf-8-sig"))
    assert load_config(tmp_path / "c.toml").seed == 3


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("local.steps=50", "local", "steps", 50),
        (" local.steps = 50 ", "local", "steps", 50),
        ("data.root=../sites", "data", "root", "../sites"),
        ("data.root=a=b", "data", "root", "a=b"),
        ('data.root="3"', "data", "root", "3"),
        ("data.root=", "data", "root", ""),
        ("data.image_size=[360, 480]", "data", "image_size", (360, 480)),
        ("data.held_out_sites=[]", "data", "held_out_sites", ()),
        ("local.fedprox_weight=1", "local", "fedprox_weight", 1.0),
        ("local.stego.shift=auto", "local", "tables", {"stego": {"shift": "auto"}}),
        ("local.stego.shift=[1, 0.5]", "local", "tables", {"stego": {"shift": (1, 0.5)}}),
        ("local.other={a = [[1], []]}", "local", "tables", {"other": {"a": ((1,), ())}}),
        ("federation.teach=true", "federation", "teach", True),
        ("backbone.center=true", "backbone", "center", True),
        ("backbone.center='auto'", "backbone", "center", "auto"),
        ("federation.strategy=fedavg", "federation", "strategy", "fedavg"),
        ("data.white_level=4095", "data", "white_level", 4095),
        ("data.white_level={3 = 1023, 1 = 4095}", "data", "white_level", {"1": 4095, "3": 1023}),
        ("data.white_level.3=1023", "data", "white_level", {"3": 1023}),
    ],
)
def test_an_override_is_toml_or_else_a_plain_string(override, section, key, value, file):
    found = getattr(getattr(load_config(file, [override]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(file):
    config = load_config(file, ["seed=5", "local.steps=8", "seed=6"])
    assert (config.seed, config.local.steps) == (6, 8)


def test_a_line_break_in_an_override_smuggles_in_no_other_key(file):
    message = "local.steps must be a whole number, got '3\\nseed = 9'"
    expect_refusal(message, load_config, file, ["local.steps=3\nseed = 9"])


@pytest.mark.parametrize("override", ["local.steps", "=3", " =3", ""])
def test_an_override_without_key_or_value_is_refused(override, file):
    expect_refusal(
        f"--set needs section.key=value, got {override!r}", load_config, file, [override]
    )


def test_an_override_below_a_value_is_refused(file):
    message = "--set 'seed.deep=3': 'seed' is a value, not a section"
    expect_refusal(message, load_config, file, ["seed.deep=3"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
        ({"local": {"step": 1}}, "unknown key 'local.step'; did you mean 'local.steps'?"),
        (
            {"federation": {"stratgy": "x"}},
            "unknown key 'federation.stratgy'; did you mean 'federation.strategy'?",
        ),
        (
            {"zzz": 1},
            "unknown key 'zzz'; choose one of seed, data, backbone, model, local, federation, "
            "privacy, teach, evaluation, compute",
        ),
        ({"data": 3}, "data must be a section, got 3"),
        ({"seed": {"a": 1}}, "seed must be a whole number, got {'a': 1}"),
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"data": {"root": 3}}, "data.root must be a string, got 3"),
        ({"data": {"train_sites": "a"}}, "data.train_sites must be a list of strings, got 'a'"),
        (
            {"data": {"train_sites": ["a", 1]}},
            "data.train_sites must be a list of strings, got ['a', 1]",
        ),
        (
            {"data": {"image_size": [320]}},
            "data.image_size must be a list of 2 whole numbers, got [320]",
        ),
        (
            {"data": {"image_size": [320, 320.0]}},
            "data.image_size must be a list of 2 whole numbers, got [320, 320.0]",
        ),
        ({"data": {"fit": "squeeze"}}, "data.fit must be 'crop' or 'stretch', got 'squeeze'"),
        (
            {"backbone": {"center": 1}},
            "backbone.center must be true or false or 'auto', got 1",
        ),
        ({"local": {"steps": "x"}}, "local.steps must be a whole number, got 'x'"),
        (
            {"local": {"tables": 3}},
            "unknown key 'local.tables'; did you mean 'local.epochs'?",
        ),
        (
            {"local": {"epochs": float("inf")}},
            "local.epochs must be a finite number, got inf",
        ),
        (
            {"local": {"fedprox_weight": float("nan")}},
            "local.fedprox_weight must be a finite number, got nan",
        ),
        (
            {"local": {"fedprox_weight": 10**400}},
            f"local.fedprox_weight must be a finite number, got {10**400}",
        ),
        ({"local": {"steps": {"a": 1}}}, "local.steps must be a whole number, got {'a': 1}"),
        ({"federation": {"teach": 1}}, "federation.teach must be true or false, got 1"),
        (
            {"federation": {"distance": "l2"}},
            "federation.distance must be 'cosine' or 'euclidean', got 'l2'",
        ),
        ({"local": {"steps": 0}}, "local.steps must be at least 1, got 0"),
    ],
)
def test_a_bad_key_or_value_is_refused(table, message):
    expect_refusal(message, parse_config, table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"dropot": 1}, "unknown key 'local.stego.dropot'; did you mean 'local.stego.dropout'?"),
        ({"dropout": "x"}, "local.stego.dropout must be a finite number, got 'x'"),
        ({"dropout": True}, "local.stego.dropout must be a finite number, got True"),
        ({"positions": 0}, "local.stego.positions must be at least 1, got 0"),
        (
            {"shift": [0.1, 0.2]},
            "local.stego.shift must be 'auto' or a list of 3 finite numbers, got (0.1, 0.2)",
        ),
        (
            {"shift": "automatic"},
            "local.stego.shift must be 'auto' or a list of 3 finite numbers, got 'automatic'",
        ),
    ],
)
def test_the_table_of_an_objective_is_checked_when_its_settings_are_built(table, message):
    written = parse_config({"local": {"stego": table}}).local.tables["stego"]
    expect_refusal(message, build_settings, StegoSettings, written, "local.stego.")


def test_the_settings_of_an_objective_are_built_from_its_table():
    table = {"dropout": 0, "shift": [1, 0.5, -0.5]}
    written = parse_config({"local": {"stego": table}}).local.tables["stego"]
    built = build_settings(StegoSettings, written, "local.stego.")
    assert built == StegoSettings(dropout=0.0, shift=(1.0, 0.5, -0.5))
    assert isinstance(built.dropout, float)


def test_the_table_of_an_objective_is_written_back_and_compared_under_its_own_name(tmp_path):
    tables = {"stego": {"dropout": 0.2, "shift": (0.1, 0.2, 0.3)}, "other": {"deep": {"a": ()}}}
    config = Config(local=LocalConfig(steps=7, tables=tables))
    written = dump_config(config)
    assert tomllib.loads(written)["local"]["stego"] == {"dropout": 0.2, "shift": [0.1, 0.2, 0.3]}
    assert "tables" not in written
    (tmp_path / "c.toml").write_text(written)
    assert load_config(tmp_path / "c.toml") == config
    other = load_config(tmp_path / "c.toml", ["local.stego.dropout=0.3", "local.stego.neighbors=1"])
    assert differing_keys(config, other) == ["local.stego.dropout", "local.stego.neighbors"]


def test_a_table_may_have_the_name_of_the_field_that_keeps_tables():
    config = parse_config({"local": {"tables": {"a": 1}}})
    assert config.local.tables == {"tables": {"a": 1}}
    assert parse_config(tomllib.loads(dump_config(config))) == config


def test_a_path_among_the_settings_of_an_objective_is_shown_and_checked_like_others():
    config = parse_config({"local": {"other": {"masks": "/data/here/masks"}}})
    assert tomllib.loads(dump_portable_config(config))["local"]["other"] == {"masks": "masks"}
    with pytest.raises(ConfigError, match=r"^local\.other\.masks begins with ~"):
        parse_config({"local": {"other": {"masks": "~/masks"}}})


def test_defaults_of_an_objective_are_spelled_out():
    kinds = {"stego": StegoSettings, "unused": StegoSettings}
    left = spell_out(Config(), kinds)
    assert left.local.tables == {"stego": asdict(StegoSettings())}
    right = parse_config({"local": {"stego": {"neighbors": 2}}})
    assert spell_out(right, kinds) == left
    strange = parse_config({"local": {"objective": "strange", "strange": {"a": 1}}})
    assert spell_out(strange, kinds) == strange


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"local": {"dropout": 0.2}}, "local.dropout is now local.stego.dropout"),
        ({"local": {"shift": [0, 0, 0]}}, "local.shift is now local.stego.shift"),
        (
            {"local": {"positions": 3, "self_weight": 1.0, "stego": {"positions": 4}}},
            "local.positions is now local.stego.positions, "
            "local.self_weight is now local.stego.self_weight",
        ),
    ],
)
def test_a_key_of_the_previous_version_is_refused_with_its_new_name(table, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)};"):
        parse_config(table)


def test_an_override_of_the_previous_version_is_refused_with_its_new_name(file):
    with pytest.raises(ConfigError, match=r"^local\.dropout is now local\.stego\.dropout;"):
        load_config(file, ["local.dropout=0.2"])


def test_an_objective_may_be_called_like_a_key_of_the_previous_version():
    assert parse_config({"local": {"shift": {"a": 1}}}).local.tables == {"shift": {"a": 1}}


def test_every_setting_of_stego_that_moved_is_known():
    new = {"shift_from_start"}
    settings = {field.name for field in fields(StegoSettings)} - new
    moved = {f"local.{name}": f"local.stego.{name}" for name in settings}
    assert moved | {"federation.weighted": "federation.weights"} == MOVED_KEYS


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.toml"
    message = f"cannot read the configuration {path}: No such file or directory"
    expect_refusal(message, load_config, path)


def test_a_folder_is_no_configuration(tmp_path):
    message = f"cannot read the configuration {tmp_path}: Is a directory"
    expect_refusal(message, load_config, tmp_path)


@pytest.mark.parametrize("content", [b"seed = ", b"seed = 1\nseed = 2", b"a" * 9])
def test_a_file_that_is_no_toml_is_named(content, tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as reason:  # noqa: PT011 - whatever the parser says
        tomllib.loads(content.decode("utf-8-sig"))
    expect_refusal(f"{path} is not valid TOML: {reason.value}", load_config, path)


def test_a_number_too_long_to_read_is_no_valid_toml(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(f"seed = {'1' * 5000}")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))} is not valid TOML: Exceeds"):
        load_config(path)
    path.write_text("")
    with pytest.raises(ConfigError, match=r"^seed must be a whole number, got '1111"):
        load_config(path, [f"seed={'1' * 5000}"])


def test_a_written_configuration_spells_out_every_key():
    table = tomllib.loads(dump_config(Config()))
    assert table["seed"] == 0
    assert table["data"]["image_size"] == [320, 320]
    assert table["local"]["objective"] == "stego"
    assert "steps" not in table["local"]  # unset; TOML has no word for it
    assert set(table) == {
        "seed",
        "data",
        "backbone",
        "model",
        "local",
        "federation",
        "privacy",
        "teach",
        "evaluation",
        "compute",
    }


def test_differing_keys_are_named_with_their_section():
    left = Config(seed=1, local=LocalConfig(steps=3), federation=FederationConfig(rounds=2))
    right = Config(seed=1, local=LocalConfig(epochs=3.0), federation=FederationConfig(rounds=4))
    assert differing_keys(left, right) == ["local.steps", "local.epochs", "federation.rounds"]
    assert differing_keys(left, left) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "root", "~/images"),
        ("data", "partition", "file:~/partition.csv"),
        ("model", "start", "~"),
        ("backbone", "name", "onnx:~/encoder.onnx"),
    ],
)
def test_a_path_that_begins_with_a_tilde_is_refused(section, key, value):
    expect_refusal(
        f"{section}.{key} begins with ~, which only a shell expands; write the path out, got "
        f"{value!r}",
        parse_config,
        {section: {key: value}},
    )


def test_a_tilde_elsewhere_in_a_path_stands_for_itself():
    assert parse_config({"data": {"root": "./~/a~b"}}).data.root == "./~/a~b"


@dataclass(frozen=True, kw_only=True)
class Written:
    """Types as words, as with `from __future__ import annotations`."""

    number: "int" = 1
    pairs: "tuple[tuple[int, int], ...]" = ()


def test_types_of_settings_may_be_written_as_words():
    assert build_settings(Written, {"number": 3}, "local.mine.") == Written(number=3)
    expect_refusal(
        "local.mine.number must be a whole number, got 'x'",
        build_settings,
        Written,
        {"number": "x"},
        "local.mine.",
    )


def test_a_list_of_lists_is_read_and_a_wrong_one_refused_in_words():
    assert build_settings(Written, {"pairs": [[1, 2]]}, "local.mine.").pairs == ((1, 2),)
    expect_refusal(
        "local.mine.pairs must be a list of values, each a list of 2 whole numbers, got [[1]]",
        build_settings,
        Written,
        {"pairs": [[1]]},
        "local.mine.",
    )
