"""Settings of privacy: what the server must not learn of a single client."""

from dataclasses import dataclass

from fusseg.config.ranges import at_least
from fusseg.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What the server must not learn of a single client."""

    secure_sum: bool = False
    """Whether the server learns only sums over the clients, wherever sums are all that it needs;
    with FedCC and `consensus`, that is the heads but not the centroids."""
    threshold: float = 2 / 3
    """Share of all clients, above 0.5, without which no sum is learned; more than half of them and
    at least 2 in any case."""
    resolution: int = 24
    """Binary places to which numbers are rounded before they are added: 24 means 2^-24."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a share or a number of places is out of range.
        """
        if not 0.5 < self.threshold <= 1:
            raise ConfigError(
                "privacy.threshold must be above 0.5, so that no two groups of sites without a "
                f"site in common can reveal different sums, and at most 1, got {self.threshold}"
            )
        at_least("privacy.resolution", self.resolution, 16, 40)
