"""Measure a deployment on one machine: seconds per round beyond local work, bytes, memory.

    python benchmarks/deployment.py RUNS --sites 3
    python benchmarks/deployment.py RUNS --sites 18 --images 8

starts `fusseg serve` and N `fusseg join` on generated scenes with TLS and keys, samples the memory
of every process (proportional set size), runs the same configuration in a simulation, and prints
one line per kind of process and a few about the rounds. Local work is the time of the simulated
rounds.
"""

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from PIL import Image

from fusseg.data.synthetic.scenes import Scene, draw_scene
from fusseg.deployment.keys.keys import create_authority, create_server_certificate, create_site_key
from fusseg.runs.directory import load_record

LOOKS = ("tank", "tunnel", "yard")
CONFIG = """
[data]
root = "{root}"
image_size = [240, 320]
[backbone]
name = "filterbank"
[model]
num_clusters = 2
init = "random"
whitening = 0
[local]
steps = {steps}
[federation]
rounds = {rounds}
wire = "{wire}"
keep = "last"
round_timeout = 600.0
wait_timeout = 1200.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--wire", default="float32")
    options = parser.parse_args()
    runs = options.runs.resolve()
    names = [f"site-{number:02d}" for number in range(options.sites)]
    write_scenes(runs / "scenes", names, options.images)
    make_keys(runs / "keys", names)
    config = runs / "config.toml"
    config.write_text(CONFIG.format(root=runs / "scenes", **vars(options)))
    memory = deploy(runs, config, names)
    fusseg = [sys.executable, "-m", "fusseg"]
    command = [*fusseg, "run", config, "--out", runs / "simulated", "--cache", runs / "cache"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report(runs, memory)


def write_scenes(root: Path, names: list[str], images: int) -> None:
    for number, name in enumerate(names):
        folder = root / name / "images"
        folder.mkdir(parents=True)
        for index in range(images):
            scene = Scene("pipes", LOOKS[number % len(LOOKS)], index, number)
            Image.fromarray(draw_scene(scene)[0]).save(folder / f"{index:05d}.png")


def make_keys(folder: Path, names: list[str]) -> None:
    create_authority(folder, 30)
    create_server_certificate(folder, ["localhost"], folder, 30)
    entries = [create_site_key(name, folder, 30).entry for name in names]
    (folder / "sites.toml").write_text("\n".join(entries))


def deploy(runs: Path, config: Path, names: list[str]) -> dict[str, list[float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fusseg, keys = [sys.executable, "-m", "fusseg"], runs / "keys"
    command = [*fusseg, "serve", config, "--out", runs / "deployed", "--keys", keys]
    command += ["--sites", keys / "sites.toml", "--host", "127.0.0.1", "--port", str(port)]
    with (runs / "log.txt").open("w") as log:
        server = subprocess.Popen([*command, "--cache", runs / "cache-server"], stdout=log)
        sites = []
        for name in names:
            command = [*fusseg, "join", f"localhost:{port}", "--name", name, "--once"]
            command += ["--data", runs / "scenes" / name, "--key", keys / f"{name}.key"]
            command += ["--ca", keys / "ca.crt", "--state", runs / "sites" / name]
            command += ["--cache", runs / "cache-sites"]
            sites.append(subprocess.Popen(command, stdout=log))
        memory: dict[str, list[float]] = defaultdict(list)
        done = threading.Event()
        sampler = threading.Thread(target=sample, args=(memory, done, str(runs)))
        sampler.start()
        assert server.wait() == 0, (runs / "log.txt").read_text()[-2000:]
        for site in sites:
            site.wait()
        done.set()
        sampler.join()
    return memory


KINDS = {
    "flower_superlink": "SuperLink",
    "edge_process": "edge",
    "flwr-serverapp": "ServerApp",
    "multiprocessing.forkserver": "the warm process and its ClientApps, each",
    "flower_supernode": "SuperNode",
    "flower-superexec": "SuperExec",
    "flower_superexec": "SuperExec",
    "fusseg serve": "fusseg serve",
    "fusseg join": "fusseg join",
}


def sample(memory: dict[str, list[float]], done: threading.Event, marker: str) -> None:
    """Record the proportional set size of every process of this run, in MiB."""
    while not done.wait(2.0):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                if marker not in command + environment:
                    continue
                kind = next((name for word, name in KINDS.items() if word in command), None)
                if kind is None:
                    continue
                lines = (folder / "smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            memory[kind].append(size / 1024)


def report(runs: Path, memory: dict[str, list[float]]) -> None:
    deployed, simulated = load_record(runs / "deployed"), load_record(runs / "simulated")
    seconds = [entry["seconds"] for entry in deployed["rounds"]]
    local = [entry["seconds"] for entry in simulated["rounds"]]
    print(f"sites: {len(deployed['clients'])}, rounds: {len(seconds)}")
    print(f"seconds per round, median: {median(seconds):.1f}, local work {median(local):.1f}")
    print(f"beyond local work: {median(seconds) - median(local):.1f}")
    last = deployed["rounds"][-1]
    print(f"bytes per site and round: {last['clients'][0]['bytes_up']} up", end=", ")
    print(f"{last['clients'][0]['bytes_down']} down")
    for kind, sizes in sorted(memory.items()):
        print(f"memory of {kind}: {max(sizes):.0f} MiB at most, median {median(sizes):.0f}")
    (runs / "memory.json").write_text(json.dumps({kind: max(s) for kind, s in memory.items()}))
    print(f"done {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
