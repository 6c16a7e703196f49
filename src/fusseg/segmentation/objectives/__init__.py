"""The table of objectives: what clients minimize between two rounds.

An objective is one file in this package and one entry in `OBJECTIVES`. docs/extending.md shows how
to add one from a script.
"""

from typing import Any

from fusseg.config.file import build_settings
from fusseg.config.file import spell_out as spell_out_tables
from fusseg.config.schema import Config, LocalConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.segmentation.objective import LocalTraining, Objective
from fusseg.segmentation.objectives import contrastive, primaps, smooseg, stego

OBJECTIVES: dict[str, Objective] = {
    "stego": stego.OBJECTIVE,
    "contrastive": contrastive.OBJECTIVE,
    "smooseg": smooseg.OBJECTIVE,
    "primaps": primaps.OBJECTIVE,
}
"""Objectives by name, as chosen by `local.objective`."""


def settle_local(local: LocalConfig, num_clusters: int) -> LocalTraining:
    """Resolve how clients train.

    Args:
        local: The `[local]` table as written.
        num_clusters: Number of regions, K.

    Raises:
        ConfigError: If the objective does not exist, or if a table belongs to no objective or
            contains an invalid setting.
    """
    name = local.objective
    for table in local.tables:
        _check_name(f"[local.{table}]", table)
    objective = OBJECTIVES[_check_name("local.objective", name)]
    settings: Any = build_settings(objective.settings, local.tables.get(name, {}), f"local.{name}.")
    return LocalTraining(
        objective=objective,
        settings=objective.settle(settings, num_clusters),
        steps=local.steps,
        epochs=local.epochs,
        batch_size=local.batch_size,
        head_learning_rate=local.head_learning_rate,
        centroid_learning_rate=local.centroid_learning_rate,
        fedprox_weight=local.fedprox_weight,
        fedmoon_weight=local.fedmoon_weight,
        fedmoon_temperature=local.fedmoon_temperature,
    )


def spell_out(config: Config) -> Config:
    """Write out the objectives' tables with every key, so that new defaults never change a run.

    Raises:
        ConfigError: If a table belongs to no objective or contains an invalid setting.
    """
    for name in config.local.tables:
        _check_name(f"[local.{name}]", name)
    return spell_out_tables(config, {name: one.settings for name, one in OBJECTIVES.items()})


def _check_name(place: str, name: str) -> str:
    if name not in OBJECTIVES:
        raise ConfigError(
            f"{place}: there is no objective {name!r}; {nearest_name(name, list(OBJECTIVES))}"
        )
    return name
