"""Rows about aggregation: every strategy, with the updates of many clients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.speed.inputs import plain_plan, random_codes, random_model
from benchmarks.speed.rows import Figures, Limit, SpeedRow, speed_row
from benchmarks.speed.sizes import Setting, Sizes
from benchmarks.speed.timing import time_alternately
from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.federation.clustering import MAX_ITERATIONS, RESTARTS, kmeans
from fusseg.federation.gathering import aggregate
from fusseg.federation.moments import sum_moments
from fusseg.federation.parts import CENTROIDS, name_head
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.segmentation.head import initial_head

ENOUGH = Limit("seconds", 2)
LINEAR = Limit("ratio", 1.25)
AS_FAST = Limit("ratio", 1)
MODEL = ModelConfig()
_NOISE = 0.5
"""Standard deviation of the clients' centroids around common ones, which have one of 1."""
_IMAGES = 8
"""Images of each client."""


@dataclass(frozen=True)
class _Case:
    """One strategy and the updates that clients send for it."""

    name: str
    what: str
    federation: FederationConfig
    updates: tuple[ClientUpdate, ...]
    exchange: int = 0
    """Index of the measured exchange in its round; mostly the one in which clients train."""
    round_number: int = 1
    """Round of the exchange; 0 computes the start."""
    dim: int = 1
    """Feature channels; the size of centroids does not depend on them."""
    agreeing: bool = True
    """Whether the clients' centroids lie around common ones."""


def aggregation_rows(setting: Setting) -> list[SpeedRow]:
    """Measure the server's part of a round with all clients and with a quarter of them."""
    return [row for case in _cases(setting.sizes) for row in _case_rows(setting, case)]


def kmeans_rows(setting: Setting) -> list[SpeedRow]:
    """Compare k-means with scikit-learn's, on centroids that agree and on noise."""
    clients = setting.sizes.pooled_clients
    return [
        _kmeans_row(setting, "k-means against scikit-learn", _agreeing(clients).flatten(0, 1)),
        _kmeans_row(setting, "k-means against scikit-learn, noise", _noise(clients).flatten(0, 1)),
    ]


def _case_rows(setting: Setting, case: _Case) -> list[SpeedRow]:
    many = len(case.updates)
    few = many // 4
    state = GlobalState(0, random_model(case.dim, MODEL), plain_plan(case.dim, 1))
    protocol = resolve(Config(federation=case.federation))
    task = protocol.tasks(case.round_number)[case.exchange]

    def merge(count: int) -> GlobalState:
        generator = torch.Generator().manual_seed(0)
        return aggregate(state, case.updates[:count], protocol, task, generator)

    large, small = time_alternately(
        [lambda: merge(many), lambda: merge(few)], setting.sizes.repeats
    )
    size = f"{many} clients, {case.what}"
    conditions = (setting.sizes.name,)
    figures = Figures(large.seconds, peak_bytes=large.peak_bytes)
    row = speed_row(f"aggregation, {case.name}", size, figures, ENOUGH, "", conditions)
    if not case.agreeing:
        # How many iterations k-means takes on noise depends on the number of points.
        return [row]
    growth = (large.seconds / many) / (small.seconds / few)
    return [
        row,
        speed_row(
            f"aggregation, {case.name}, linear in clients",
            size,
            Figures(ratio=growth),
            LINEAR,
            f"ratio: time per client at {many} clients over that at {few}",
            conditions,
        ),
    ]


def _kmeans_row(setting: Setting, name: str, points: Float[Tensor, "points code"]) -> SpeedRow:
    def ours() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return kmeans(points, MODEL.num_clusters, "euclidean", generator)

    def theirs() -> KMeans:
        peer = KMeans(MODEL.num_clusters, n_init=RESTARTS, max_iter=MAX_ITERATIONS, random_state=0)
        return peer.fit(points.numpy())

    stage, floor = time_alternately([ours, theirs], setting.sizes.repeats)
    inertia = float(torch.cdist(points, ours()).amin(dim=1).square().sum())
    return speed_row(
        name,
        f"{len(points)} points, K = {MODEL.num_clusters}, D = {MODEL.code_dim}, {RESTARTS} starts",
        Figures(stage.seconds, floor.seconds, peak_bytes=stage.peak_bytes),
        AS_FAST,
        "floor: scikit-learn's KMeans; sum of squared distances "
        f"{inertia / theirs().inertia_:.4f} x its",
        (setting.sizes.name,),
    )


