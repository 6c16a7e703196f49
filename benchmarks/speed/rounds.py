"""Rows about a round: its time beyond the local steps, and the server's share of it."""

from dataclasses import replace

import torch

from benchmarks.speed.inputs import plain_plan, random_features
from benchmarks.speed.rows import Figures, Limit, SpeedRow, speed_row
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately
from fusseg.config.compute import Compute
from fusseg.config.schema import Config, FederationConfig
from fusseg.core.randomness import SERVER, round_generator
from fusseg.federation.answer import start_training
from fusseg.federation.gathering import aggregate
from fusseg.federation.rounds import Round, initial_state, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client, ClientUpdate, GlobalState, Total
from fusseg.federation.strategies import resolve
from fusseg.segmentation.training import train

ROUND, SERVER_SHARE = Limit("ratio", 1.05), Limit("ratio", 0.01)
PROTOCOL = resolve(Config(federation=FederationConfig(rounds=1)))


def round_rows(setting: Setting) -> list[SpeedRow]:
    """Compare a round of training with its local steps alone, and measure the server's part."""
    sizes = setting.sizes
    clients = _clients(setting)
    [task] = PROTOCOL.tasks(1)
    state = initial_state(PROTOCOL, plain_plan(sizes.round_dim, sizes.round_steps))
    trainees = [start_training(state, None, client, PROTOCOL) for client in clients]

    def whole_round() -> list[ClientUpdate | Total | Round]:
        exchange = simulate(clients, {}, PROTOCOL)
        return list(run_rounds(state, exchange, PROTOCOL))

    def local_steps() -> None:
        for client, trainee in zip(clients, trainees, strict=True):
            generator = round_generator(PROTOCOL.seed, 1, client.client_id)
            fresh = replace(trainee, generator=generator)
            train(fresh, state.plan, PROTOCOL.local, client.compute)

    answered = simulate(clients, {}, PROTOCOL)(state, task)
    updates = [update for update in answered if isinstance(update, ClientUpdate)]

    def server_side() -> GlobalState:
        return aggregate(state, updates, PROTOCOL, task, round_generator(PROTOCOL.seed, 1, SERVER))

    stage, steps, server = time_alternately(
        [whole_round, local_steps, server_side], sizes.repeats, setting.torch_device
    )
    size = (
        f"{sizes.round_clients} clients x {sizes.round_steps} steps, D' = {sizes.round_dim}, "
        f"K = {PROTOCOL.num_clusters}, {PROTOCOL.strategy_name}, {setting.device}"
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
