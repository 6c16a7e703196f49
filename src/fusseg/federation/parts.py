"""The parts of an update: what each must look like, and how the server joins those of all clients.

Checks, sums, messages, bytes and the ledger are loops over parts: none knows what a part means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.segmentation.head import HeadWeights

HEAD = "head."
"""What the name of a weight of the head begins with."""
CENTROIDS = "centroids"
"""Name of the part that the centroids are."""
TRAVELING = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
"""Types of numbers that messages carry."""
Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class ClientFacts:
    """What a client declared once, before its first round; it holds for the whole run."""

    num_images: int
    positions_per_image: int
    """Positions of one feature map."""


PartCheck = Callable[[Parts, ClientFacts], str | None]
"""All parts of an update, and what the client declared, to what is wrong with one of them."""


def accept_any(_parts: Parts, _facts: ClientFacts) -> str | None:
    """Accept every value: shape, type and finite numbers are checked anyhow."""
    return None


@dataclass(frozen=True)
class Part:
    """One named tensor of an update. Whole numbers are counts, and never negative."""

    shape: tuple[int | None, ...]
    """None: the client's own, from 1 up to `longest`."""
    dtype: torch.dtype
    reduce: Literal["sum", "mean", "collect"]
    """`sum`: added up; `mean`: averaged by the clients' weights; `collect`: kept client by client.
    A secure sum is possible where no part of an exchange says `collect`."""
    check: PartCheck = accept_any
    """Refuses what no client that follows the rules can send."""
    start: Tensor | None = None
    """What the client received in this place; None where it received nothing."""
    narrow: bool = False
    """Travels as `federation.wire` says: in bfloat16 as the change since `start`."""
    longest: int = 4096
    """Of the sides that are the client's own."""

    def __post_init__(self) -> None:
        """Refuse what cannot travel.

        Raises:
            ValueError: If it is of a type that messages do not carry, or a change since nothing.
        """
        if self.dtype not in TRAVELING:
            raise ValueError(
                f"a part must be of one of {', '.join(map(str, TRAVELING))}, got {self.dtype}"
            )
        if self.narrow and self.start is None:
            raise ValueError("a narrow part travels as the change since start: give its start")


def head_parts(
    head: HeadWeights, check: Callable[[str, Tensor], PartCheck] | None = None
) -> dict[str, Part]:
    """Describe the weights of a head, which are averaged.

    Args:
        head: The one clients received.
        check: Makes the check of each weight from its part's name and what was received.
    """
    return {
        f"{HEAD}{name}": Part(
            tuple(weight.shape),
            weight.dtype,
            "mean",
            accept_any if check is None else check(f"{HEAD}{name}", weight),
            start=weight,
            narrow=True,
        )
        for name, weight in head.items()
    }


def name_head(head: HeadWeights) -> dict[str, Tensor]:
    """Name the weights of a head as parts."""
    return {f"{HEAD}{name}": weight for name, weight in head.items()}


def take_head(parts: Parts) -> HeadWeights:
    """Take the weights of a head out of parts."""
    return {
        name.removeprefix(HEAD): weight for name, weight in parts.items() if name.startswith(HEAD)
    }


def check_parts(sender: str, sent: Parts, parts: Mapping[str, Part]) -> None:
    """Refuse tensors of other names, shapes or types, or with values that nobody could use.

    Args:
        sender: Who sent them, as an error message begins.
        sent: By name.
        parts: What has to be sent.

    Raises:
        FederationError: If a tensor is missing, of another shape or dtype, not finite, or a
            negative count.
    """
    if sent.keys() != parts.keys():
        raise FederationError(f"{sender} sent {sorted(sent)}, expected {sorted(parts)}")
    for name, tensor in sent.items():
        part = parts[name]
        if not _has_shape(tensor, part):
            raise FederationError(
                f"{sender} sent {name} of shape {tuple(tensor.shape)}, "
                f"expected {_describe_shape(part)}"
            )
        if tensor.dtype != part.dtype:
            raise FederationError(f"{sender} sent {name} as {tensor.dtype}, expected {part.dtype}")
        if not bool(tensor.isfinite().all()):
            raise FederationError(f"{sender} sent {name} with values that are not finite")
        if not part.dtype.is_floating_point and bool((tensor < 0).any()):
            raise FederationError(f"{sender} sent {name} below 0, got {int(tensor.min())}")


def _has_shape(tensor: Tensor, part: Part) -> bool:
    return tensor.ndim == len(part.shape) and all(
        1 <= side <= part.longest if wanted is None else side == wanted
        for side, wanted in zip(tensor.shape, part.shape, strict=True)
    )


def _describe_shape(part: Part) -> str:
    if None not in part.shape:
        return str(part.shape)
    sides = (f"1 to {part.longest}" if side is None else str(side) for side in part.shape)
    return f"({', '.join(sides)})"
