"""Label-free objectives of local training, one function per equation.

All work on sampled positions: `positions` and `others` are the 121 positions drawn in an image.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Pairings:
    """Correspondences of the three kinds of pairs; every query takes part in each."""

    with_self: Float[Tensor, "images positions positions"]
    with_neighbor: Float[Tensor, "images positions positions"]
    with_random: tuple[Float[Tensor, "images positions positions"], ...]
    """One per random support."""


def pair_up(
    vectors: Float[Tensor, "both positions dim"],
    partners: Int[Tensor, "supports images"],
    precision: torch.dtype | None = None,
) -> Pairings:
    """Correspond every query with itself, its neighbor and its random supports.

    Args:
        vectors: Features or codes of the query images, then of their neighbors in the same order.
        partners: Which query is the random support of which, per support.
        precision: Of the products; None: as the vectors.
    """
    queries, neighbors = (
        normalize(half, dim=-1).to(precision or half.dtype) for half in vectors.chunk(2)
    )
    others = queries.transpose(1, 2)
    return Pairings(
        with_self=queries @ others,
        with_neighbor=queries @ neighbors.transpose(1, 2),
        with_random=tuple(queries @ _permute(others, order) for order in partners),
    )


def _permute(images: Tensor, order: Tensor) -> Tensor:
    permuted: Tensor = _Permuted.apply(images, order)  # type: ignore[no-untyped-call]
    return permuted


class _Permuted(torch.autograd.Function):
    """images[order] of a permutation, whose gradient is picked where autograd would sum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, order: Tensor) -> Tensor:
        return images[order]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (order,) = ctx.saved_tensors
        return gradient[order.argsort()], None


def share_weights(
    counted: Bool[Tensor, "*pairs"], precision: torch.dtype
) -> Float[Tensor, "*pairs"]:
    """Weigh pairs of images: 0 for those left out, the same for the rest, 1 on average.

    The mean of what is multiplied by them is the mean over the pairs that count, 0 where none does.
    """
    return counted.to(precision) * counted.numel() / counted.sum().clamp(min=1)


def center_correspondence(
    cosines: Float[Tensor, "images positions others"],
    counted: Bool[Tensor, " images"] | None = None,
) -> Float[Tensor, "images positions others"]:
    """Center a correspondence pointwise (STEGO; method section 3, step 2).

    For each query position the mean over the other image's positions is subtracted; one constant
    is then added so that the mean over the whole batch is what it was.

    Args:
        cosines: Of the features of every query with another image.
        counted: Which pairs of images the mean over the batch is over; None: all.
    """
    centered = cosines - cosines.mean(dim=2, keepdim=True)
    # In place: fresh memory of this size costs more time than the arithmetic.
    return centered.sub_(_batch_mean(centered, counted)).add_(_batch_mean(cosines, counted))


def _batch_mean(
    values: Float[Tensor, "images positions others"], counted: Bool[Tensor, " images"] | None
) -> Float[Tensor, ""]:
    if counted is None:
        return values.mean()
    return (values * share_weights(counted, values.dtype)[:, None, None]).mean()


def correspondence_loss(
    centered: Float[Tensor, "images positions others"],
    codes: Float[Tensor, "images positions others"],
    shift: float,
    weights: Float[Tensor, " images"] | None = None,
) -> Float[Tensor, ""]:
    """Make codes agree where the frozen features agree (FUSS paper, Eq. 6).

    Args:
        centered: Centered correspondence of the features, without gradient.
        codes: Correspondence of the codes.
        shift: Cosine below which a pair is pushed apart, b in the paper.
        weights: Of each pair of images in the mean, 1 on average; None: 1.

    Returns:
        Mean over all pairs of positions; lower is better, and it may be negative.
    """
    pull = centered - shift
    if weights is not None:
        pull = pull.mul_(weights[:, None, None])
    loss: Tensor = _Agreement.apply(pull, codes)  # type: ignore[no-untyped-call]
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
    # Of equal centroids the first takes a code whole: amax would split the gradient among them, and
    # they would move alike for good.
    compactness = -(normalize(codes, dim=1) @ directions.T).max(dim=1).values.mean()
    if separation_weight == 0:
        return compactness
    between = (directions @ directions.T).clamp(min=0)
    off_diagonal = between.sum() - between.diagonal().sum()
    num_pairs = len(centroids) * (len(centroids) - 1)
    return compactness + separation_weight * off_diagonal / num_pairs
