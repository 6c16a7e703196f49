"""A participant of a federation."""

from dataclasses import dataclass
from pathlib import Path

from fusseg.config.compute import EXACT, Compute
from fusseg.features.feature_set import FeatureSet


@dataclass(frozen=True)
class Client:
    """A participant and the features of its private images."""

    client_id: str
    features: FeatureSet
    cache: Path
    """Where its nearest neighbors are kept."""
    compute: Compute = EXACT
    """With what it trains."""
