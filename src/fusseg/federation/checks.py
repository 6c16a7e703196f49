"""What the server refuses to aggregate."""

import math
from collections.abc import Container, Mapping

from jaxtyping import Float
from torch import Tensor

from fusseg.errors import FederationError
from fusseg.federation.state import ClientUpdate

_COUNTS = ("counts", "count")


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


def check_update(update: ClientUpdate, expected: Mapping[str, Tensor]) -> None:
    """Refuse one client's answer if it does not fit.

    Args:
        update: What the client sent.
        expected: What it has to send, by name: tensors of the right shape and dtype.

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
    check_tensors(f"client {update.client_id!r}", update.tensors(), expected)


def check_tensors(sender: str, sent: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, shapes or dtypes, or with values that nobody could use.

    Args:
        sender: Who sent them, as an error message begins.
        sent: By name.
        expected: Stand-ins of the right names, shapes and dtypes.

    Raises:
        FederationError: If a tensor is missing, of another shape or dtype, not finite, or a
            negative count.
    """
    if sent.keys() != expected.keys():
        raise FederationError(f"{sender} sent {sorted(sent)}, expected {sorted(expected)}")
    for name, tensor in sent.items():
        if tensor.shape != expected[name].shape:
            raise FederationError(
                f"{sender} sent {name} of shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if tensor.dtype != expected[name].dtype:
            raise FederationError(
                f"{sender} sent {name} as {tensor.dtype}, expected {expected[name].dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise FederationError(f"{sender} sent {name} with values that are not finite")
        if name in _COUNTS and bool((tensor < 0).any()):
            raise FederationError(f"{sender} sent {name} below 0, got {int(tensor.min())}")


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
