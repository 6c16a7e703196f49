"""What travels between server and clients."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.shifts import Shift
from fusseg.segmentation.training import Model, TrainingPlan


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
    shift: Shift | None
    """The client's own estimate; None where the configuration gives the shifts."""
    fingerprint: str
    """Of the backbone."""
    version: str
    """Of the package."""


@dataclass(frozen=True)
class ClientUpdate:
    """What a client returns after a round."""

    client_id: str
    num_images: int
    """Images the client trained on; its weight in every average."""
    head: HeadWeights | None
    """None where heads stay with the clients (E off)."""
    centroids: Float[Tensor, "clusters code"] | None
    """None where centroids stay with the clients (C off)."""
    loss: float
    """Mean loss over the round's steps."""


def num_bytes(*tensors: Tensor | HeadWeights | None) -> int:
    """Bytes of what is sent, without the envelope; None counts nothing."""
    total = 0
    for sent in tensors:
        parts = sent.values() if isinstance(sent, dict) else [] if sent is None else [sent]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total
