"""Named settings that stand in for the defaults."""

from copy import deepcopy
from typing import Any

from fusseg.core.errors import ConfigError, nearest_name

DEFAULT = "default"
"""The preset that changes nothing."""

PRESETS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    # "FedAvg + FedCC" of arXiv 2505.23292. What depends on the images is left out: backbone, sizes,
    # number of clusters and steps, and the shifts and weights, which were tuned with labels.
    "paper": {
        "model": {"code_dim": 70, "init": "random", "whitening": 0.0},
        "local": {
            "objective": "stego",
            "batch_size": 8,
            "head_learning_rate": 5e-4,
            "centroid_learning_rate": 5e-3,
            "fedprox_weight": 0.0,
            "fedmoon_weight": 0.0,
            "stego": {
                "positions": 121,
                "neighbors": 2,
                "random_supports": 5,
                "dropout": 0.1,
                "separation_weight": 0.0,
            },
        },
        "federation": {
            "strategy": "fedcc-kmeans",
            "rounds": 10,
            "lloyd_rounds": 0,
            "clients_per_round": 0,
            "distance": "euclidean",
            "weights": "images",
            "aggregate_heads": True,
            "aggregate_centroids": True,
            "server_optimizer": "none",
            "server_learning_rate": 1.0,
            "keep": "last",
        },
    },
}
"""Presets by name, as the nested tables of a configuration."""


def find_preset(name: str) -> dict[str, Any]:
    """Look up a preset by name; the tables are the caller's own.

    Raises:
        ConfigError: If there is no preset of that name.

    Examples:
        >>> find_preset("paper")["model"]
        {'code_dim': 70, 'init': 'random', 'whitening': 0.0}
        >>> find_preset("papers")
        Traceback (most recent call last):
            ...
        fusseg.core.errors.ConfigError: unknown preset 'papers'; did you mean 'paper'?
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {nearest_name(name, PRESETS)}")
    return deepcopy(PRESETS[name])
