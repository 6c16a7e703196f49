"""What travels between server and clients, and what stays with a client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fusseg.config.compute import EXACT, Compute
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.objective import Model, Numbers
from fusseg.segmentation.training import TrainingPlan


@dataclass(frozen=True)
class Client:
    """A participant and the features of its private images."""

    client_id: str
    features: FeatureSet
    cache: Path
    """Where its nearest neighbors are kept."""
    compute: Compute = EXACT
    """With what it trains."""


@dataclass(frozen=True)
class GlobalState:
    """The model the server sends at the start of a round, and the plan it sent before round 1."""

    round_number: int
    """Rounds finished so far; 0 before training."""
    model: Model
    plan: TrainingPlan


@dataclass(frozen=True)
class Hello:
    """What a client answers once, before round 1 (method section 2)."""

    client_id: str
    num_images: int
    feature_sum: Float[Tensor, " dim"]
    """Sum of the client's feature vectors, float64."""
    feature_count: int
    numbers: Numbers
    """The client's own estimates for the objective; empty where the configuration gives them."""
    fingerprint: str
    """Of the backbone."""
    version: str
    """Of the package."""
    feature_spread: float
    """Standard deviation of the client's feature vectors: their distance from their mean."""


@dataclass(frozen=True)
class ClientUpdate:
    """What a client returns when it is asked."""

    client_id: str
    num_images: int
    """Images the client has; its weight in every average."""
    loss: float | None = None
    """Mean loss over the round's steps; None where nothing was trained."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """What the task asks for, by the names of its `Part`s."""


@dataclass(frozen=True)
class Memory:
    """What stays with a client between rounds and is never sent."""

    model: Model
    """Its own model after its last round."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective left with it."""
