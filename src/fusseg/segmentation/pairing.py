"""Correspondences of a step: every query image with itself, its neighbor and random supports."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
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
