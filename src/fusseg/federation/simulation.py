"""Clients in this process: the exchange of a simulated federation."""

from collections.abc import Iterator, MutableMapping, Sequence

from fusseg.config import FederationConfig, LocalConfig
from fusseg.federation.client import Client, answer, remembers_own_model
from fusseg.federation.points import KeptCodes
from fusseg.federation.rounds import Exchange
from fusseg.federation.state import ClientUpdate, GlobalState, Task
from fusseg.federation.wire import narrow_update, receive_state, widen_update
from fusseg.segmentation.training import Model


def simulate(
    clients: Sequence[Client],
    own_models: MutableMapping[str, Model],
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> Exchange:
    """Exchange that asks every client in this process, one after another.

    Args:
        clients: Who takes part.
        own_models: Each client's own model after its last round, by id; updated in every round,
            left empty where no client needs one.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.
        seed: Seed of the experiment.
    """
    kept = KeptCodes(federation.positions_per_image, seed)
    remember = remembers_own_model(federation, local)
    wire = federation.wire

    def exchange(state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        received = receive_state(state, wire)
        for client in clients:
            own = own_models.get(client.client_id)
            update, after = answer(received, task, own, client, local, federation, kept)
            if remember and after is not None:
                own_models[client.client_id] = after
            sent = narrow_update(update, received.model.head, wire)
            yield widen_update(sent, state.model.head, wire)

    return exchange
