"""Which sites of the list may take part today; Flower's own list is tested in tests/deployment."""

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from fusseg.config.schema import Config, DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.deployment.keys.keys import create_site_key
from fusseg.deployment.server.admission import admitted_nodes, approved_sites, image_limits


@pytest.fixture
def write_sites(tmp_path):
    """Write a list of sites, with the days that their keys are still valid."""
    number = iter(range(1000))

    def write(**days):
        entries = []
        for name, left in days.items():
            entry = create_site_key(name, tmp_path / str(next(number)), 5).entry
            day = datetime.now(UTC).date() + timedelta(days=left)
            lines = [line for line in entry.splitlines() if not line.startswith("expires")]
            entries.append("\n".join([*lines, f"expires = {day}"]))
        path = tmp_path / "sites.toml"
        path.write_text("\n\n".join(entries))
        return path

    return write


def names(path, **data):
    return [site.name for site in approved_sites(path, Config(data=DataConfig(**data)))]


def test_a_key_counts_through_the_day_it_expires(write_sites):
    assert names(write_sites(north=0, south=-1, east=3)) == ["east", "north"]


def test_where_no_key_is_valid_nothing_is_served(write_sites):
    with pytest.raises(ConfigError, match=r"no key in .*sites.toml is valid today"):
        names(write_sites(north=-1))


def test_named_training_sites_are_the_only_ones(write_sites):
    path = write_sites(north=1, south=1)
    assert names(path, train_sites=("south",)) == ["south"]
    # who does not train may be held out
    assert names(path, train_sites=("south",), held_out_sites=("north",)) == ["south"]
    with pytest.raises(ConfigError, match=r"'west' of data.train_sites is not in"):
        names(path, train_sites=("west",))
    with pytest.raises(ConfigError, match="cannot train and be held out"):
        names(path, held_out_sites=("north",))


def test_a_damaged_file_of_admitted_sites_is_named(tmp_path):
    path = tmp_path / "nodes.json"
    assert admitted_nodes(path) == {}
    path.write_text(
        '{"north": {"node": 7, "public_key": "k"}, "east": {"node": 9, "public_key": "l"}}'
    )
    assert admitted_nodes(path) == {"east": 9, "north": 7}
    assert image_limits(path) == {"east": None, "north": None}
    path.write_text('{"north": {"node": 7, "public_key": "k", "max_images": 500}}')
    assert image_limits(path) == {"north": 500}
    for content in ("[1]", '{"north": {}}', "{"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"cannot read the admitted sites: .*nodes.json"):
            admitted_nodes(path)
