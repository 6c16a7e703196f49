"""A federation of real processes on the loopback interface, with TLS and keys."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flwr", reason="Flower is not installed")

from fusseg.deployment.keys.keys import (
    create_authority,
    create_server_certificate,
    create_site_key,
)
from fusseg.deployment.processes import free_port
from fusseg.deployment.wire.ledger import read_ledger
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

SITES = ("east", "north", "south")
HELD_OUT = "west"
LONG = 900.0
"""Seconds after which something that should happen did not."""
CONFIG = """
[data]
root = "images"
held_out_sites = ["west"]
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
rounds = 2
round_timeout = 120.0
wait_timeout = 600.0
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("deploy")


def draw(seed, height=64, width=96):
    """Noise beside a plate, and which is which."""
    generator = np.random.default_rng(seed)
    edge = int(generator.integers(width // 4, 3 * width // 4))
    image = generator.integers(60, 200, (height, width, 3))
    image[:, edge:] = np.array([90, 110, 150]) + generator.integers(
        -4, 5, (height, width - edge, 3)
    )
    mask = np.zeros((height, width), np.uint8)
    mask[:, edge:] = 1
    return image.astype(np.uint8), mask


class Federation:
    """Starts and stops the processes of one federation, in one folder."""

    program = (sys.executable, "-m", "fusseg")
    """What every command begins with."""

    def __init__(self, folder, overrides, sites):
        self.folder = folder
        self.sites = sites
        self.port = free_port()
        self.overrides = overrides
        self.run_dir = folder / "run"
        self.keys = folder / "keys"
        self.processes = {}
        self._write_images()
        self._make_keys()
        (folder / "config.toml").write_text(CONFIG)

    def _write_images(self):
        for number, site in enumerate((*self.sites, HELD_OUT)):
            for index in range(6):
                image, mask = draw(1000 * number + index)
                for kind, pixels in (("images", image), ("masks", mask)):
                    path = self.folder / "images" / site / kind / f"secret-{site}-{index}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)

    def _make_keys(self):
        create_authority(self.keys, 10)
        create_server_certificate(self.keys, ["localhost"], self.keys, 5)
        entries = [create_site_key(site, self.keys, 5).entry for site in self.sites]
        (self.keys / "sites.toml").write_text("\n".join(entries))

    def start(self, name, command, **settings):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )
        return self.processes[name]

    def serve(self, *, resume=False):
        command = [*self.program, "serve"]
        command += ["--resume"] if resume else [str(self.folder / "config.toml")]
        for override in () if resume else self.overrides:
            command += ["--set", override]
        # As people type them: relative to the working directory.
        command += ["--out", "run", "--sites", "keys/sites.toml", "--keys", "keys"]
        command += ["--cache", "cache-server"]
        return self.start("serve", [*command, "--host", "127.0.0.1", "--port", str(self.port)])

    def join_arguments(self, site, port=None):
        arguments = [f"localhost:{port or self.port}"]
        arguments += ["--data", str(self.folder / "images" / site), "--name", site]
        arguments += ["--key", f"keys/{site}.key", "--ca", "keys/ca.crt"]
        return [*arguments, "--state", f"sites/{site}", "--cache", f"cache-{site}"]

    def join(self, site, *more, port=None):
        command = [*self.program, "join", *self.join_arguments(site, port)]
        return self.start(site, [*command, *more])

    def join_all(self):
        for site in self.sites:
            self.join(site)

    def state(self, site):
        return self.folder / "sites" / site

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def events(self):
        path = self.run_dir / "events.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def wait_for(self, claim, seconds=LONG):
        """Wait until something holds; the logs are shown if it never does."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if claim():
                return
            time.sleep(0.2)
        logs = "\n".join(f"== {path.name}\n{path.read_text()}" for path in self._logs())
        pytest.fail(f"it did not happen within {seconds} s:\n{logs[-8000:]}")

    def _logs(self):
        return sorted([*self.folder.glob("*.log"), *self.run_dir.glob("flower/*.log")])

    def wait_for_event(self, text):
        self.wait_for(lambda: any(text in event["text"] for event in self.events()))

    def finish(self):
        """Wait for the server's end; its exit code."""
        self.wait_for(lambda: self.processes["serve"].poll() is not None)
        return self.processes["serve"].returncode

    def simulate(self, name="simulated"):
        """The state of the same configuration, simulated."""
        out = self.folder / name
        command = [*self.program, "run", str(self.folder / "config.toml")]
        for override in self.overrides:
            command += ["--set", override]
        command += ["--out", str(out), "--cache", str(self.folder / "cache-simulated")]
        subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
            check=True,
            capture_output=True,
        )
        return load_state(out).state

    def kill(self, name):
        """Kill a process as a power cut would; what it started has to notice by itself."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def final_state(self):
        return load_state(self.run_dir).state

    def record(self):
        return load_record(self.run_dir)

    def check_that_secrets_are_for_their_owner_only(self):
        folders = [self.run_dir / "flower", *map(self.state, self.sites)]
        keys = [self.keys / name for name in ("ca.key", "server.key", "east.key")]
        ledgers = [self.run_dir / "ledger.jsonl", self.state("east") / "ledger.jsonl"]
        secret = self.run_dir / "flower" / "superexec.secret"
        for path in (*folders, *keys, *ledgers, secret):
            assert path.stat().st_mode & 0o077 == 0, path

    def check_that_the_run_is_complete(self):
        """Report, scores and command are there, and both ends noted the same messages."""
        assert (self.run_dir / "report.html").exists()
        assert self.record()["final"]["mean_iou"] is not None
        command = "fusseg serve config.toml --sites ../keys/sites.toml --keys ../keys"
        assert self.record()["command"] == command
        at_server, damaged = read_ledger(self.run_dir)
        assert damaged == 0
        for site in self.sites:
            here = {(line.direction, line.sha256) for line in read_ledger(self.state(site))[0]}
            there = {(line.direction, line.sha256) for line in at_server if line.site == site}
            assert here == there


@pytest.fixture
def make_federation(tmp_path):
    """Make a federation whose processes are gone after the test.

    Each message takes a second or more, and each federation some twenty: few rounds are fast.
    """
    made = []

    def make(*overrides, sites=SITES):
        folder = tmp_path / "federation"
        folder.mkdir()
        federation = Federation(folder, overrides, sites)
        made.append(federation)
        return federation

    yield make
    for federation in made:
        federation.stop()
