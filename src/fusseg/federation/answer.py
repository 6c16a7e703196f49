"""The client's half of an exchange, in simulation and in deployment."""

import math
from dataclasses import dataclass, replace

from torch import Generator

from fusseg.core.errors import FederationError
from fusseg.core.randomness import round_generator
from fusseg.federation.gathering import Gathering
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Task, Work
from fusseg.federation.state import Client, ClientUpdate, GlobalState, Memory
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import Trained, Trainee, train


@dataclass(frozen=True)
class Answer:
    """What a client sends, and what it keeps."""

    update: ClientUpdate
    memory: Memory | None
    """None: nothing new to keep."""


def answer(
    state: GlobalState,
    task: Task,
    memory: Memory | None,
    client: Client,
    protocol: Protocol,
    kept: KeptCodes,
) -> Answer:
    """Do what the server asks one client for.

    The result depends on the arguments alone, not on which process runs it or in which order the
    clients are visited.

    Args:
        state: As the client received it.
        task: What is asked for.
        memory: What the client kept of its last round; None before its first.
        client: Who answers.
        protocol: Strategy, objective and switches.
        kept: Codes of earlier Lloyd steps.

    Raises:
        FederationError: If training diverged.
    """
    if task.trains:
        trainee = start_training(state, memory, client, protocol)
        trained = train(trainee, state.plan, protocol.local, client.compute)
        return report_training(state, task, trained, client, protocol, kept)
    model = current_model(state, memory, protocol)
    update = ClientUpdate(client.client_id, len(client.features))
    parts = task.measure(Work(client, model, state, protocol, kept))
    if not protocol.keeps_own_models:
        return Answer(replace(update, parts=parts), None)
    # Its own model moves on by what it measured itself; nothing is sent.
    moved = _merge_alone(replace(update, parts=parts), replace(state, model=model), task, protocol)
    carried = {} if memory is None else memory.carried
    return Answer(update, Memory(moved, carried))


def start_training(
    state: GlobalState, memory: Memory | None, client: Client, protocol: Protocol
) -> Trainee:
    """Put together where a client's round starts; the arguments are those of `answer`."""
    local = protocol.local
    return Trainee(
        model=current_model(state, memory, protocol),
        features=client.features,
        prepared=local.objective.prepare(
            client.features, state.plan.mean_feature, local.settings, client.cache
        ),
        generator=round_generator(protocol.seed, state.round_number + 1, client.client_id),
        # FedMOON compares with the head of the client's own last round, whatever was averaged.
        previous=None if memory is None else memory.model.head,
        carried={} if memory is None else memory.carried,
    )


def report_training(
    state: GlobalState,
    task: Task,
    trained: Trained,
    client: Client,
    protocol: Protocol,
    kept: KeptCodes,
) -> Answer:
    """Write the update of a client that has trained.

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
    parts = task.measure(Work(client, model, state, protocol, kept))
    update = ClientUpdate(client.client_id, len(client.features), trained.loss, parts)
    return Answer(update, Memory(model, trained.carried))


def current_model(state: GlobalState, memory: Memory | None, protocol: Protocol) -> Model:
    """Put together the model a client works with: shared parts, and those that stay with it.

    In the Lloyd finish centroids stay with a client as soon as its head does: sums of codes of
    different heads mean nothing.

    Args:
        state: Global state.
        memory: What the client kept of its last round; None before its first.
        protocol: Which parts are shared.
    """
    shared = state.model
    if memory is None:
        return shared
    finishing = state.round_number > protocol.rounds
    own_centroids = not protocol.aggregate_centroids or (finishing and not protocol.aggregate_heads)
    return Model(
        head=shared.head if protocol.aggregate_heads else memory.model.head,
        centroids=memory.model.centroids if own_centroids else shared.centroids,
    )


def _merge_alone(update: ClientUpdate, state: GlobalState, task: Task, protocol: Protocol) -> Model:
    """Merge one client's own update as the server would, were it the only client."""
    shared = replace(protocol, aggregate_heads=True, aggregate_centroids=True)
    gathering = Gathering(state, shared, task)
    gathering.add(update)
    return gathering.merge(Generator()).model


def _is_finite(model: Model) -> bool:
    return all(bool(part.isfinite().all()) for part in (*model.head.values(), model.centroids))
