"""The clusters that a client has: only these are trained and sent (`federation.site_clusters`)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusseg.federation.checks import within_reach
from fusseg.federation.lloyd_steps import sum_client_codes
from fusseg.federation.parts import CENTROIDS, ClientFacts, Part, Parts
from fusseg.federation.protocol import Gathered, Protocol, Work
from fusseg.federation.state import Client, GlobalState
from fusseg.segmentation.objective import Model

USED = "used"
"""Name of the part that marks the client's clusters, one of the K centroids each."""


def used_clusters(
    client: Client, model: Model, state: GlobalState, protocol: Protocol
) -> Bool[Tensor, " clusters"] | None:
    """Find the clusters that hold at least a share of the client's sampled positions.

    Args:
        client: The client; its codes are those of the received head.
        model: The model that it starts from.
        state: Global state as the client received it.
        protocol: The share, and whether clients train only these clusters.

    Returns:
        At least one cluster: the largest, if none holds the share; None: all are trained.
    """
    if protocol.site_clusters == "all":
        return None
    counts = sum_client_codes(client, model, state.plan.mean_feature, protocol).counts
    used = counts >= protocol.min_cluster_share * counts.sum()
    used[counts.argmax()] = True
    return used


def used_centroid_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the centroids of a client's own clusters, and the mark of each cluster."""
    start, local = state.model.centroids, protocol.local
    steps, rate = state.plan.num_steps, local.centroid_learning_rate

    def check_marks(parts: Parts, _facts: ClientFacts) -> str | None:
        marks, rows = parts[USED], len(parts[CENTROIDS])
        if bool((marks > 1).any()):
            return f"{USED} with a mark of {int(marks.max())}; marks are 0 or 1"
        if int(marks.sum()) != rows:
            return f"{rows} centroids, but marks {int(marks.sum())} clusters as its own"
        return None

    def check_rows(parts: Parts, facts: ClientFacts) -> str | None:
        check = within_reach(CENTROIDS, start[parts[USED].bool()], steps, rate)
        return check(parts, facts)

    clusters, code_dim = start.shape
    return {
        # Checked before the centroids, whose rows it names.
        USED: Part((clusters,), torch.int64, "collect", check_marks, bounded=False),
        CENTROIDS: Part((None, code_dim), start.dtype, "collect", check_rows, longest=clusters),
    }


def send_used_centroids(work: Work) -> dict[str, Tensor]:
    """Send the centroids of the client's own clusters, and mark them."""
    assert work.used is not None
    return {USED: work.used.long(), CENTROIDS: work.model.centroids[work.used]}


def pool_centroids(gathered: Gathered) -> Float[Tensor, "pooled code"]:
    """Pool the clients' centroids (FUSS paper, Eq. 10), with the server's of clusters nobody has.

    The pool never has fewer centroids than there are clusters.
    """
    pool = torch.cat(gathered.collected[CENTROIDS])
    if USED not in gathered.collected:
        return pool
    unused = torch.stack(gathered.collected[USED]).sum(dim=0) == 0
    return torch.cat([pool, gathered.state.model.centroids[unused]])


def whole_centroids(
    gathered: Gathered,
) -> tuple[Float[Tensor, "clients clusters code"], Bool[Tensor, "clients clusters"]]:
    """Put each client's centroids in their places, between the server's, and tell which they are.

    Returns:
        Centroids of each client, and which of them the client has trained.
    """
    sent = gathered.collected[CENTROIDS]
    start = gathered.state.model.centroids
    if USED not in gathered.collected:
        return torch.stack(sent), torch.ones(len(sent), len(start), dtype=torch.bool)
    used = torch.stack(gathered.collected[USED]).bool()
    whole = start.repeat(len(sent), 1, 1)
    whole[used] = torch.cat(sent)
    return whole, used
