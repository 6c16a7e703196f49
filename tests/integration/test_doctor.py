"""What `fusseg doctor` says of the installation it runs in."""

import tomllib
from pathlib import Path

import pytest

from fusseg.cli import doctor
from fusseg.cli.extras import EXTRAS
from fusseg.core.version import VERSION


def test_it_names_versions_devices_and_caches(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err = cli("doctor", "--cache", tmp_path / "cache")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"fusseg {VERSION}, Python 3.")
    assert any(line.startswith("packages: torch ") for line in lines)
    assert any(line.startswith("processor: ") and "bfloat16" in line for line in lines)
    assert f"feature cache: {tmp_path / 'cache'}, 0 stores, 0 images" in lines
    assert not (tmp_path / "cache").exists()  # looking writes nothing


def test_it_counts_what_a_run_has_cached(cli, make_sites, make_config, tmp_path):
    cli("extract", make_config(make_sites()), "--cache", tmp_path / "cache")
    _, out, _ = cli("doctor", "--cache", tmp_path / "cache")
    (line,) = [line for line in out.splitlines() if line.startswith("feature cache: ")]
    stores, images = (int(part.split()[0]) for part in line.split(", ")[1:])
    assert stores == 3
    assert images > stores


def test_a_missing_extra_is_named_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "flwr" else object())
    lines = list(doctor.describe_installation(tmp_path))
    assert "extra flower: flwr missing; pip install 'fusseg[flower]' if you need it" in lines


def test_every_extra_for_users_is_known():
    path = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "annotations", "dev", "docs"}


@pytest.mark.parametrize("command", ["--version", "--help"])
def test_the_short_answers(cli, command):
    code, out, _ = cli(command)
    assert code == 0
    assert "fusseg" in out
