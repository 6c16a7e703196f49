"""A tiny folder of sites, and the command line in this process or in another."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.cli.app import main

CLASSES = 'names = ["gravel", "metal"]\n'


def draw_materials(seed: int, height: int = 64, width: int = 96):
    """Coarse gray gravel beside a smooth bluish plate: an image and its exact mask."""
    generator = np.random.default_rng(seed)
    edge = int(generator.integers(width // 4, 3 * width // 4))
    image = generator.integers(60, 200, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
    image = np.broadcast_to(image, (height, width, 3)).copy()
    image[:, edge:] = np.array([90, 110, 150]) + generator.integers(
        -4, 5, (height, width - edge, 3)
    )
    mask = np.zeros((height, width), np.uint8)
    mask[:, edge:] = 1
    return image.astype(np.uint8), mask


@pytest.fixture(scope="session")
def write_sites():
    """Write sites of generated images into a folder, with masks unless told otherwise."""

    def write(root: Path, sites=("north", "south", "west"), num_images=6, labeled=True):
        for number, site in enumerate(sites):
            (root / site / "images").mkdir(parents=True)
            for index in range(num_images):
                image, mask = draw_materials(1000 * number + index)
                Image.fromarray(image).save(root / site / "images" / f"{index:03d}.png")
                if labeled:
                    (root / site / "masks").mkdir(exist_ok=True)
                    Image.fromarray(mask).save(root / site / "masks" / f"{index:03d}.png")
        if labeled:
            (root / "classes.toml").write_text(CLASSES)
        return root

    return write


@pytest.fixture
def make_sites(write_sites, tmp_path):
    """Write sites into the test's own folder."""

    def make(*settings, name="sites", **more):
        return write_sites(tmp_path / name, *settings, **more)

    return make


@pytest.fixture(scope="session")
def write_config():
    """Write a small configuration for a root; sections can be extended as TOML."""

    def write(path: Path, root: Path, held_out=("west",), more=""):
        path.write_text(
            f"""
[data]
root = {json.dumps(str(root))}
held_out_sites = {json.dumps(list(held_out))}
image_size = [64, 96]

[model]
num_clusters = 2
code_dim = 8
init = "random"

[local]
steps = 4
batch_size = 4

[local.stego]
positions = 30

[federation]
rounds = 3
{more}
"""
        )
        return path

    return write


@pytest.fixture
def make_config(write_config, tmp_path):
    """Write a configuration into the test's own folder."""

    def make(root: Path, held_out=("west",), more="", name="config.toml"):
        return write_config(tmp_path / name, root, held_out, more)

    return make


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run a command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("FUSSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fusseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def start_cli(tmp_path):
    """Start a command in a process of its own, which a test can kill."""
    started = []

    def start(*arguments, module="fusseg", cwd=None):
        environment = {
            **os.environ,
            "FUSSEG_CACHE": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background jobs ignore Ctrl-C, and so would their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
