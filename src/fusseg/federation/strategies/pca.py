"""The start of `model.init = "pca"` as a model of its own, without training (section 3b)."""

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.protocol import Protocol, Strategy, Task


def lloyd_step(_round_number: int, _protocol: Protocol) -> tuple[Task, ...]:
    """Take a Lloyd step in every round after the start."""
    return (LLOYD_STEP,)


def check_init(config: Config, _feature_dim: int | None) -> None:
    """Refuse a drawn start, which would never be trained.

    Raises:
        ConfigError: If `model.init` is `random`.
    """
    if config.model.init != "pca":
        raise ConfigError(
            f"federation.strategy {config.federation.strategy!r} does not train its start, but "
            f"model.init is {config.model.init!r}; set it to 'pca'"
        )


STRATEGY = Strategy(lloyd_step, trains=False, one_model=True, check=check_init)
