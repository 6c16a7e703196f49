"""The parts of an update: the form of each, and how the server combines those of all clients.

Checks, sums, messages, byte counts and the ledger loop over parts without knowing their meaning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.segmentation.head import HeadWeights

HEAD = "head."
"""Prefix of the names of the head's weights."""
CENTROIDS = "centroids"
"""Name of the centroids' part."""
REGION_OF = "region_of"
"""Name under which the regions of merged clusters travel with the centroids."""
TRAVELING = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
"""Dtypes that messages can carry."""
Parts = Mapping[str, Tensor]
Reduce = Literal["sum", "mean", "collect"]


@dataclass(frozen=True)
class ClientFacts:
    """What a client declared before its first round; valid for the whole run."""

    num_images: int
    positions_per_image: int
    """Positions of one feature map."""
    rounding: float = 0.0
    """Largest error of a summed number, from rounding to the resolution of secure sums."""


PartCheck = Callable[[Parts, ClientFacts], str | None]
"""Takes all parts of an update and the client's facts; returns what is wrong, or None."""


def accept_any(_parts: Parts, _facts: ClientFacts) -> str | None:
    """Accept every value; shape, dtype and finiteness are checked for every part."""
    return None


@dataclass(frozen=True)
class Part:
    """One named tensor of an update. Integers are counts and never negative."""

    shape: tuple[int | None, ...]
    """None: the client chooses the side, from 1 up to `longest`."""
    dtype: torch.dtype
    reduce: Reduce
    """`sum`: added up; `mean`: averaged by the clients' weights; `collect`: kept per client.
    Secure aggregation is possible if no part of an exchange uses `collect`."""
    check: PartCheck = accept_any
    """Refuses values that no client following the protocol can send."""
    start: Tensor | None = None
    """The value that the client received for this part; None if it received none."""
    narrow: bool = False
    """Whether the part travels as `federation.wire` says: in bfloat16, as the change since
    `start`."""
    longest: int = 4096
    """Largest length of a side that the client chooses."""
    bounded: bool = True
    """Whether `federation.max_weight_share` bounds its part of a sum; False also for integers that
    are no counts of positions."""

    def __post_init__(self) -> None:
        """Refuse parts that cannot be sent.

        Raises:
            ValueError: If messages cannot carry the dtype, or the part is narrow without a start.
        """
        if self.dtype not in TRAVELING:
            raise ValueError(
                f"a part must be of one of {', '.join(map(str, TRAVELING))}, got {self.dtype}"
            )
        if self.narrow and self.start is None:
            raise ValueError("a narrow part is sent as the change since start: give its start")


def head_parts(
    head: HeadWeights, check: Callable[[str, Tensor], PartCheck] | None = None
) -> dict[str, Part]:
    """Describe the weights of a head, which are averaged.

    Args:
        head: The head that clients received.
        check: Makes the check of each weight from its part's name and the received weight.
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


def start_name(number: int) -> str:
    """Return the prefix of what belongs to one of several starts, numbered from 0."""
    return f"start{number}."


def name_head(head: HeadWeights) -> dict[str, Tensor]:
    """Name the weights of a head as parts."""
    return {f"{HEAD}{name}": weight for name, weight in head.items()}


def take_head(parts: Parts) -> HeadWeights:
    """Extract the weights of a head from parts."""
    return {
        name.removeprefix(HEAD): weight for name, weight in parts.items() if name.startswith(HEAD)
    }


def check_parts(sender: str, sent: Parts, parts: Mapping[str, Part]) -> None:
    """Refuse tensors with other names, shapes or dtypes, or with unusable values.

    Args:
        sender: The sender, as named at the beginning of error messages.
        sent: The tensors by name.
        parts: The parts that have to be sent.

    Raises:
        FederationError: If a tensor is missing, has another shape or dtype, is not finite, or is a
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
            raise FederationError(f"{sender} sent {name} with a value below 0: {int(tensor.min())}")


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
