"""What `pip install 'fusseg[all]'` adds: a backbone, export, trackers, Dask, a federation."""

import json
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from installation import NOISED, PROJECT, requirements
from safetensors.numpy import load_file

LONG = 180.0
"""Seconds after which something that should happen did not."""
GRID = """
title = "Tiny"
base = "mine.toml"
seeds = 1

[config]
local = { steps = 4 }
federation = { rounds = 2 }

[methods.FedAvg]
federation = { strategy = "fedavg" }
"""
ONCE = (
    "--set",
    "model.init_steps=2",
    "--set",
    "federation.rounds=1",
    "--set",
    "local.steps=4",
)
SITES = ("hall", "tank")
RUN_GRAPH = """
import json, onnxruntime, sys
import numpy as np
from PIL import Image
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
image = np.asarray(Image.open("my_sites/yard/images/00000.png"))[None]
np.save("graph.npy", session.run(["regions"], {"image": image})[0][0])
"""
SCALARS = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator("tracked-tensorboard/tensorboard")
found.Reload()
print([event.step for event in found.Scalars("loss")])
"""
METRICS = """
import mlflow
(run,) = mlflow.search_runs(experiment_names=["fusseg"], output_format="list")
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
print([point.step for point in history])
"""


@pytest.fixture(scope="module")
def trained(with_all):
    """Generated sites and a run of them."""
    folder = with_all.folder
    if not (folder / "runs" / "mine").exists():
        scenes = "scenes pipes --out my_sites --images 6 --held-out yard"
        for command in (scenes, "init my_sites --out mine.toml"):
            with_all.succeed(*command.split())
        with_all.succeed("run", "mine.toml", *ONCE, "--out", "runs/mine")
    (folder / "grid.toml").write_text(GRID)
    return with_all


@pytest.fixture
def start(trained, tmp_path):
    """Start a program of the environment, which ends with the test."""
    started = []

    def begin(name, program, *words):
        command = [trained.prefix / "bin" / program, *words]
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=trained.folder,
                env=trained.environment(PATH="/usr/bin:/bin"),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(happens, logs):
    """Wait until something holds; the logs are shown if it never does."""
    until = time.monotonic() + LONG
    while not happens():
        shown = "\n".join(f"== {path.name}\n{path.read_text()}" for path in logs.glob("*.log"))
        assert time.monotonic() < until, shown
        time.sleep(0.2)


@pytest.mark.parametrize("extra", sorted({*PROJECT["optional-dependencies"]} - {"all", "dev"}))
def test_each_extra_can_be_installed_alone(installed, extra):
    # The formats' libraries ask for far newer versions of what fusseg asks for too.
    lone = {str(one): one for one in requirements(extra)}
    if extra == "annotations":
        lone = {line: one for line, one in lone.items() if line not in PROJECT["dependencies"]}
    installed.pip_install("--dry-run", extra=extra, wanted=list(lone.values()))


def test_doctor_finds_every_extra(trained):
    shown = trained.succeed("doctor")
    assert "missing" not in shown
    for extra in ("flower", "cluster", "efficientnet", "onnx", "privacy", "trackers"):
        assert f"extra {extra}: installed (" in shown


def test_a_run_with_a_pretrained_backbone_is_trained_and_packed(trained):
    command = ("init", "my_sites", "--backbone", "efficientnet-lite2", "--out", "real.toml")
    trained.succeed(*command)
    trained.succeed("run", "real.toml", *ONCE, "--out", "runs/real")
    trained.succeed("pack", "runs/real", "--out", "real.safetensors")
    trained.succeed("predict", "real.safetensors", "my_sites/yard/images", "--out", "real-regions")
    assert (trained.folder / "real-regions" / "00005.png").exists()


def test_noise_is_accounted_for(trained):
    trained.succeed("run", "mine.toml", *NOISED, "--out", "runs/noised")
    record = json.loads((trained.folder / "runs/noised/record.json").read_text())
    assert 7 < record["noise"]["epsilon"] <= 8


def test_an_exported_graph_gives_the_regions_of_the_model(trained):
    shown = trained.succeed("export", "runs/mine", "--out", "model.onnx")
    assert "two images at once give the same regions as each alone" in shown
    done = trained.code(RUN_GRAPH)
    assert done.returncode == 0, done.stderr
    graph = np.load(trained.folder / "graph.npy")
    assert graph.shape == (240, 320)
    assert graph.max() == 1
    (percent,) = re.findall(r"pixels with the same region: ([0-9.]+) %", shown)
    assert float(percent) > 99


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_a_run_is_logged(trained, tracker):
    out = f"tracked-{tracker}"
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = ("run", "mine.toml", *ONCE, "--out", out, "--track", tracker)
    done = trained.fusseg(*command, **settings)
    assert done.returncode == 0, done.stderr
    assert "is left out" not in done.stderr
    if tracker == "wandb":
        (written,) = (trained.folder / out).glob("wandb/offline-run-*/run-*.wandb")
        assert written.stat().st_size > 0
    else:
        found = trained.code({"tensorboard": SCALARS, "mlflow": METRICS}[tracker])
        assert found.stdout == "[1]\n", found.stderr


def test_a_cluster_gives_the_scores_of_one_machine(trained, start, tmp_path):
    file = tmp_path / "scheduler.json"
    quiet = ("--no-dashboard", "--scheduler-file", file)
    start("scheduler", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *quiet)
    wait_for(lambda: file.exists() and file.read_text().endswith("}"), tmp_path)
    address = json.loads(file.read_text())["address"]
    start("worker", "dask", "worker", address, "--nthreads", "1", "--no-dashboard")
    tables = []
    for name, options in (("alone", ()), ("spread", ("--dask", address))):
        done = trained.fusseg("bench", "grid.toml", "--no-figures", "--out", name, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (trained.folder / name / "table.csv").read_text().splitlines()
        tables.append([line for line in lines if ",seconds," not in line])
    assert tables[0] == tables[1]
    assert any(",mean_iou," in line for line in tables[0])


def test_a_federation_ends_at_the_model_of_the_simulation(trained, start, tmp_path):
    trained.succeed("keys", "ca", "--out", "keys")
    trained.succeed("keys", "server", "localhost", "--ca", "keys", "--out", "keys")
    entries = []
    for site in SITES:
        shown = trained.succeed("keys", "site", site, "--out", "keys").splitlines()
        (place,) = (n for n, line in enumerate(shown) if line.strip() == f"[sites.{site}]")
        entries += [line.strip() for line in shown[place : place + 3]]
    (trained.folder / "keys" / "sites.toml").write_text("\n".join(entries) + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for site in SITES:
        key = ("--key", f"keys/{site}.key", "--ca", "keys/ca.crt")
        where = ("--data", f"my_sites/{site}", "--state", f"state-{site}")
        start(site, "fusseg", "join", f"localhost:{port}", "--name", site, "--once", *key, *where)
    # The table of splits is not among what a site has.
    names = json.dumps(list(SITES))
    settings = (*ONCE, "--set", f"data.train_sites={names}", "--set", 'data.train_split=""')
    where = ("--host", "127.0.0.1", "--port", port, "--out", "served")
    keys = ("--sites", "keys/sites.toml", "--keys", "keys")
    server = start("server", "fusseg", "serve", "mine.toml", *settings, *where, *keys)
    wait_for(lambda: server.poll() is not None, tmp_path)
    assert server.returncode == 0, (tmp_path / "server.log").read_text()
    trained.succeed("run", "mine.toml", *settings, "--out", "simulated")
    deployed, simulated = (
        load_file(trained.folder / name / "state.safetensors") for name in ("served", "simulated")
    )
    assert deployed.keys() == simulated.keys()
    for name, tensor in simulated.items():
        assert deployed[name].tobytes() == tensor.tobytes(), name
