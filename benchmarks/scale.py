"""Measure how rounds grow with the number of clients: seconds, memory, bytes, files.

    OMP_NUM_THREADS=1 python benchmarks/scale.py benchmarks/results/scale-2-cores.md

simulates 10 to 1,000 clients on generated features, all of them or 30 in each round, one process
per line. Then it times the server alone on as many updates, for each strategy, and one site's
backbone and step. Features are in a memory-mapped file, like those of the cache. Memory is
anonymous memory (RssAnon), which does not include such files.
"""

import argparse
import ctypes
import gc
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

from fusseg.config.schema import Config, FederationConfig, LocalConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.federation.gathering import aggregate
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.parts import CENTROIDS, name_head
from fusseg.federation.protocol import Protocol, Task, sent_parts
from fusseg.federation.rounds import Exchange, Round, initial_state, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client, ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.finished_rounds import keep_round
from fusseg.runs.record import RoundLog, describe_round
from fusseg.runs.saved_state import SavedState
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import TrainingPlan

Found = TypeVar("Found")

IMAGES, HEIGHT, WIDTH, STEPS = 4, 12, 16, 2
POINTS = [
    *({"clients": number, "asked": 0} for number in (10, 30, 100, 300, 1000)),
    *({"clients": number, "asked": 30} for number in (100, 300, 1000)),
    {"clients": 100, "asked": 0, "strategy": "lloyd"},
    {"clients": 1000, "asked": 0, "strategy": "fedavg", "aggregate_heads": False},
    {"clients": 100, "asked": 0, "dim": 768},
    {"clients": 100, "asked": 0, "dim": 768, "wire": "bfloat16"},
    {"clients": 100, "asked": 30, "dim": 768},
]
COLUMNS = {
    "clients": "clients",
    "asked": "a round",
    "dim": "D'",
    "kind": "strategy",
    "hello": "hello s",
    "first": "round 1 s",
    "round": "round 2 s",
    "local": "local work s",
    "server": "server s",
    "saving": "saving s",
    "memory_before": "before MB",
    "memory_more": "more MB",
    "up": "up MB",
    "down": "down MB",
    "record": "record kB",
    "state": "state kB",
    "history": "history kB",
}
SITES = {"ViT-S/8": (384, 6), "ViT-B/8": (768, 12)}
SIDES = (224, 320)
"""Side of training images and of held-out images in the paper's grids, in pixels."""
SERVER = {
    "fedavg": {"strategy": "fedavg"},
    "fedcc-kmeans, cosine": {"strategy": "fedcc-kmeans"},
    "fedcc-kmeans, euclidean": {"strategy": "fedcc-kmeans", "distance": "euclidean"},
    "fedcc-maximin": {"strategy": "fedcc-maximin"},
    "consensus": {"strategy": "consensus"},
    "lloyd": {"strategy": "lloyd"},
    "pca": {"strategy": "pca", "lloyd_rounds": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--measure", help="measure one line, given as JSON, and print it as JSON")
    parser.add_argument("--largest", type=int, default=1000, help="skip lines with more clients")
    options = parser.parse_args()
    if options.measure:
        asked = json.loads(options.measure)
        measure = {"server": time_server, "site": time_site}.get(next(iter(asked)), simulate_point)
        print(json.dumps(measure(**asked)))
        return
    rounds = [run_apart(point) for point in POINTS if point["clients"] <= options.largest]
    numbers = [number for number in (10, 100, 1000) if number <= options.largest]
    servers = [
        run_apart({"server": kind, "clients": number}) for kind in SERVER for number in numbers
    ]
    sites = [run_apart({"site": site}) for site in SITES]
    options.out.write_text(write_page(rounds, servers, sites))


def run_apart(point: dict[str, Any]) -> dict[str, Any]:
    """Measure one line in a separate process, so that the memory is its own."""
    command = [sys.executable, __file__, "unused", "--measure", json.dumps(point)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    print(point, found.stdout.strip(), flush=True)
    return dict(json.loads(found.stdout))


def simulate_point(
    clients: int, asked: int, dim: int = 144, strategy: str = "fedcc-kmeans", **settings: bool | str
) -> dict[str, Any]:
    """Simulate two rounds of a federation."""
    federation = FederationConfig(strategy=strategy, rounds=2, clients_per_round=asked, **settings)
    tables = {"stego": {"shift_batches": 1}}
    local = LocalConfig(steps=STEPS, batch_size=4, tables=tables)
    protocol = resolve(Config(local=local, federation=federation))
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        there = make_clients(clients, dim, Path(folder))
        hello, start = timed(lambda: begin(there, protocol))
        own: dict[str, Any] = {}
        watch = Watch()
        record: dict[str, Any] = {"rounds": []}
        saved = SavedState(start, own, "f" * 64, {c.client_id: c.features.digest for c in there})
        simulation = simulate(there, own, protocol)
        exchange = watch.around(simulation)
        seconds: list[dict[str, float]] = []
        watch.start()
        began, worked = time.perf_counter(), time.thread_time()
        for event in run_rounds(start, exchange, protocol):
            if not isinstance(event, Round):
                continue
            took, work = time.perf_counter() - began, time.thread_time() - worked
            saved = replace(saved, state=event.state, held=simulation.traffic.held)
            log = RoundLog(simulation.traffic.take())
            record["rounds"].append(describe_round(event, {}, took, protocol, log))
            saving, _ = timed(
                lambda event=event, saved=saved: keep_round(Path(folder), record, event, saved),
                time.perf_counter,
            )
            local_work, watch.inside = watch.inside, 0.0
            seconds.append({"round": took, "local": local_work, "server": work - local_work})
            seconds[-1]["saving"] = saving
            began, worked = time.perf_counter(), time.thread_time()
        watch.stop()
        entry, last = record["rounds"][-1], seconds[-1]
        size = {
            name: (Path(folder) / file).stat().st_size / 1e3
            for name, file in (
                ("record", "record.json"),
                ("state", "state.safetensors"),
                ("history", "history/round-002.safetensors"),
            )
        }
    kind = ", ".join([strategy, *(f"{name} {value}" for name, value in settings.items())])
    return {
        "clients": clients,
        "asked": asked or clients,
        "dim": dim,
        "kind": kind,
        "hello": hello,
        "first": seconds[0]["round"],
        **last,
        "memory_before": watch.before / 1e6,
        "memory_more": (watch.peak - watch.before) / 1e6,
        "up": entry["bytes_up"] / 1e6,
        "down": entry["bytes_down"] / 1e6,
        **size,
    }


def make_clients(number: int, dim: int, folder: Path) -> list[Client]:
    """Make clients with different feature maps: two directions each, and noise."""
    shape = (number * IMAGES, HEIGHT, WIDTH, dim)
    path = folder / "features.f16"
    maps = np.memmap(path, np.float16, "w+", shape=shape)
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((8, dim), dtype=np.float32)
    found = []
    for client in range(number):
        rows = np.arange(client * IMAGES, (client + 1) * IMAGES)
        pair = directions[[client % 8, (client + 3) % 8]]
        parts = generator.integers(0, 2, (IMAGES, HEIGHT, WIDTH))
        noise = generator.standard_normal((IMAGES, HEIGHT, WIDTH, dim), dtype=np.float32)
        maps[rows] = pair[parts] + noise
        names = tuple(f"client-{client:04d}/{row}" for row in rows)
        features = FeatureSet(
            names=names,
            digests=tuple(hashlib.sha256(name.encode()).hexdigest() for name in names),
            maps=(maps,),
            rows=np.stack([np.zeros_like(rows), rows], axis=1),
            pooled=maps[rows].astype(np.float32).mean(axis=(1, 2)),
            fingerprint="f" * 64,
        )
        found.append(Client(f"client-{client:04d}", features, folder))
    maps.flush()
    return found


def begin(clients: list[Client], protocol: Protocol) -> GlobalState:
    hellos = [say_hello(client, protocol, center=True) for client in clients]
    plan = agree(hellos, protocol, "f" * 64, center=True)
    return initial_state(protocol, plan)


class Watch:
    """Seconds inside an exchange, and the most anonymous memory while it runs."""

    def __init__(self) -> None:
        self.inside = 0.0
        self.before = self.peak = 0
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Start sampling the memory."""
        # Memory freed earlier goes back to the system first; otherwise reuse would hide new memory.
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        self.before = self.peak = anonymous_memory()
        self._sampler.start()

    def stop(self) -> None:
        """Stop sampling the memory."""
        self._stopped.set()
        self._sampler.join()

    def around(self, exchange: Exchange) -> Exchange:
        """Time an exchange."""

        def watched(state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
            updates = iter(exchange(state, task))
            while True:
                seconds, update = timed(lambda: next(updates, None))
                self.inside += seconds
                if update is None:
                    return
                yield update
                del update

        return watched

    def _sample(self) -> None:
        while not self._stopped.wait(0.005):
            self.peak = max(self.peak, anonymous_memory())


def anonymous_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say RssAnon")


def time_server(server: str, clients: int) -> dict[str, Any]:
    """Aggregate updates that arrive one after another, with heads of 768 channels."""
    protocol = resolve(Config(federation=FederationConfig(rounds=1, **SERVER[server])))
    plan = TrainingPlan(num_steps=1, mean_feature=torch.zeros(768), agreed={})
    state = initial_state(protocol, plan)
    watch = Watch()
    watch.start()
    seconds = 0.0
    for task in dict.fromkeys(protocol.tasks(1)):
        updates = make_updates(state, protocol, task, clients)
        exchange = watch.around(lambda _state, _task, updates=updates: updates)
        generator = torch.Generator().manual_seed(0)
        took, _ = timed(
            lambda exchange=exchange, task=task, generator=generator: aggregate(
                state, exchange(state, task), protocol, task, generator
            )
        )
        seconds += took
    watch.stop()
    return {
        "server": server,
        "clients": clients,
        "seconds": seconds - watch.inside,
        "memory": (watch.peak - watch.before) / 1e6,
    }


def time_site(site: str) -> dict[str, Any]:
    """Measure one image in a ViT with random weights, and one step at its channels."""
    dim, heads = SITES[site]
    images = [time_image(dim, heads, side) for side in SIDES]
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        (client,) = make_clients(1, dim, Path(folder))
        federation = FederationConfig(strategy="fedavg", rounds=2)
        protocol = resolve(Config(local=LocalConfig(steps=20), federation=federation))
        start = begin([client], protocol)
        watch = Watch()
        exchange = watch.around(simulate([client], {}, protocol))
        seconds = math.inf
        for event in run_rounds(start, exchange, protocol):
            if isinstance(event, Round):
                seconds, watch.inside = min(seconds, watch.inside / 20), 0.0
    return {"site": site, "dim": dim, "images": images, "step": seconds}


def time_image(dim: int, heads: int, side: int) -> float:
    """Measure the seconds of one square image in a ViT with random weights."""
    settings = ViTConfig(
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        image_size=side,
        patch_size=8,
    )
    model = ViTModel(settings, add_pooling_layer=False).eval()
    pixels = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        return min(timed(lambda: model(pixel_values=pixels))[0] for _ in range(3))


def make_updates(
    state: GlobalState, protocol: Protocol, task: Task, number: int
) -> Iterator[ClientUpdate]:
    """Make updates as clients would send them for a task: centroids around 40 directions."""
    clusters, code = state.model.centroids.shape
    dim = len(state.plan.mean_feature)
    generator = torch.Generator().manual_seed(1)
    head = name_head(initial_head(dim, code, generator))
    directions = torch.randn(40, code, generator=generator)
    fixed = {
        "counts": torch.full((clusters,), 100),
        "cosines": torch.full((clusters,), 0.5).double(),
        "second": torch.eye(dim).double(),
        "first": torch.zeros(dim).double(),
        "count": torch.tensor(dim),
    }
    wanted = sent_parts(task, state, protocol)
    for client in range(number):
        picked = directions[torch.randperm(40, generator=generator)[:clusters]]
        centroids = picked + 0.3 * torch.randn(clusters, code, generator=generator)
        drawn = {CENTROIDS: centroids, "sums": centroids.double()}
        weights = {name: weight.clone() for name, weight in head.items() if name in wanted}
        known = {**fixed, **drawn, **weights}
        loss = 0.0 if task.trains else None
        parts = {name: known[name] for name in wanted}
        yield ClientUpdate(f"client-{client:05d}", 8, loss, parts)


def timed(
    call: Callable[[], Found], clock: Callable[[], float] = time.thread_time
) -> tuple[float, Found]:
    """Call a function, and measure its processor time, or that of another clock."""
    started = clock()
    found = call()
    return clock() - started, found


def write_page(
    rounds: list[dict[str, Any]], servers: list[dict[str, Any]], sites: list[dict[str, Any]]
) -> str:
    numbers = sorted({row["clients"] for row in servers})
    cells = [
        [f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS]
        for row in rounds
    ]
    table = {(row["server"], row["clients"]): row for row in servers}
    server_cells = [
        [
            kind,
            *(f"{table[kind, n]['seconds']:.3g} ({table[kind, n]['memory']:.0f})" for n in numbers),
        ]
        for kind in SERVER
    ]
    return "\n".join(
        [
            "# Rounds of 10 to 1,000 clients",
            "",
            f"`benchmarks/scale.py` on {machine()}.",
            "",
            f"Simulated: {IMAGES} generated feature maps of {HEIGHT} x {WIDTH} positions per "
            f"client, {STEPS} steps of 4 queries, shifts from 1 batch, K = 27, D = 70. All but "
            "round 1 is of round 2. Rounds and saving are wall time; hello, local work (all that "
            "clients do) and server (all else until the round is finished) are seconds of the "
            "processor. Memory is anonymous: before the rounds, and what came on top at most.",
            "",
            *markdown(list(COLUMNS.values()), cells),
            "",
            "The server alone, D' = 768: processor seconds to check and merge one round's updates, "
            "and in brackets the anonymous memory that took at most, in MB.",
            "",
            *markdown(["strategy", *(f"{number} clients" for number in numbers)], server_cells),
            "",
            "One site: processor seconds of a forward pass of one image by its size (random "
            "weights, best of three), and of one step with the default settings (8 queries, 121 "
            "positions; mean of 20, the better of two rounds).",
            "",
            *markdown(
                ["backbone", "D'", *(f"s an image, {n} x {n}" for n in SIDES), "s a step"],
                [
                    [row["site"], str(row["dim"])]
                    + [f"{seconds:.3g}" for seconds in (*row["images"], row["step"])]
                    for row in sites
                ],
            ),
            "",
        ]
    )


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]


def machine() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
