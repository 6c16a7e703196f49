"""The table of strategies, and the one function that resolves a federation's rules.

A strategy is one file in this package and one entry in `STRATEGIES`. docs/extending.md shows how to
add one from a script.
"""

from fusseg.config.schema import Config, FederationConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.federation.noise import settle_noise
from fusseg.federation.pca_start import choice_tasks, start_tasks
from fusseg.federation.protocol import Protocol, Strategy
from fusseg.federation.region_exchange import region_tasks
from fusseg.federation.secure_sums import check_secure_sum
from fusseg.federation.server_step import LARGEST_ADAM_RATE
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
from fusseg.federation.teaching import teaching_tasks
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
"""Strategies by name, as chosen by `federation.strategy`."""


def resolve(config: Config, *, deployed: bool = False, feature_dim: int | None = None) -> Protocol:
    """Resolve a federation's rules, once and before anything is written.

    Args:
        config: Configuration as written.
        deployed: Whether the clients are sites that report their own number of images.
        feature_dim: Number of feature channels; None: not known yet.

    Raises:
        ConfigError: If the strategy or objective does not exist, or settings cannot be combined.
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
        weights=federation.weights,
        centroid_weights=federation.centroid_weights or federation.weights,
        max_weight_share=weight_bound(
            federation, deployed=deployed, hidden=config.privacy.secure_sum
        ),
        aggregate_heads=federation.aggregate_heads if aggregates is None else aggregates,
        aggregate_centroids=federation.aggregate_centroids if aggregates is None else aggregates,
        site_clusters=federation.site_clusters,
        min_cluster_share=federation.min_cluster_share,
        server_optimizer=federation.server_optimizer,
        server_learning_rate=federation.server_learning_rate,
        server_momentum=federation.server_momentum,
        wire=federation.wire,
        start=start_tasks(config, strategy, local_training),
        choice=choice_tasks(config, strategy),
        merging=region_tasks(config.model),
        teaching=teaching_tasks(config),
        teach=config.teach,
        privacy=config.privacy,
    )
    _check_merging(protocol, config)
    _check_switches(protocol)
    strategy.check(config, feature_dim)
    _check_weights(protocol, federation)
    _check_site_clusters(protocol)
    _check_regularizers(protocol)
    _check_server_optimizer(protocol)
    _check_fixed_head(protocol, config)
    check_secure_sum(config, protocol)
    return settle_noise(protocol, config)


def find_strategy(name: str) -> Strategy:
    """Look up a strategy by name.

    Raises:
        ConfigError: If there is no strategy of that name.
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
    if protocol.teaching and strategy.baseline and not strategy.pools_images:
        raise ConfigError(
            f"federation.teach is set, but under federation.strategy {name!r} no client sends "
            "anything; set it to false, or choose another strategy"
        )
    if protocol.teaching and protocol.keeps_own_models and protocol.teach.unknown_below > 0:
        raise ConfigError(
            f"teach.unknown_below is {protocol.teach.unknown_below:g}, which needs the regions of "
            "one model, but with these switches each client keeps its own; set it to 0"
        )
    if strategy.one_model and protocol.keeps_own_models:
        raise ConfigError(
            f"federation.strategy {name!r} needs one head and one set of centroids for all "
            "clients; set federation.aggregate_heads and federation.aggregate_centroids to true"
        )
    # A client's own model is saved once per round, so a second exchange could not continue from it.
    most = max((len(protocol.tasks(number)) for number in range(1, protocol.rounds + 1)), default=0)
    if most > 1 and protocol.keeps_own_models:
        raise ConfigError(
            f"federation.strategy {name!r} has {most} exchanges in a round, but clients update "
            "their own models only once per round; set federation.aggregate_heads and "
            "federation.aggregate_centroids to true"
        )


def _check_weights(protocol: Protocol, federation: FederationConfig) -> None:
    """Check that weights which are asked for have averages to enter."""
    name, strategy = protocol.strategy_name, protocol.strategy
    averages = protocol.aggregate_centroids and strategy.averages_centroids
    if federation.centroid_weights is not None and not averages:
        raise ConfigError(
            f"federation.centroid_weights is {federation.centroid_weights!r}, but no centroids are "
            f"averaged under federation.strategy {name!r} with these switches; remove it, or "
            "choose the strategy 'fedavg' with federation.aggregate_centroids"
        )
    trains = strategy.trains and not strategy.baseline
    if federation.weights == "uncertainty" and not (trains and protocol.weighs_by_fit):
        raise ConfigError(
            f"federation.weights is 'uncertainty', but under federation.strategy {name!r} with "
            "these switches it enters no average of what clients train; set it to 'images', or "
            "choose another strategy"
        )


