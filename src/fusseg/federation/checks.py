"""What the server refuses to aggregate, whatever the strategy."""

import math
from collections.abc import Container, Mapping

from jaxtyping import Float
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.federation.parts import Part, check_parts
from fusseg.federation.state import ClientUpdate
from fusseg.segmentation.objective import Model


def check_first(client_id: str, known: Container[str], round_number: int) -> None:
    """Refuse a second answer of one client to the same question.

    Args:
        client_id: Who answers.
        known: Who has answered already.
        round_number: Of the round that is going on.

    Raises:
        FederationError: If it has.
    """
    if client_id in known:
        raise FederationError(
            f"client {client_id!r} answered more than once in round {round_number}"
        )


def check_update(update: ClientUpdate, parts: Mapping[str, Part]) -> None:
    """Refuse one client's answer if it does not fit.

    Args:
        update: What the client sent.
        parts: What it has to send.

    Raises:
        FederationError: If it has no image, its loss is not finite, or a tensor is missing, of
            another shape or dtype, not finite, or a negative count.
    """
    if update.num_images < 1:
        raise FederationError(
            f"client {update.client_id!r} must have trained on at least 1 image, "
            f"got {update.num_images}"
        )
    if update.loss is not None and not math.isfinite(update.loss):
        raise FederationError(
            f"client {update.client_id!r} sent a loss that is not finite, got {update.loss}"
        )
    check_parts(f"client {update.client_id!r}", update.parts, parts)


def check_centroids(
    strategy: str, found: object, expected: Float[Tensor, "clusters code"]
) -> Float[Tensor, "clusters code"]:
    """Refuse what a strategy returned if it is no next set of centroids; else return it.

    Args:
        strategy: Whose rule was called.
        found: What it returned.
        expected: The centroids it replaces: of the right shape and dtype.

    Raises:
        FederationError: If it is no tensor, of another shape or dtype, or not finite.
    """
    wanted = (
        f"return a {expected.dtype} tensor of {len(expected)} x {expected.shape[1]} "
        "(model.num_clusters x model.code_dim), all values finite"
    )
    begin = f"federation.strategy {strategy!r} returned"
    if not isinstance(found, Tensor):
        raise FederationError(f"{begin} a value of type {type(found).__name__}; {wanted}")
    if found.shape != expected.shape:
        raise FederationError(f"{begin} a tensor of shape {tuple(found.shape)}; {wanted}")
    if found.dtype != expected.dtype:
        raise FederationError(f"{begin} a tensor of {found.dtype}; {wanted}")
    if not bool(found.isfinite().all()):
        raise FederationError(f"{begin} values that are not finite; {wanted}")
    return found


def check_model(strategy: str, found: object, expected: Model) -> None:
    """Refuse what a strategy made of the updates if it is no next model.

    Args:
        strategy: Whose rule was called.
        found: What it returned.
        expected: The model it replaces: of the right names, shapes and dtypes.

    Raises:
        FederationError: If it is no model, or a tensor of it is missing, of another shape or dtype,
            or not finite.
    """
    begin = f"federation.strategy {strategy!r} returned"
    if not isinstance(found, Model):
        raise FederationError(f"{begin} a value of type {type(found).__name__}; return a Model")
    if found.head.keys() != expected.head.keys():
        raise FederationError(
            f"{begin} a head of {sorted(found.head)}; return one of {sorted(expected.head)}"
        )
    for name, weight in expected.head.items():
        made = found.head[name]
        if made.shape != weight.shape or made.dtype != weight.dtype:
            raise FederationError(
                f"{begin} head.{name} of {tuple(made.shape)} and {made.dtype}; return "
                f"{tuple(weight.shape)} and {weight.dtype}"
            )
        if not bool(made.isfinite().all()):
            raise FederationError(f"{begin} head.{name} with values that are not finite")
    check_centroids(strategy, found.centroids, expected.centroids)
