"""Project the centroids of clients and server to two dimensions, and trace their classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fusseg.report.drawings import Cloud
from fusseg.runs.history import load_history

_SERVER, _CLIENT = "global", "client/"

Projector = Callable[[Float[np.ndarray, "points dim"]], Float[np.ndarray, "points 2"]]


@dataclass(frozen=True)
class RoundCentroids:
    """Unit centroids of one round: the server's, and each client's stacked by client."""

    server: Float[np.ndarray, "clusters code"]
    clients: Float[np.ndarray, "clients clusters code"]


def read_history(run_dir: Path) -> dict[int, RoundCentroids]:
    """Read the centroids of every round in which the clients sent all of theirs.

    Raises:
        DataError: If a file is damaged.
    """
    found = {}
    for number, tensors in load_history(run_dir).items():
        sent = [tensors[name].numpy() for name in sorted(tensors) if name.startswith(_CLIENT)]
        # Clients that send only their own clusters do not say here which these are.
        if sent and all(rows.shape == tensors[_SERVER].shape for rows in sent):
            found[number] = RoundCentroids(_unit(tensors[_SERVER].numpy()), _unit(np.stack(sent)))
    return found


def trace_classes(
    history: Mapping[int, RoundCentroids], matching: Sequence[int]
) -> dict[int, tuple[Int[np.ndarray, " clusters"], Int[np.ndarray, "clients clusters"]]]:
    """Follow the classes of the last round back through all rounds.

    A client's centroid has the class of the server's nearest one of the same round. A server's
    centroid has the class that most clients' centroids which started from it have a round later.

    Args:
        history: Centroids by round.
        matching: Class of each of the server's centroids after the last of these rounds.

    Returns:
        By round, the class of each server's and each client's centroid.
    """
    classes: dict[int, tuple[Int[np.ndarray, " clusters"], Int[np.ndarray, "_ _"]]] = {}
    server = np.array(matching, np.int64)
    for number in sorted(history, reverse=True):
        centroids = history[number]
        nearest = (centroids.clients @ centroids.server.T).argmax(axis=-1)
        clients = server[nearest]
        classes[number] = server, clients
        server = np.array([_most_common(clients[:, index]) for index in range(len(server))])
    return classes


def project_history(
    history: Mapping[int, RoundCentroids],
    matching: Sequence[int],
    colors: UInt8[np.ndarray, "colors 3"],
    project: Projector,
) -> dict[int, Cloud]:
    """Project the first, the middle and the last round together.

    Args:
        history: Centroids by round, at least one.
        matching: As in `trace_classes`.
        colors: One per class, then the color of centroids without a class.
        project: `project_pca` or `project_tsne`.
    """
    classes = trace_classes(history, matching)
    rounds = sorted(history)
    shown = sorted({rounds[0], rounds[len(rounds) // 2], rounds[-1]})
    stacked = {
        number: np.concatenate(
            [history[number].server, history[number].clients.reshape(-1, colors_dim(history))]
        )
        for number in shown
    }
    points = project(np.concatenate([stacked[number] for number in shown]))
    clouds, start = {}, 0
    for number in shown:
        server, clients = classes[number]
        labels = np.concatenate([server, clients.ravel()])
        count = len(stacked[number])
        clouds[number] = Cloud(
            points=points[start : start + count],
            colors=colors[labels],
            shared=np.arange(count) < len(server),
        )
        start += count
    return clouds


def project_pca(points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points 2"]:
    """Project on the first two principal components."""
    projected: np.ndarray = PCA(2, svd_solver="full").fit_transform(points.astype(np.float64))
    return projected


def project_tsne(points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points 2"]:
    """Project by t-SNE with a fixed seed, at most 30 neighbors per point."""
    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=0, metric="cosine")
    projected: np.ndarray = tsne.fit_transform(points.astype(np.float32)).astype(np.float64)
    return projected


def colors_dim(history: Mapping[int, RoundCentroids]) -> int:
    """Channels of a centroid."""
    dim: int = next(iter(history.values())).server.shape[1]
    return dim


def _most_common(labels: Int[np.ndarray, " clients"]) -> int:
    # Ties go to the smallest label, so that the order of clients does not matter.
    values, counts = np.unique(labels, return_counts=True)
    return int(values[int(counts.argmax())])


def _unit(rows: Float[np.ndarray, "*shape code"]) -> Float[np.ndarray, "*shape code"]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(lengths, 1e-12)
    return unit
