"""Gather the updates of one exchange on the server, one at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config.schema import Weights
from fusseg.core.errors import FederationError
from fusseg.federation.checks import check_first, check_model, check_update
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Task, sent_parts
from fusseg.federation.server_step import step_server
from fusseg.federation.state import ClientUpdate, GlobalState, Total
from fusseg.federation.summation import RunningSum
from fusseg.federation.weights import FIT, bounded_counts, client_weight, num_bounded


class Gathering:
    """The updates of one exchange, added to running sums as they arrive.

    Parts that are summed or averaged are released at once, so the server never holds those of all
    clients; their order does not matter. Collected parts are kept. The updates with the most images
    or the largest weights are also held until the end, as many as `federation.max_weight_share` can
    bound, because their weight depends on all other clients.
    """

    def __init__(self, state: GlobalState, protocol: Protocol, task: Task) -> None:
        """Start without an update.

        Args:
            state: State the clients start from; parts that clients keep are not changed.
            protocol: Strategy, weights and switches.
            task: The exchange.
        """
        self.state, self.protocol, self.task = state, protocol, task
        self.parts = sent_parts(task, state, protocol)
        folded = {name: part for name, part in self.parts.items() if part.reduce != "collect"}
        self._averaged = [name for name, part in folded.items() if part.reduce == "mean"]
        self._outline = {
            name: torch.empty(_whole(part.shape), dtype=part.dtype, device="meta")
            for name, part in folded.items()
        }
        self._sums = RunningSum(self._outline)
        self._weights = self._kind(protocol.weights)
        self.total: Total | None = None
        """The sum of all updates, where the server learns nothing else."""
        self._arrived: dict[str, ClientUpdate] = {}
        self._held: dict[str, ClientUpdate] = {}

    @property
    def updates(self) -> tuple[ClientUpdate, ...]:
        """The updates so far, sorted by client; summed parts are replaced by meta tensors."""
        return tuple(self._arrived[client_id] for client_id in sorted(self._arrived))

    def add(self, update: ClientUpdate | Total) -> None:
        """Check an update and add it to the sums, or take a sum that holds all updates.

        Raises:
            FederationError: If the client has already answered, or its update is invalid.
        """
        if isinstance(update, Total):
            self.total = update
            return
        check_first(update.client_id, self._arrived, self.state.round_number + 1)
        check_update(update, self.parts)
        self._arrived[update.client_id] = replace(update, parts={**update.parts, **self._outline})
        self._held[update.client_id] = update
        for released in self._held.keys() - self._may_be_bounded():
            update = self._held.pop(released)
            self._fold(update, update.num_images, client_weight(update, self._weights))

    def merge(self, generator: Generator) -> GlobalState:
        """Make the next global state; its round number is not changed.

        Args:
            generator: The server's random source of this round.

        Raises:
            FederationError: If no client answered, the strategy returned an invalid model, or the
                server's step made a head that is not finite.
        """
        if self.total is not None:
            return self._conclude(_of_total(self.total, self.state, self.protocol, generator))
        if not self._arrived:
            raise FederationError(f"no client answered in round {self.state.round_number + 1}")
        counts, weights = self.image_counts(), self.weights(self._weights)
        for client_id, update in self._held.items():
            self._fold(update, counts[client_id], weights[client_id])
        self._held.clear()
        return self._conclude(self._gathered(generator))

    def _conclude(self, gathered: Gathered) -> GlobalState:
        """Apply the task's rule to the combined updates."""
        if not self.parts and not self.task.trains:
            return self.state
        if self.task.conclude is not None:
            return self.task.conclude(gathered)
        model = self.task.merge(gathered)
        num_clusters = self.task.clusters[1] or len(self.state.model.centroids)
        check_model(self.protocol.strategy_name, model, self.state.model, num_clusters)
        if model.region_of is None and not self.protocol.merging:
            # Rules move centroids and leave a loaded map as it is. Where clusters are merged, the
            # last exchange of the round makes a new one: an old one may be of other clusters.
            model = replace(model, region_of=self.state.model.region_of)
        optimizer = self.state.optimizer
        if self.task.trains and self.protocol.averages_heads:
            head, optimizer = step_server(self.state, model.head, self.protocol)
            model = replace(model, head=head)
        return replace(self.state, model=model, optimizer=optimizer)

    def image_counts(self) -> dict[str, int]:
        """Number of images that each client counts for in sums, sorted by client."""
        return self.weights("images")

    def weights(self, weights: Weights) -> dict[str, int]:
        """Weight of each client in averages, sorted by client."""
        found = {update.client_id: client_weight(update, weights) for update in self.updates}
        bounded = bounded_counts(list(found.values()), self.protocol.max_weight_share)
        return dict(zip(found, bounded, strict=True))

    def _kind(self, weights: Weights) -> Weights:
        """Return what clients are weighted by in this exchange: only training tells their fit."""
        if weights != "uncertainty" or FIT in self.parts:
            return weights
        if self.task.trains and self._averaged and weights == self.protocol.weights:
            raise FederationError(
                f"the exchange {self.task.name!r} of federation.strategy "
                f"{self.protocol.strategy_name!r} does not send the part {FIT!r}, which "
                "federation.weights 'uncertainty' needs; set it to 'images', or make the exchange "
                "with train_task"
            )
        return "images"

    def _may_be_bounded(self) -> set[str]:
        """Name the held clients with the most images, and those with the largest weights."""
        most = num_bounded(self.protocol.max_weight_share)
        largest: set[str] = set()
        kinds: tuple[Weights, Weights] = ("images", self._weights)
        for kind in kinds:
            found = {held.client_id: client_weight(held, kind) for held in self._held.values()}
            largest.update(sorted(found, key=found.__getitem__, reverse=True)[:most])
        return largest

    def _gathered(self, generator: Generator) -> Gathered:
        counts, protocol = self.image_counts(), self.protocol
        totals, weight = self._sums.total(), sum(self.weights(self._weights).values())
        for name in self._averaged:
            totals[name] = (totals[name] / weight).to(self.parts[name].dtype)
        collected = {
            name: tuple(
                _scale(update.parts[name], counts[update.client_id], update.num_images, part)
                for update in self.updates
            )
            for name, part in self.parts.items()
            if part.reduce == "collect"
        }
        shares = client_shares(list(self.weights(self._kind(protocol.centroid_weights)).values()))
        return Gathered(self.state, protocol, totals, collected, shares, generator)

    def _fold(self, update: ClientUpdate, count: int, weight: int) -> None:
        """Add an update to averages by its weight, and to sums as if from `count` images."""
        if self._averaged:
            self._sums.add(update.parts, weight, self._averaged)
        summed = [name for name in self._outline if self.parts[name].reduce == "sum"]
        if summed:
            terms = {
                name: _scale_sum(update.parts[name], count, update.num_images)
                if self.parts[name].bounded
                else update.parts[name]
                for name in summed
            }
            self._sums.add(terms, 1, summed)


