"""Project the centroids of a run's rounds onto two axes, and measure how far the sites agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fusseg.runs.history import CLIENT_CENTROIDS, GLOBAL_CENTROIDS, load_history

MAX_ROUNDS, MAX_CLIENTS = 40, 20
"""Most rounds and clients in the map, spread evenly, to keep the page small."""

WIDTH, HEIGHT, _MARGIN = 640, 460, 30
"""Size of the map and its margin, in the units of its coordinates."""

Points = Int[np.ndarray, "centroids 2"]


@dataclass(frozen=True)
class ClientCentroids:
    """Centroids that one client sent in one round."""

    points: Points
    nearest: Int[np.ndarray, " centroids"]
    """The server's centroid nearest to each, by cosine."""
    agreement: float
    """Mean cosine to the nearest centroids."""


@dataclass(frozen=True)
class RoundCentroids:
    """The centroids of one round."""

    server: Points
    clients: Mapping[str, ClientCentroids]


@dataclass(frozen=True)
class CentroidMap:
    """All centroids of the shown rounds, in one plane."""

    rounds: Mapping[int, RoundCentroids]
    client_ids: tuple[str, ...]
    explained: float
    """Share of the variance explained by the two axes, in [0, 1]."""


def map_centroids(run_dir: Path) -> CentroidMap | None:
    """Project a run's centroids; None if no round saved any, or they never change.

    Raises:
        DataError: If a file of the history is damaged.
    """
    return project_rounds(load_history(run_dir, MAX_ROUNDS, MAX_CLIENTS))


def project_rounds(history: Mapping[int, Mapping[str, Tensor]]) -> CentroidMap | None:
    """Project unit centroids onto the first two principal components of all rounds together.

    Args:
        history: Tensors `global` and `client/ID` by round, from `load_history`.
    """
    unit = {
        number: {name: _unit(tensor.numpy()) for name, tensor in tensors.items()}
        for number, tensors in history.items()
    }
    if not _changes(unit):
        return None
    stacked = np.concatenate([rows for tensors in unit.values() for rows in tensors.values()])
    axes, explained = _principal_axes(stacked)
    frame = _frame(stacked @ axes)
    rounds = {
        number: RoundCentroids(
            server=_place(tensors[GLOBAL_CENTROIDS] @ axes, frame),
            clients={
                name.removeprefix(CLIENT_CENTROIDS): _place_client(
                    _place(rows @ axes, frame), rows @ tensors[GLOBAL_CENTROIDS].T
                )
                for name, rows in tensors.items()
                if name != GLOBAL_CENTROIDS
            },
        )
        for number, tensors in unit.items()
    }
    names = sorted({name for one in rounds.values() for name in one.clients})
    return CentroidMap(rounds, tuple(names), explained)


def as_json(centroids: CentroidMap, choice: int | None = None) -> dict[str, Any]:
    """Convert the map to flat lists of numbers, for the script that draws it.

    Args:
        centroids: The map.
        choice: Round of the choice between start and trained model; None: there was none.
    """
    numbers = {client_id: number for number, client_id in enumerate(centroids.client_ids)}
    return {
        "clients": list(centroids.client_ids),
        "rounds": [
            {
                "name": "the choice" if number == choice else f"round {number}",
                "server": one.server.ravel().tolist(),
                "clients": [
                    [
                        numbers[client_id],
                        np.column_stack([client.points, client.nearest]).ravel().tolist(),
                    ]
                    for client_id, client in one.clients.items()
                ],
            }
            for number, one in centroids.rounds.items()
        ],
    }


def _place_client(
    points: Points, cosines: Float[np.ndarray, "centroids clusters"]
) -> ClientCentroids:
    return ClientCentroids(points, cosines.argmax(axis=1), float(cosines.max(axis=1).mean()))


def _changes(unit: Mapping[int, Mapping[str, Float[np.ndarray, "_ _"]]]) -> bool:
    """Return whether clients sent centroids or the server's moved; neither if all is local."""
    if any(len(tensors) > 1 for tensors in unit.values()):
        return True
    server = [tensors[GLOBAL_CENTROIDS] for tensors in unit.values()]
    return any(not np.array_equal(server[0], other) for other in server[1:])


def _principal_axes(
    points: Float[np.ndarray, "points code"],
) -> tuple[Float[np.ndarray, "code 2"], float]:
    centered = points - points.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centered, full_matrices=False)
    axes = np.zeros((points.shape[1], 2))
    found = directions[:2].T
    # The sign of a component is arbitrary: its largest entry is made positive.
    largest = np.abs(found).argmax(axis=0)
    axes[:, : found.shape[1]] = found * np.sign(found[largest, np.arange(found.shape[1])])
    variance = lengths**2
    return axes, float(variance[:2].sum() / max(variance.sum(), 1e-12))


def _frame(flat: Float[np.ndarray, "points 2"]) -> tuple[Float[np.ndarray, " 2"], float]:
    """Find the center of all points, and the scale at which they fill the map."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = np.array([WIDTH - 2 * _MARGIN, HEIGHT - 2 * _MARGIN])
    return (low + high) / 2, float((room / np.maximum(high - low, 1e-9)).min())


def _place(
    flat: Float[np.ndarray, "points 2"], frame: tuple[Float[np.ndarray, " 2"], float]
) -> Points:
    middle, scale = frame
    moved = (flat - middle) * scale + np.array([WIDTH, HEIGHT]) / 2
    places: Points = np.rint(moved).astype(np.int64)
    return places


def _unit(rows: Float[np.ndarray, "centroids code"]) -> Float[np.ndarray, "centroids code"]:
    wide = rows.astype(np.float64)
    unit: np.ndarray = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit
