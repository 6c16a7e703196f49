"""PCA without training: the head is federated PCA, the centroids come from Lloyd (section 3b)."""

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.moments import MOMENTS
from fusseg.federation.protocol import Protocol, Strategy, Task


def start_and_step(round_number: int, _protocol: Protocol) -> tuple[Task, ...]:
    """Exchange the moments before the first Lloyd step."""
    return (MOMENTS, LLOYD_STEP) if round_number == 1 else (LLOYD_STEP,)


def check_components(config: Config, feature_dim: int | None) -> None:
    """Refuse more principal components than feature channels, and runs without a Lloyd step.

    Raises:
        ConfigError: If `model.code_dim` is too large, or there is no Lloyd step.
    """
    if config.federation.lloyd_rounds == 0:
        raise ConfigError(
            f"federation.strategy {config.federation.strategy!r} gets its centroids only from "
            "Lloyd steps, but federation.lloyd_rounds is 0; set it to 10 or more"
        )
    if feature_dim is not None and config.model.code_dim > feature_dim:
        raise ConfigError(
            f"federation.strategy {config.federation.strategy!r} keeps model.code_dim = "
            f"{config.model.code_dim} principal components, but backbone {config.backbone.name!r} "
            f"has {feature_dim} channels; set model.code_dim to {feature_dim} or fewer"
        )


STRATEGY = Strategy(start_and_step, trains=False, one_model=True, check=check_components)
