"""The table of strategies, and the one place that settles a federation's rules.

A strategy is one file here and one entry of `STRATEGIES`; docs/extending.md adds one from a script.
"""

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.federation.protocol import Protocol, Strategy
from fusseg.federation.strategies import (
    centralized,
    consensus,
    fedavg,
    fedcc_kmeans,
    fedcc_maximin,
    lloyd,
    local,
    pca,
)
from fusseg.federation.weights import weight_bound
from fusseg.segmentation.objectives import settle_local

STRATEGIES: dict[str, Strategy] = {
    "fedavg": fedavg.STRATEGY,
    "fedcc-kmeans": fedcc_kmeans.STRATEGY,
    "fedcc-maximin": fedcc_maximin.STRATEGY,
    "consensus": consensus.STRATEGY,
    "lloyd": lloyd.STRATEGY,
    "pca": pca.STRATEGY,
    "local": local.STRATEGY,
    "centralized": centralized.STRATEGY,
}
"""Strategies by the name that `federation.strategy` chooses."""


def resolve(config: Config, *, deployed: bool = False, feature_dim: int | None = None) -> Protocol:
    """Settle a federation's rules, once and before anything is written.

    Args:
        config: As written.
        deployed: Whether the clients are sites that count their images themselves.
        feature_dim: Channels of the features; None: not known yet.

    Raises:
        ConfigError: If there is no strategy or objective of that name, or settings cannot be
            combined.
    """
    federation, name = config.federation, config.federation.strategy
    strategy = find_strategy(name)
    local_training = settle_local(config.local, config.model.num_clusters)
    aggregates = strategy.aggregates
    protocol = Protocol(
        seed=config.seed,
        num_clusters=config.model.num_clusters,
        code_dim=config.model.code_dim,
        strategy=strategy,
        strategy_name=name,
        local=local_training,
        rounds=federation.rounds if strategy.trains else 0,
        lloyd_rounds=federation.lloyd_rounds,
        clients_per_round=federation.clients_per_round,
        positions_per_image=federation.positions_per_image,
        distance=federation.distance,
        weighted=federation.weighted,
        max_weight_share=weight_bound(federation, deployed=deployed),
        aggregate_heads=federation.aggregate_heads if aggregates is None else aggregates,
        aggregate_centroids=federation.aggregate_centroids if aggregates is None else aggregates,
        server_learning_rate=federation.server_learning_rate,
        wire=federation.wire,
    )
    _check_switches(protocol)
    strategy.check(config, feature_dim)
    _check_regularizers(protocol)
    return protocol


def find_strategy(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"unknown federation.strategy {name!r}; {nearest_name(name, list(STRATEGIES))}"
        )
    return STRATEGIES[name]


def _check_switches(protocol: Protocol) -> None:
    name, strategy = protocol.strategy_name, protocol.strategy
    if strategy.baseline and protocol.clients_per_round:
        raise ConfigError(
            f"federation.clients_per_round is {protocol.clients_per_round}, but "
            f"federation.strategy {name!r} is a baseline that trains on all images in every round; "
            "set it to 0"
        )
    if strategy.one_model and protocol.keeps_own_models:
        raise ConfigError(
            f"federation.strategy {name!r} needs one head and one set of centroids for all "
            "clients; set federation.aggregate_heads and federation.aggregate_centroids to true"
        )
    # What stays with a client is kept once a round: an exchange could not go on from the last one.
    most = max((len(protocol.tasks(number)) for number in range(1, protocol.rounds + 1)), default=0)
    if most > 1 and protocol.keeps_own_models:
        raise ConfigError(
            f"federation.strategy {name!r} has {most} exchanges in a round, and a model that stays "
            "with a client moves once a round; set federation.aggregate_heads and "
            "federation.aggregate_centroids to true"
        )


def _check_regularizers(protocol: Protocol) -> None:
    name, strategy = protocol.strategy_name, protocol.strategy
    for key in ("fedprox_weight", "fedmoon_weight"):
        weight = getattr(protocol.local, key)
        if weight == 0:
            continue
        if strategy.baseline or not strategy.trains:
            raise ConfigError(
                f"local.{key} is {weight}, but federation.strategy {name!r} sends no global head "
                "to clients in training; set it to 0, or choose another strategy"
            )
        if not protocol.aggregate_heads:
            raise ConfigError(
                f"local.{key} is {weight}, but federation.aggregate_heads is false: there is no "
                "global head to stay near; set one of them otherwise"
            )