def _cases(sizes: Sizes) -> Iterator[_Case]:
    """List the strategies, and the averaging of heads, which all of them share."""
    clients = sizes.pooled_clients
    federation = FederationConfig(aggregate_heads=False)
    centroids = f"K = {MODEL.num_clusters}, D = {MODEL.code_dim}"
    agreeing, noise = _send(_agreeing(clients)), _send(_noise(clients))
    for strategy in ("fedavg", "fedcc-kmeans", "fedcc-maximin"):
        named = replace(federation, strategy=strategy)
        yield _Case(strategy, centroids, named, agreeing)
    euclidean = replace(federation, strategy="fedcc-kmeans", distance="euclidean")
    yield _Case("fedcc-kmeans, euclidean", centroids, euclidean, agreeing)
    noisy = replace(federation, strategy="fedcc-kmeans")
    yield _Case(
        "fedcc-kmeans, noise", f"{centroids}, nothing in common", noisy, noise, agreeing=False
    )
    weighed = _send(_agreeing(clients), _usage())
    yield _Case("consensus", centroids, replace(federation, strategy="consensus"), weighed)
    sums = {"sums": _agreeing(1)[0].double(), "counts": torch.full((MODEL.num_clusters,), 50)}
    lloyd = FederationConfig(strategy="lloyd")
    yield _Case("lloyd", centroids, lloyd, _send_same(clients, sums), exchange=1)
    # All clients send the same object: a server drops each one as soon as it is added.
    dim = sizes.moments_dim
    found = sum_moments([random_codes((2 * dim, dim))], dim)
    moments = {"second": found.second, "first": found.first, "count": found.count}
    pca, sent = FederationConfig(strategy="pca"), _send_same(clients, moments)
    yield _Case("pca", f"moments of D' = {dim}", pca, sent, dim=dim, round_number=0)
    head = name_head(initial_head(dim, MODEL.code_dim, torch.Generator().manual_seed(1)))
    heads = replace(federation, aggregate_heads=True, aggregate_centroids=False)
    sent = _send_same(clients, head)
    yield _Case("heads of any strategy", f"heads of D' = {dim}", heads, sent, dim=dim)


def _send(
    centroids: Float[Tensor, "clients clusters code"], usage: Mapping[str, Tensor] | None = None
) -> tuple[ClientUpdate, ...]:
    """Make an update of each client with its own centroids, and with their usage if it is given."""
    return tuple(
        _update(client, {CENTROIDS: rows, **(usage or {})}) for client, rows in enumerate(centroids)
    )


def _send_same(clients: int, parts: Mapping[str, Tensor]) -> tuple[ClientUpdate, ...]:
    return tuple(_update(client, parts) for client in range(clients))


def _update(client: int, parts: Mapping[str, Tensor]) -> ClientUpdate:
    return ClientUpdate(f"client-{client:06d}", _IMAGES, loss=0.0, parts=parts)


def _usage() -> dict[str, Tensor]:
    """Make the usage of a client's centroids: positions of each, and how well they fit."""
    cosines = torch.linspace(0.3, 0.9, MODEL.num_clusters, dtype=torch.float64)
    return {"counts": torch.arange(MODEL.num_clusters) + 10, "cosines": cosines}


def _agreeing(clients: int) -> Float[Tensor, "clients clusters code"]:
    """Draw the centroids of clients that found the same regions, with some noise."""
    shape = (MODEL.num_clusters, MODEL.code_dim)
    return random_codes(shape) + _NOISE * random_codes((clients, *shape), seed=1)


def _noise(clients: int) -> Float[Tensor, "clients clusters code"]:
    return random_codes((clients, MODEL.num_clusters, MODEL.code_dim), seed=1)
