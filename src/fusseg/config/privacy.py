"""Settings of privacy: what the server must not learn of a single client, or of an image."""

from dataclasses import dataclass
from typing import Literal

from fusseg.config.ranges import above_zero, at_least
from fusseg.core.errors import ConfigError

Noise = Literal["none", "image", "site"]


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What the server must not learn of a single client, or of an image."""

    secure_sum: bool = False
    """Whether the server learns only sums over the clients, wherever sums are all that it needs;
    with FedCC and `consensus`, that is the heads but not the centroids."""
    threshold: float = 2 / 3
    """Share of all clients, above 0.5, without which no sum is learned; more than half of them and
    at least 2 in any case."""
    resolution: int = 24
    """Binary places to which numbers are rounded before they are added: 24 means 2^-24."""
    noise: Noise = "none"
    """Experimental. Whether the clients add noise to sums that hides what one image shows
    (`image`), or what all images of a client show (`site`)."""
    epsilon: float = 8.0
    """Budget of the whole run: how much the noise may let anyone learn of an image or client."""
    delta: float = 1e-6
    """Probability with which the budget may be exceeded."""
    noise_multiplier: float | Literal["auto"] = "auto"
    """Standard deviation of the noise, in sensitivities; `auto`: the least within the budget."""
    spare_exchanges: int = 0
    """Further exchanges for which the budget is to last: those that are asked again."""
    clip: float = 0.5
    """With `image`: largest length of an image's part of a sum, as a share of the largest that is
    possible; longer ones are shortened."""
    feature_norm: float = 0.0
    """With `image`: length of a typical feature vector, measured on images that need no protection;
    0: none is given, and no sum of features can be noised."""
    update_norm: float = 1.0
    """With `site`: largest length of a client's change of head and centroids in a round; longer
    ones are shortened."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if not 0.5 < self.threshold <= 1:
            raise ConfigError(
                "privacy.threshold must be above 0.5, so that no two groups of sites without a "
                f"site in common can reveal different sums, and at most 1, got {self.threshold}"
            )
        at_least("privacy.resolution", self.resolution, 16, 40)
        above_zero("privacy.epsilon", self.epsilon)
        if not 0 < self.delta < 0.01:
            raise ConfigError(
                "privacy.delta must lie above 0 and below 0.01, well below one over the number of "
                f"images, got {self.delta}"
            )
        if self.noise_multiplier != "auto":
            above_zero("privacy.noise_multiplier", self.noise_multiplier)
        at_least("privacy.spare_exchanges", self.spare_exchanges, 0, 10_000)
        above_zero("privacy.clip", self.clip)
        at_least("privacy.clip", self.clip, 0, 1)
        at_least("privacy.feature_norm", self.feature_norm, 0)
        above_zero("privacy.update_norm", self.update_norm)
