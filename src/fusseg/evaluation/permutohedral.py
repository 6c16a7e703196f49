"""Gaussian filtering in several dimensions on the permutohedral lattice (Adams, Baek & Davis 2010).

A brute-force filter over N points costs N x N kernel values. Here each point is spread over the
corners of the simplex it lies in (splat), the lattice points are blurred along d + 1 directions,
and each point reads its corners (slice): N x d^2. The lattice points and their neighbors depend on
the positions only and are found once for all values.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.sparse import csr_array

_BLOCK_BYTES = 256 * 2**20
"""Memory for the lattice values of one block of channels."""


@dataclass(frozen=True)
class Lattice:
    """Linear maps from points to lattice points, and from lattice points to their neighborhood."""

    splat: csr_array
    """Lattice points x points: barycentric weights."""
    slice: csr_array
    """Its transpose, times what makes the blurs sum to one over a filled lattice."""
    blurs: tuple[csr_array, ...]
    """One per direction: the lattice point itself and half of its two neighbors."""


def build_lattice(positions: Float[np.ndarray, "points dims"]) -> Lattice:
    """Find the lattice points around some positions, and their neighbors.

    Args:
        positions: In units of the standard deviation of the Gaussian.
    """
    num_points, dims = positions.shape
    corners, weights = _enclosing_simplices(positions)
    origin = corners.min(axis=(0, 1)) - (dims + 1)
    extent = corners.max(axis=(0, 1)) - origin + dims + 2
    # One whole number per lattice point, in which a step along a direction adds a constant.
    radix = np.append(np.cumprod(extent[:0:-1], dtype=np.int64)[::-1], 1)
    keys, vertex = np.unique((corners - origin) @ radix, return_inverse=True)
    shape = (num_points, len(keys))
    ends = np.arange(num_points + 1) * (dims + 1)
    order = (weights.astype(np.float32).ravel(), vertex.ravel(), ends)
    to_points = csr_array(order, shape=shape)
    scale = np.float32(1 / (1 + 2.0**-dims))
    steps = np.ones((dims + 1, dims), dtype=np.int64)
    steps[np.arange(dims), np.arange(dims)] = -dims
    blurs = tuple(_blur(keys, int(step @ radix)) for step in steps)
    return Lattice(to_points.T.tocsr(), to_points * scale, blurs)


def gaussian_filter(
    lattice: Lattice, values: Float32[np.ndarray, "points channels"]
) -> Float32[np.ndarray, "points channels"]:
    """Sum the values of all points, weighted by about exp(-|p_i - p_j|^2 / 2), up to a constant.

    The kernel is the lattice's own bump, and what would move over a lattice point that is corner to
    no point is lost, as in the dense-CRF implementation of Kraehenbuehl & Koltun: values must be
    normalized by what becomes of ones. Then the error is some percent (parity test).
    """
    filtered = np.empty_like(values)
    block = max(1, _BLOCK_BYTES // (4 * lattice.splat.shape[0]))
    for start in range(0, values.shape[1], block):
        part = slice(start, start + block)
        blurred = lattice.splat @ np.ascontiguousarray(values[:, part])
        for blur in lattice.blurs:
            blurred = blur @ blurred
        filtered[:, part] = lattice.slice @ blurred
    return filtered


def _enclosing_simplices(
    positions: Float[np.ndarray, "points dims"],
) -> tuple[Int64[np.ndarray, "points corners dims"], Float[np.ndarray, "points corners"]]:
    """Find the corners of the simplex around each position, and its barycentric coordinates.

    Returns:
        The corners' first `dims` coordinates, the last one following from their sum of zero, and
        the weights, which sum to one.
    """
    dims = positions.shape[1]
    elevated = _elevate(positions)
    # The closest lattice point whose coordinates are multiples of dims + 1, if its sum is zero.
    base = np.round(elevated / (dims + 1)).astype(np.int64)
    excess = base.sum(axis=1, keepdims=True)
    order = np.argsort(base * (dims + 1) - elevated, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(dims + 1)[None], axis=1)
    # Where it is not: move the coordinates that were rounded farthest by one.
    rank += excess
    base += (rank < 0).astype(np.int64) - (rank > dims)
    rank %= dims + 1
    offset = np.empty_like(elevated)
    np.put_along_axis(offset, rank, elevated / (dims + 1) - base, axis=1)
    weights = np.empty_like(elevated)
    weights[:, 1:] = (offset[:, :-1] - offset[:, 1:])[:, ::-1]
    weights[:, 0] = 1 + offset[:, -1] - offset[:, 0]
    # Corner k: k is added to each coordinate, and dims + 1 taken from those of the last k ranks.
    number = np.arange(dims + 1)
    canonical = number[:, None] - (dims + 1) * (number[None, :] > dims - number[:, None])
    corners = (base * (dims + 1))[:, None, :] + canonical[number[None, :, None], rank[:, None, :]]
    return corners[:, :, :dims], weights


def _elevate(
    positions: Float[np.ndarray, "points dims"],
) -> Float[np.ndarray, "points coordinates"]:
    """Embed positions isometrically in the plane of coordinates that sum to zero.

    Scaled so that splat, blur and slice together have standard deviation one.
    """
    dims = positions.shape[1]
    number = np.arange(1, dims + 1)
    scaled = (
        positions.astype(np.float64) * np.sqrt(2 / 3) * (dims + 1) / np.sqrt(number * (number + 1))
    )
    # Column j: -j times the j-th direction, plus all later ones.
    later = np.concatenate([scaled[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((len(scaled), 1))], 1)
    later[:, 1:] -= number * scaled
    return later


def _blur(keys: Int64[np.ndarray, " vertices"], step: int) -> csr_array:
    """Weigh each lattice point and half of its two neighbors along one direction."""
    found, columns = [], []
    for neighbor in (keys - step, keys, keys + step):
        place = np.minimum(np.searchsorted(keys, neighbor), len(keys) - 1)
        found.append(keys[place] == neighbor)
        columns.append(place)
    present = np.stack(found, axis=1)
    weights = np.broadcast_to(np.array([0.5, 1, 0.5], np.float32), present.shape)
    ends = np.append(0, present.sum(axis=1).cumsum())
    entries = (weights[present], np.stack(columns, axis=1)[present], ends)
    return csr_array(entries, shape=(len(keys), len(keys)))