def _check_site_clusters(protocol: Protocol) -> None:
    """Check that a rule takes centroids of some clusters only."""
    strategy = protocol.strategy
    if protocol.site_clusters == "all":
        return
    takes_some = strategy.takes_some_centroids and not strategy.baseline
    if not takes_some or protocol.keeps_own_models:
        raise ConfigError(
            "federation.site_clusters is 'used', but under federation.strategy "
            f"{protocol.strategy_name!r} with these switches clients do not send the centroids of "
            "some clusters; set it to 'all', or choose another strategy, and aggregate both heads "
            "and centroids"
        )


def _check_merging(protocol: Protocol, config: Config) -> None:
    if protocol.merging and protocol.keeps_own_models:
        raise ConfigError(
            f"model.num_regions is {config.model.num_regions!r}, which merges the clusters of one "
            f"model for all clients, but federation.strategy {protocol.strategy_name!r} with these "
            "switches keeps a model per client; remove it, or choose a strategy and switches that "
            "aggregate heads and centroids"
        )


def _check_regularizers(protocol: Protocol) -> None:
    name, strategy = protocol.strategy_name, protocol.strategy
    for key in ("fedprox_weight", "fedmoon_weight"):
        weight = getattr(protocol.local, key)
        if weight == 0:
            continue
        if strategy.baseline or not strategy.trains:
            raise ConfigError(
                f"local.{key} is {weight}, but federation.strategy {name!r} does not send a global "
                "head to training clients; set it to 0, or choose another strategy"
            )
        if not protocol.aggregate_heads:
            raise ConfigError(
                f"local.{key} is {weight}, but federation.aggregate_heads is false, so there is no "
                f"global head to stay close to; set local.{key} to 0 or federation.aggregate_heads "
                "to true"
            )


def _check_server_optimizer(protocol: Protocol) -> None:
    """Check that an optimizer of the server has averages of heads to follow, in small steps."""
    optimizer, rate = protocol.server_optimizer, protocol.server_learning_rate
    if optimizer == "none":
        return
    name, strategy = protocol.strategy_name, protocol.strategy
    begin = f"federation.server_optimizer is {optimizer!r}, but"
    if strategy.baseline or not strategy.trains:
        raise ConfigError(
            f"{begin} federation.strategy {name!r} does not average heads of clients; set it to "
            "'none', or choose another strategy"
        )
    if not protocol.aggregate_heads:
        raise ConfigError(
            f"{begin} federation.aggregate_heads is false, so there is no global head to move; set "
            "federation.server_optimizer to 'none' or federation.aggregate_heads to true"
        )
    if optimizer == "adam" and rate > LARGEST_ADAM_RATE:
        raise ConfigError(
            f"{begin} federation.server_learning_rate is {rate}, and with it every weight moves by "
            f"about that much in a round; set it to at most {LARGEST_ADAM_RATE}, such as 0.01"
        )


def _check_fixed_head(protocol: Protocol, config: Config) -> None:
    """Check that nothing is asked of the heads of an objective that trains none."""
    strategy, name = protocol.strategy, config.local.objective
    if protocol.local.objective.trains_head or not strategy.trains:
        return
    if not strategy.uses_centroids:
        raise ConfigError(
            f"federation.strategy {protocol.strategy_name!r} takes only heads from training, but "
            f"local.objective {name!r} trains only centroids; choose another strategy"
        )
    if strategy.aggregates is None and not protocol.aggregate_heads:
        raise ConfigError(
            f"federation.aggregate_heads is false, but local.objective {name!r} trains no head "
            "that a client could keep as its own; set it to true"
        )
    for key, value, neutral in (
        ("local.fedprox_weight", protocol.local.fedprox_weight, 0),
        ("local.fedmoon_weight", protocol.local.fedmoon_weight, 0),
        ("federation.server_learning_rate", protocol.server_learning_rate, 1),
        ("federation.server_optimizer", protocol.server_optimizer, "none"),
    ):
        if value != neutral:
            raise ConfigError(
                f"{key} is {value!r}, but local.objective {name!r} trains no head; set it to "
                f"{neutral!r}"
            )
