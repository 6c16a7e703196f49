"""Bytes that cross the network in deployment, without the envelope of a protocol."""

from fusseg.config import FederationConfig
from fusseg.federation.rounds import Round
from fusseg.federation.schedule import LLOYD, num_training_rounds
from fusseg.federation.state import ClientUpdate, num_bytes
from fusseg.federation.strategies import keeps_own_models
from fusseg.federation.wire import wire_dtype
from fusseg.segmentation.head import HeadWeights

NUMBER_BYTES = 8
"""Bytes of a count, loss or shift that is sent beside the tensors."""


def bytes_up(update: ClientUpdate, federation: FederationConfig) -> int:
    """Bytes of an update: its tensors, the number of images and, after training, the loss."""
    numbers = 1 if update.loss is None else 2
    rest = num_bytes(update.tensors()) - num_bytes(update.head)
    return _head_bytes(update.head, federation) + rest + numbers * NUMBER_BYTES


def bytes_down(finished: Round, place: int, federation: FederationConfig) -> int:
    """Bytes that one client gets with a task: shared parts, and the round number.

    Between Lloyd steps a client keeps the head, so that only its first brings one; where clients
    are drawn for every round, the first of each round.

    Args:
        finished: The round.
        place: Which of its exchanges.
        federation: Which parts are shared, with baselines resolved.
    """
    task, model = finished.exchanges[place].task, finished.state.model
    head = model.head if federation.aggregate_heads else None
    centroids = model.centroids if federation.aggregate_centroids else None
    if task == "moments":
        head = centroids = None
    elif task == "lloyd" and keeps_own_models(federation):
        # Each client goes on alone; where only heads are shared, the last average is sent once.
        head = head if _is_new(finished, place, federation) else None
        centroids = None
    elif task == "lloyd" and not _is_new(finished, place, federation):
        head = None
    return _head_bytes(head, federation) + num_bytes(centroids) + NUMBER_BYTES


def _head_bytes(head: HeadWeights | None, federation: FederationConfig) -> int:
    numbers = 0 if head is None else sum(part.numel() for part in head.values())
    return numbers * wire_dtype(federation.wire).itemsize


def _is_new(finished: Round, place: int, federation: FederationConfig) -> bool:
    """Whether the head has changed since a client last got it, or it may never have got it."""
    if place > 0:
        return finished.exchanges[place - 1].task != "lloyd"
    if federation.clients_per_round:
        return True
    starts = finished.state.round_number == num_training_rounds(federation) + 1
    return starts and federation.strategy != LLOYD
