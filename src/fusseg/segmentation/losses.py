"""Label-free objectives of local training, one function per equation.

All work on sampled positions: `positions` and `others` are the 121 positions drawn in an image.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def center_correspondence(
    cosines: Float[Tensor, "images positions others"],
) -> Float[Tensor, "images positions others"]:
    """Center a correspondence pointwise (STEGO; method section 3, step 2).

    For each query position the mean over the other image's positions is subtracted; one constant
    is then added so that the mean over the whole batch is what it was.
    """
    centered = cosines - cosines.mean(dim=2, keepdim=True)
    # In place: fresh memory of this size costs more time than the arithmetic.
    return centered.sub_(centered.mean()).add_(cosines.mean())


def correspondence_loss(
    centered: Float[Tensor, "images positions others"],
    codes: Float[Tensor, "images positions others"],
    shift: float,
) -> Float[Tensor, ""]:
    """Make codes agree where the frozen features agree (FUSS paper, Eq. 6).

    Args:
        centered: Centered correspondence of the features, without gradient.
        codes: Correspondence of the codes.
        shift: Cosine below which a pair is pushed apart, b in the paper.

    Returns:
        Mean over all pairs of positions; lower is better, and it may be negative.
    """
    loss: Tensor = _Agreement.apply(centered - shift, codes)  # type: ignore[no-untyped-call]
    return loss


class _Agreement(torch.autograd.Function):
    """-mean(weights * max(codes, 0)), with a gradient in two passes where autograd takes five.

    The clamp keeps pairs that already point away from each other from being pushed further.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, codes: Tensor) -> Tensor:
        return -codes.clamp(min=0).mul_(weights).mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        weights, codes = ctx.saved_tensors
        scaled = weights * (-gradient / codes.numel())
        return None, torch.ops.aten.threshold_backward(scaled, codes, 0)


def clustering_loss(
    codes: Float[Tensor, "codes dim"],
    centroids: Float[Tensor, "clusters dim"],
    separation_weight: float,
) -> Float[Tensor, ""]:
    """Draw each centroid to the codes assigned to it and away from the others (FUSS paper, Eq. 5).

    Args:
        codes: Head output, detached: this loss moves the centroids only.
        centroids: Centroid matrix, rows of any length; compared by cosine (Eq. 3, 4).
        separation_weight: Weight of the mean positive cosine between different centroids.

    Returns:
        Negative mean cosine to the assigned centroid plus the weighted separation term.
    """
    directions = normalize(centroids, dim=1)
    compactness = -(normalize(codes, dim=1) @ directions.T).amax(dim=1).mean()
    if separation_weight == 0:
        return compactness
    between = (directions @ directions.T).clamp(min=0)
    off_diagonal = between.sum() - between.diagonal().sum()
    num_pairs = len(centroids) * (len(centroids) - 1)
    return compactness + separation_weight * off_diagonal / num_pairs
