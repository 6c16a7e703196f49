"""Label-free losses of local training, one function per equation.

All of them work on sampled positions: `positions` and `others` are the 121 positions drawn in an
image.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Pairings:
    """Correspondences of every query image with itself, its neighbor and its random supports."""

    with_self: Float[Tensor, "images positions positions"]
    with_neighbor: Float[Tensor, "images positions positions"]
    with_random: tuple[Float[Tensor, "images positions positions"], ...]
    """One per random support."""


def pair_up(
    vectors: Float[Tensor, "both positions dim"],
    partners: Int[Tensor, "supports images"],
    precision: torch.dtype | None = None,
) -> Pairings:
    """Compute the correspondences of every query with itself, its neighbor and its supports.

    Args:
        vectors: Features or codes of the query images, then of their neighbors in the same order.
        partners: For each support, the query image that each query is paired with.
        precision: Precision of the products; None: that of the vectors.
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
    """images[order] for a permutation; its gradient is a lookup, where autograd would sum."""

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
    """Weight pairs of images: 0 if left out, equal for the others, 1 on average.

    Multiplying values by these weights makes their mean the mean over the pairs that count, or 0 if
    no pair counts.

    >>> share_weights(torch.tensor([True, False, True, True]), torch.float32)
    tensor([1.3333, 0.0000, 1.3333, 1.3333])
    """
    return counted.to(precision) * counted.numel() / counted.sum().clamp(min=1)


def center_correspondence(
    cosines: Float[Tensor, "images positions others"],
    counted: Bool[Tensor, " images"] | None = None,
) -> Float[Tensor, "images positions others"]:
    """Center a correspondence pointwise (STEGO; method section 3, step 2).

    For each query position, the mean over the other image's positions is subtracted. One constant
    is then added to restore the mean over the whole batch.

    >>> center_correspondence(torch.tensor([[[0.0, 1.0], [0.25, 0.75]]]))
    tensor([[[0.0000, 1.0000],
             [0.2500, 0.7500]]])
    >>> center_correspondence(torch.tensor([[[0.0, 0.0], [0.5, 1.0]]]))
    tensor([[[0.3750, 0.3750],
             [0.1250, 0.6250]]])

    Args:
        cosines: Cosines between the features of every query image and of its partner image.
        counted: Pairs of images included in the mean over the batch; None: all.

    Returns:
        The centered correspondence.
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

    >>> features = torch.tensor([[[0.9, 0.1]]])
    >>> agreeing, disagreeing = torch.tensor([[[0.8, 0.0]]]), torch.tensor([[[0.0, 0.8]]])
    >>> correspondence_loss(features, agreeing, shift=0.5)
    tensor(-0.1600)
    >>> correspondence_loss(features, disagreeing, shift=0.5)
    tensor(0.1600)

    Args:
        centered: Centered correspondence of the features, without gradient.
        codes: Correspondence of the codes.
        shift: Cosine below which a pair is pushed apart (b in the paper).
        weights: Weight of each pair of images in the mean, 1 on average; None: 1.

    Returns:
        Mean over all pairs of positions. Lower is better; it can be negative.
    """
    pull = centered - shift
    if weights is not None:
        pull = pull.mul_(weights[:, None, None])
    loss: Tensor = _Agreement.apply(pull, codes)  # type: ignore[no-untyped-call]
    return loss


class _Agreement(torch.autograd.Function):
    """-mean(weights * max(codes, 0)); the gradient takes two passes where autograd takes five.

    The clamp avoids pushing apart pairs that already point away from each other.
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
    """Pull each centroid to the codes assigned to it and away from the others (FUSS paper, Eq. 5).

    >>> codes = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> clustering_loss(codes, torch.tensor([[3.0, 0.0], [0.0, 1.0]]), separation_weight=0.5)
    tensor(-1.)
    >>> clustering_loss(codes, torch.tensor([[3.0, 0.0], [3.0, 0.0]]), separation_weight=0.5)
    tensor(0.)

    Args:
        codes: Output of the head, detached: this loss moves only the centroids.
        centroids: Centroid matrix with rows of any length, compared by cosine (Eq. 3, 4).
        separation_weight: Weight of the mean positive cosine between different centroids.

    Returns:
        Negative mean cosine to the assigned centroid, plus the weighted separation term.
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


def contrastive_loss(
    similarities: Float[Tensor, "anchors others"],
    positive: Bool[Tensor, "anchors others"],
    negative: Bool[Tensor, "anchors others"],
) -> Float[Tensor, ""]:
    """Raise the similarity of positives against that of negatives (InfoNCE; FUSS paper, Eq. 2).

    >>> similarities = torch.tensor([[0.0, 1.0, 1.0], [5.0, 0.0, 5.0]])
    >>> positive = torch.tensor([[False, True, False], [False, False, False]])
    >>> negative = torch.tensor([[False, False, True], [True, False, True]])
    >>> contrastive_loss(similarities, positive, negative)
    tensor(0.6931)

    Args:
        similarities: Similarity of each anchor's code to the others, divided by the temperature.
        positive: The positives of each anchor.
        negative: The negatives of each anchor; no pair is both.

    Returns:
        Mean over the anchors with at least one positive of the negative logarithm of the positives'
        share in the sum of exponentials; 0 if no anchor has one.
    """
    losses, _, counted = _Contrast.apply(similarities, positive, negative)  # type: ignore[no-untyped-call]
    mean: Tensor = (losses * share_weights(counted, losses.dtype)).mean()
    return mean


class _Contrast(torch.autograd.Function):
    """The loss of each anchor, its derivative, and whether it has positives; else both are 0.

    The derivative needs no other pass over the pairs, and autograd would make it NaN without
    positives.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        similarities: Tensor, positive: Tensor, negative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        all_shares, log_all, _ = _softmax_over(similarities, positive | negative)
        shares, log_positive, counted = _softmax_over(similarities, positive)
        losses = torch.where(counted, log_all - log_positive, 0)
        return losses, all_shares.sub_(shares), counted

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[1], output[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        derivative, counted = ctx.saved_tensors
        return derivative * (gradient * counted)[:, None], None, None


_EXCLUDED, _SMALLEST = -1e30, -60.0
"""Added to the similarity of pairs that do not count; and the smallest exponent, e^-60 = 1e-26.

Exponents of minus infinity, or of results too small for a float, take a processor ten times as
long as others.
"""


def _softmax_over(similarities: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over some entries of each row, the logarithm of its sum, and whether it has any.

    Other entries have a share of 1e-26 at most; rows without any have arbitrary finite shares.
    """
    # In place: fresh memory of this size costs more time than the arithmetic.
    excluded = chosen.to(similarities.dtype).sub_(1).mul_(-_EXCLUDED)
    values = excluded.add_(similarities)
    largest = values.amax(dim=1)
    exponentials = values.sub_(largest[:, None]).clamp(min=_SMALLEST).exp_()
    sums = exponentials.sum(dim=1)
    return exponentials.div_(sums[:, None]), sums.log() + largest, largest > _EXCLUDED / 2
