"""What travels between server and clients."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
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


Task = Literal["train", "lloyd", "moments"]
"""What the server asks the clients for: to train, to sum their codes, or to sum their features."""


@dataclass(frozen=True)
class CentroidUsage:
    """How well each of a client's centroids stands for the client's codes."""

    counts: Int[Tensor, " clusters"]
    """Positions assigned to each centroid."""
    cosines: Float[Tensor, " clusters"]
    """Mean cosine of those to it, 0 where there are none; float64."""


@dataclass(frozen=True)
class ClientUpdate:
    """What a client returns when asked; None stands for what the task does not send."""

    client_id: str
    num_images: int
    """Images the client has; its weight in every average."""
    head: HeadWeights | None = None
    """None also where heads stay with the clients (E off)."""
    centroids: Float[Tensor, "clusters code"] | None = None
    """None also where centroids stay with the clients (C off)."""
    loss: float | None = None
    """Mean loss over the round's steps."""
    usage: CentroidUsage | None = None
    """How the client's codes fall on its centroids, for consensus."""
    code_sums: CodeSums | None = None
    """For a Lloyd step."""
    moments: FeatureMoments | None = None
    """For PCA."""

    def tensors(self) -> dict[str, Tensor]:
        """Name every tensor that is sent."""
        named = dict(self.head or {})
        if self.centroids is not None:
            named["centroids"] = self.centroids
        for part in (self.usage, self.code_sums, self.moments):
            named |= vars(part) if part is not None else {}
        return named


def num_bytes(*tensors: Tensor | HeadWeights | None) -> int:
    """Bytes of what is sent, without the envelope; None counts nothing."""
    total = 0
    for sent in tensors:
        parts = sent.values() if isinstance(sent, dict) else [] if sent is None else [sent]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total
