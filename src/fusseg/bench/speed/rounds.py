"""Rows about a round: what it costs beyond the local steps, and the server's share."""

from dataclasses import replace

import torch

from fusseg.bench.speed.inputs import plain_plan, random_features
from fusseg.bench.speed.rows import Figures, Limit, SpeedRow, speed_row
from fusseg.bench.speed.sizes import Setting
from fusseg.bench.speed.timing import time_alternately
from fusseg.compute import Compute
from fusseg.config import FederationConfig, LocalConfig, ModelConfig
from fusseg.federation.aggregation import aggregate
from fusseg.federation.client import Client, start_training
from fusseg.federation.rounds import Round, initial_state, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.randomness import SERVER, round_generator
from fusseg.segmentation.training import train

ROUND, SERVER_SHARE = Limit("ratio", 1.05), Limit("ratio", 0.01)
LOCAL, MODEL = LocalConfig(), ModelConfig()


def round_rows(setting: Setting) -> list[SpeedRow]:
    """Measure a round of training against its local steps alone, and the server's half of it."""
    sizes = setting.sizes
    clients = _clients(setting)
    federation = FederationConfig(rounds=1)
    state = initial_state(MODEL, plain_plan(sizes.round_dim, sizes.round_steps), 0)
    trainees = [start_training(state, None, client, LOCAL, federation, 0) for client in clients]

    def whole_round() -> list[ClientUpdate | Round]:
        exchange = simulate(clients, {}, LOCAL, federation, 0)
        return list(run_rounds(state, exchange, federation, 0))

    def local_steps() -> None:
        for client, trainee in zip(clients, trainees, strict=True):
            generator = round_generator(0, 1, client.client_id)
            train(replace(trainee, generator=generator), state.plan, LOCAL, client.compute)

    updates = list(simulate(clients, {}, LOCAL, federation, 0)(state, "train"))

    def server_side() -> GlobalState:
        return aggregate(state, updates, federation, round_generator(0, 1, SERVER))

    stage, steps, server = time_alternately(
        [whole_round, local_steps, server_side], sizes.repeats, setting.torch_device
    )
    size = (
        f"{sizes.round_clients} clients x {sizes.round_steps} steps, D' = {sizes.round_dim}, "
        f"K = {MODEL.num_clusters}, {federation.strategy}, {setting.device}"
    )
    conditions = (setting.device, sizes.name)
    return [
        speed_row(
            "a round",
            size,
            Figures(stage.seconds, steps.seconds, peak_bytes=stage.peak_bytes),
            ROUND,
            "floor: the clients' local steps alone",
            conditions,
        ),
        speed_row(
            "a round, server side",
            size,
            Figures(server.seconds, ratio=server.seconds / stage.seconds),
            SERVER_SHARE,
            "ratio: share of the round",
            conditions,
        ),
    ]


def _clients(setting: Setting) -> list[Client]:
    sizes, cache = setting.sizes, setting.folder / "round"
    shape = (sizes.map_side, sizes.map_side, sizes.round_dim)
    compute = Compute(setting.torch_device, torch.float32)
    return [
        Client(
            f"client-{number}", random_features(sizes.client_images, shape, number), cache, compute
        )
        for number in range(sizes.round_clients)
    ]
