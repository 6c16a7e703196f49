"""What the server refuses to aggregate."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from fusseg.errors import FederationError
from fusseg.federation.state import ClientUpdate, GlobalState

_COUNTS = ("counts", "count")


def check_updates(
    state: GlobalState, updates: Sequence[ClientUpdate], expected: Mapping[str, Tensor]
) -> None:
    """Refuse answers that do not fit, before any of them is used.

    Args:
        state: State the clients started from.
        updates: Sorted by client.
        expected: What each has to send, by name: tensors of the right shape and dtype.

    Raises:
        FederationError: If there is no answer, a client answered twice or has no image, or a
            tensor is missing, of another shape or dtype, not finite, or a negative count.
    """
    if not updates:
        raise FederationError(f"no client answered in round {state.round_number + 1}")
    names = [update.client_id for update in updates]
    for name, following in pairwise(names):
        if name == following:
            raise FederationError(
                f"client {name!r} answered more than once in round {state.round_number + 1}"
            )
    for update in updates:
        check_update(update, expected)


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