def aggregate(
    state: GlobalState,
    updates: Iterable[ClientUpdate],
    protocol: Protocol,
    task: Task,
    generator: Generator,
) -> GlobalState:
    """Merge one exchange's updates into the next global state; its round number is not changed.

    Args:
        state: State the clients started from; parts that clients keep are not changed.
        updates: One per client that answered, in any order; none is kept.
        protocol: Strategy, weights and switches.
        task: The exchange.
        generator: The server's random source of this round.

    Raises:
        FederationError: If no client answered, or if an update or the strategy's result is invalid.
    """
    gathering = Gathering(state, protocol, task)
    for update in updates:
        gathering.add(update)
    return gathering.merge(generator)


def client_shares(weights: Sequence[int]) -> Float[Tensor, " clients"]:
    """Compute the share of each client in the sum of the weights, in float64.

    >>> client_shares([1, 3])
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    counts = torch.tensor(weights, dtype=torch.float64)
    return counts / counts.sum()


def _of_total(
    total: Total, state: GlobalState, protocol: Protocol, generator: Generator
) -> Gathered:
    """Combine nothing: the clients' updates came as one sum."""
    names = {name for sent in total.collected.values() for name in sent}
    collected = {
        name: tuple(sent[name] for _, sent in sorted(total.collected.items())) for name in names
    }
    hidden = torch.empty(0, dtype=torch.float64)
    return Gathered(state, protocol, total.parts, collected, hidden, generator)


def _scale_sum(total: Tensor, count: int, num_images: int) -> Tensor:
    """Scale a sum over `num_images` images to `count` images."""
    if count == num_images:
        return total
    if total.dtype.is_floating_point:
        return total * (count / num_images)
    return total * count // num_images


def _scale(tensor: Tensor, count: int, num_images: int, part: Part) -> Tensor:
    """Scale counts of positions as `_scale_sum`; return other values unchanged."""
    if part.dtype.is_floating_point or not part.bounded:
        return tensor
    return _scale_sum(tensor, count, num_images)


def _whole(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    if None in shape:
        raise FederationError(
            f"a part of shape {shape} differs between clients: it can be collected, but neither "
            "summed nor averaged"
        )
    return tuple(side for side in shape if side is not None)
