"""The client's side of an exchange, in simulation and in deployment."""

import math
from dataclasses import dataclass, replace

from fusseg.core.errors import FederationError
from fusseg.core.randomness import round_generator
from fusseg.federation.gathering import Gathering
from fusseg.federation.noise import measure
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Task, Work, sent_parts
from fusseg.federation.site_clusters import used_clusters
from fusseg.federation.state import Client, ClientUpdate, GlobalState, Memory
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import Trained, Trainee, train


@dataclass(frozen=True)
class Answer:
    """An update to send, and the memory to keep."""

    update: ClientUpdate
    memory: Memory | None
    """None: the client has nothing new to keep."""


def answer(
    state: GlobalState,
    task: Task,
    memory: Memory | None,
    client: Client,
    protocol: Protocol,
    kept: KeptCodes,
) -> Answer:
    """Compute one client's answer to the server.

    The result depends only on the arguments, not on the process that runs it or on the order of the
    clients.

    Args:
        state: Global state as the client received it.
        task: The exchange to answer.
        memory: The client's memory of its last round; None before its first.
        client: The answering client.
        protocol: Strategy, objective and switches.
        kept: Codes of earlier Lloyd steps.

    Raises:
        FederationError: If training diverged.
    """
    if task.trains:
        trainee = start_training(state, memory, client, protocol)
        trained = train(trainee, state.plan, protocol.local, client.compute)
        return report_training(state, task, trained, client, protocol, kept)
    model = state.model if task.shared else current_model(state, memory, protocol)
    update = ClientUpdate(client.client_id, len(client.features))
    work = Work(client, model, state, protocol, kept)
    parts = measure(task, work, sent_parts(task, state, protocol))
    if task.shared or not protocol.keeps_own_models:
        return Answer(replace(update, parts=parts), None)
    # The client updates its own model by its own measurements and sends nothing.
    moved = _merge_alone(replace(update, parts=parts), replace(state, model=model), task, protocol)
    carried = {} if memory is None else memory.carried
    return Answer(update, Memory(moved, carried))


def start_training(
    state: GlobalState, memory: Memory | None, client: Client, protocol: Protocol
) -> Trainee:
    """Assemble a client's starting point of a round; the arguments are those of `answer`."""
    local = protocol.local
    model = current_model(state, memory, protocol)
    return Trainee(
        model=model,
        features=client.features,
        prepared=local.objective.prepare(
            client.features, state.plan.mean_feature, local.settings, client.cache
        ),
        generator=round_generator(protocol.seed, state.round_number + 1, client.client_id),
        # FedMOON compares with the head of the client's own last round, whatever was averaged.
        previous=None if memory is None else memory.model.head,
        carried={} if memory is None else memory.carried,
        used=used_clusters(client, model, state, protocol),
    )


def report_training(
    state: GlobalState,
    task: Task,
    trained: Trained,
    client: Client,
    protocol: Protocol,
    kept: KeptCodes,
) -> Answer:
    """Make the update of a client that has trained.

    Raises:
        FederationError: If training diverged.
    """
    local, model = protocol.local, trained.model
    if not (math.isfinite(trained.loss) and _is_finite(model)):
        raise FederationError(
            f"training of client {client.client_id!r} diverged in round {state.round_number + 1} "
            f"(loss {trained.loss}); lower local.head_learning_rate ({local.head_learning_rate}) "
            f"or local.centroid_learning_rate ({local.centroid_learning_rate})"
        )
    work = Work(client, model, state, protocol, kept, trained.used)
    parts = measure(task, work, sent_parts(task, state, protocol))
    update = ClientUpdate(client.client_id, len(client.features), trained.loss, parts)
    return Answer(update, Memory(model, trained.carried))


def current_model(state: GlobalState, memory: Memory | None, protocol: Protocol) -> Model:
    """Assemble the model a client works with from the shared parts and its own parts.

    In the Lloyd finish, a client that keeps its own head keeps its own centroids too: sums over
    codes of different heads are meaningless.

    Args:
        state: Global state.
        memory: The client's memory of its last round; None before its first.
        protocol: Says which parts are shared.
    """
    shared = state.model
    if memory is None:
        return shared
    finishing = state.round_number > protocol.rounds
    own_centroids = not protocol.aggregate_centroids or (finishing and not protocol.aggregate_heads)
    clustered = memory.model if own_centroids else shared
    return Model(
        head=shared.head if protocol.aggregate_heads else memory.model.head,
        centroids=clustered.centroids,
        region_of=clustered.region_of,
    )


def _merge_alone(update: ClientUpdate, state: GlobalState, task: Task, protocol: Protocol) -> Model:
    """Merge a client's own update as the server would if it were the only client."""
    shared = replace(protocol, aggregate_heads=True, aggregate_centroids=True)
    gathering = Gathering(state, shared, task)
    gathering.add(update)
    generator = round_generator(protocol.seed, state.round_number + 1, update.client_id)
    return gathering.merge(generator).model


def _is_finite(model: Model) -> bool:
    return all(bool(part.isfinite().all()) for part in (*model.head.values(), model.centroids))
