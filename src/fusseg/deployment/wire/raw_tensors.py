"""Tensors as plain bytes, checked when read: no pickle, no format that could run code."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.federation.parts import TRAVELING

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TRAVELING}
"""Number types that may travel."""
MOST_BYTES = 512 * 2**20
"""Largest size of one tensor."""
MOST_SIDES = 8
LONGEST_SIDE = 2**31


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's number type as it is sent."""
    return str(tensor.dtype).removeprefix("torch.")


def to_bytes(tensor: Tensor) -> bytes:
    """Write a tensor's numbers row by row, little-endian like every supported machine."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bytes(name: str, dtype: str, shape: Sequence[int], content: bytes) -> Tensor:
    """Read a tensor.

    Args:
        name: For the error message.
        dtype: One of `DTYPES`.
        shape: At most `MOST_SIDES` whole numbers of 0 to `LONGEST_SIDE`.
        content: The bytes that `to_bytes` wrote.

    Raises:
        FederationError: If the type is unknown, the shape is invalid, or the bytes do not fit.
    """
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise FederationError(f"tensor {name!r} is {shown(dtype)}, must be one of {known}")
    # Checked before anything is multiplied: the product of many or of giant sides takes minutes,
    # and Python refuses to print it.
    if len(shape) > MOST_SIDES:
        raise FederationError(f"tensor {name!r} has {len(shape)} sides, must be 0 to {MOST_SIDES}")
    for side in shape:
        # bool is a subclass of int, but not a length.
        if isinstance(side, bool) or not isinstance(side, int) or not 0 <= side <= LONGEST_SIDE:
            raise FederationError(
                f"tensor {name!r} has a side of {shown(side)}, must be a whole number of 0 to "
                f"{LONGEST_SIDE}"
            )
    size = math.prod(shape) * DTYPES[dtype].itemsize
    # Computed as if no side were 0: otherwise a 0 would allow any length of the other sides.
    room = math.prod(max(1, side) for side in shape) * DTYPES[dtype].itemsize
    if len(content) != size or room > MOST_BYTES:
        raise FederationError(
            f"tensor {name!r} of shape {tuple(shape)} as {dtype} takes {size} bytes (at most "
            f"{MOST_BYTES}), got {len(content)}"
        )
    if not content:
        return torch.empty(tuple(shape), dtype=DTYPES[dtype])
    # A copy: bytes are read-only, but training changes tensors.
    return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).reshape(tuple(shape))
