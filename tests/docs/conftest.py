"""A run that all pages share, trained once."""

import sys

import folders
import pytest

from fusseg.cli.app import main


@pytest.fixture(scope="session")
def run_command():
    """Run a command in this process: its exit code."""

    def run(*words):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["fusseg", *map(str, words)])
            with pytest.raises(SystemExit) as stop:
                main()
        return stop.value.code or 0

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory, run_command):
    """Folder with sites, a configuration, two runs of it and a feature cache."""
    folder = tmp_path_factory.mktemp("shared")
    folders.write_sites(folder / "my_sites")
    (folder / "mine.toml").write_text(folders.CONFIGURATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in ((0, "mine"), (1, "mine-seed-1")):
            options = ("--set", f"seed={seed}", "--out", f"runs/{name}", "--cache", "cache")
            assert run_command("run", "mine.toml", *options) == 0
    return folder
