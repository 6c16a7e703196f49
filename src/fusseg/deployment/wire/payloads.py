"""Convert tasks, answers and hellos to packets, and back with every value checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.core.visible_text import shown
from fusseg.deployment.wire.ledger import Field
from fusseg.deployment.wire.packet import Packet, expect_field, take_float, take_int, take_word
from fusseg.deployment.wire.received import (
    check_names,
    kept_head_parts,
    plan_parts,
    take_kept_head,
    take_plan,
)
from fusseg.federation.parts import CENTROIDS, HEAD, REGION_OF, Part, check_parts, start_name
from fusseg.federation.protocol import Protocol, Task
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import ClientUpdate, GlobalState, Hello, OpenHello, Taught
from fusseg.federation.teaching import CLASS_SUMS
from fusseg.federation.traffic import (
    CLASSIFIER,
    MEAN_FEATURE,
    PLAN,
    Bundle,
    Delivery,
    needs,
    plan_numbers,
)
from fusseg.runs.saved_state import describe_taught, read_taught
from fusseg.segmentation.objective import Model, check_regions
from fusseg.segmentation.training import TrainingPlan

_TAUGHT = (f"{CLASS_SUMS}.", CLASSIFIER)
"""Prefixes of the tensors about classes."""
EVALUATE: Final = "evaluate"
FINISH: Final = "finish"
"""Tasks besides those of the rounds: score the model, and store it."""


@dataclass(frozen=True)
class Request:
    """Identifies one exchange; an answer must repeat it."""

    run: str
    offer: str
    """Digest of the current offer."""
    task: str
    """Name of a task of the round, or `evaluate` or `finish`."""
    round_number: int
    """The current round, from 1; for `evaluate` and `finish` the last finished one."""
    place: int
    """Number of the exchange within the round, from 0."""

    def fields(self) -> dict[str, Field]:
        """Return the fields that every message of the exchange contains."""
        return {
            "run": self.run,
            "offer": self.offer,
            "task": self.task,
            "round": self.round_number,
            "place": self.place,
            "version": VERSION,
        }


def read_request(packet: Packet) -> Request:
    """Read the request of a message.

    Raises:
        FederationError: If a field is missing or out of range.
    """
    expect_field(packet, "version", VERSION)
    return Request(
        run=take_word(packet, "run"),
        offer=take_word(packet, "offer"),
        task=take_word(packet, "task"),
        round_number=take_int(packet, "round"),
        place=take_int(packet, "place"),
    )


def find_task(request: Request, protocol: Protocol, *, at_sites: bool) -> Task | None:
    """Find the task that a message asks for; None: score or store the model.

    Args:
        request: The request of the message.
        protocol: Defines the tasks of each round.
        at_sites: Whether the sites score the model under the agreed settings.

    Raises:
        FederationError: If the agreed settings contain no such task, such as other sums or further
            rounds.
    """
    number, name = request.round_number, request.task
    if protocol.first_round <= number <= protocol.num_rounds:
        if name == FINISH or (name == EVALUATE and at_sites):
            return None
        tasks = protocol.tasks(number)
        if request.place < len(tasks) and tasks[request.place].name == name:
            return tasks[request.place]
    raise FederationError(
        f"the agreed settings hold no task {shown(name, 40)} in round {number} at place "
        f"{request.place}"
    )


def check_answers(packet: Packet, request: Request) -> None:
    """Refuse an answer to another run, round, task, version or offer.

    Raises:
        FederationError: If a field differs from the request's.
    """
    for name, value in request.fields().items():
        expect_field(packet, name, value)


def pack_task(
    state: GlobalState, request: Request, delivery: Delivery, sent: Mapping[str, Bundle]
) -> Packet:
    """Convert a task to a packet.

    Args:
        state: The state that contains the plan.
        request: Identifies the exchange.
        delivery: What a client needs for the task. What it already has is named by digest.
        sent: What this client does not have yet.
    """
    fields = request.fields()
    fields |= {name: bundle.digest for name, bundle in delivery.kept.items()}
    tensors = dict(delivery.fresh)
    for bundle in sent.values():
        tensors |= bundle.tensors
    if PLAN in sent:
        fields |= plan_numbers(state.plan)
    if request.task == FINISH and state.taught is not None:
        fields["taught"] = json.dumps(describe_taught(state.taught))
    return Packet(fields, tensors)


def unpack_task(
    packet: Packet, task: Task | None, protocol: Protocol, feature_dim: int, folder: Path
) -> GlobalState:
    """Read the state at the start of a task; parts that are not shared are those of round 0.

    Args:
        packet: The packet that `pack_task` made.
        task: The requested task; None: score or store the model.
        protocol: Defines which parts are shared, and how heads travel.
        feature_dim: Channels of the site's features.
        folder: Folder of the run, where this site stores plan and head.

    Raises:
        FederationError: If a tensor is missing, malformed or not finite, or a field out of range.
        LackError: If the server relies on something that this site does not have.
        DataError: If the received parts cannot be stored.
    """
    parts = _packed_parts(packet, task, protocol, feature_dim)
    others = {name: part for name, part in packet.tensors.items() if not name.startswith(_TAUGHT)}
    check_parts("the server", others, parts)
    plan = take_plan(packet, protocol, feature_dim, folder)
    class_sums = _take_sums(packet, task, plan)
    taught = _take_taught(packet, task, plan)
    start = initial_state(protocol, plan).model
    needs_head, _ = needs(task, protocol)
    places = range(0 if task is None else task.starts)

    def take_model(prefix: str, *, needs_head: bool) -> Model:
        head = start.head
        if needs_head:
            head = take_kept_head(packet, protocol, feature_dim, folder, prefix)
        region_of = _take_regions(packet, f"{prefix}{REGION_OF}", protocol)
        return Model(head, packet.tensors.get(f"{prefix}{CENTROIDS}", start.centroids), region_of)

    return GlobalState(
        round_number=take_int(packet, "round") - (0 if task is None else 1),
        model=take_model("", needs_head=needs_head),
        plan=plan,
        starts=tuple(take_model(start_name(place), needs_head=True) for place in places),
        class_sums=class_sums,
        taught=taught,
    )


def _take_regions(packet: Packet, name: str, protocol: Protocol) -> Tensor | None:
    """Read the regions of merged clusters; None: the model has none."""
    region_of = packet.tensors.get(name)
    if region_of is not None:
        try:
            check_regions(region_of, protocol.num_clusters)
        except ValueError as error:
            raise FederationError(f"the server sent {error}") from error
    return region_of


def _take_sums(packet: Packet, task: Task | None, plan: TrainingPlan) -> dict[str, Tensor]:
    """Read the class statistics of all clients, if the task needs them."""
    prefix = f"{CLASS_SUMS}."
    if task is None or CLASS_SUMS not in task.receives:
        return {}
    classes, dim = len(plan.classes), len(plan.mean_feature)
    parts = {
        f"{prefix}counts": Part((classes,), torch.int64, "sum"),
        f"{prefix}first": Part((classes, dim), torch.float64, "sum"),
        f"{prefix}second": Part((dim, dim), torch.float64, "sum"),
    }
    found = {name: part for name, part in packet.tensors.items() if name.startswith(prefix)}
    check_parts("the server", found, parts)
    return {name.removeprefix(prefix): part for name, part in found.items()}


def _take_taught(packet: Packet, task: Task | None, plan: TrainingPlan) -> Taught | None:
    """Read the classes of the final model, if it has been taught some."""
    if task is not None or "taught" not in packet.fields:
        return None
    try:
        described = json.loads(take_word(packet, "taught"))
        return read_taught(described, packet.tensors, len(plan.mean_feature))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FederationError(f"the server sent classes that cannot be used: {error}") from error


def pack_update(update: ClientUpdate, request: Request) -> Packet:
    """Convert an answer to a packet; its head is already in the form in which it travels."""
    fields = {**request.fields(), "state": "done", "num_images": update.num_images}
    if update.loss is not None:
        fields["loss"] = update.loss
    return Packet(fields, dict(update.parts))


def unpack_update(packet: Packet, site: str, parts: Mapping[str, Part], task: Task) -> ClientUpdate:
    """Read an answer.

    Args:
        packet: The packet that the site sent.
        site: The sender, as its key shows, not as the packet says.
        parts: The required tensors, in the form in which they travel.
        task: The requested task.

    Raises:
        FederationError: If a tensor is missing, malformed or not finite, or a field out of range.
    """
    check_parts(f"client {site!r}", packet.tensors, parts)
    loss = take_float(packet, "loss") if task.trains else None
    return ClientUpdate(site, take_int(packet, "num_images", 1), loss, dict(packet.tensors))


def pack_hello(hello: Hello | OpenHello, offer: str, run: str) -> Packet:
    """Convert a site's answer to an offer to a packet.

    Args:
        hello: The hello, or what no sum hides of it.
        offer: Digest of the offer.
        run: Name of the federation's run.
    """
    fields: dict[str, Field] = {
        "task": "hello",
        "round": 0,
        "run": run,
        "offer": offer,
        "state": "done",
        "fingerprint": hello.fingerprint,
        "version": hello.version,
    }
    if hello.classes:
        fields["classes"] = json.dumps(hello.classes)
    if isinstance(hello, OpenHello):
        return Packet(fields)
    fields |= {
        "num_images": hello.num_images,
        "feature_count": hello.feature_count,
        "feature_spread": hello.feature_spread,
        **hello.numbers,
    }
    return Packet(fields, {"feature_sum": hello.feature_sum})


def unpack_open_hello(packet: Packet, site: str, protocol: Protocol) -> OpenHello:
    """Read a hello whose numbers are added in secret.

    Raises:
        FederationError: If a field is missing or malformed, or there are tensors.
    """
    check_parts(f"client {site!r}", packet.tensors, {})
    return OpenHello(
        site,
        take_word(packet, "fingerprint"),
        take_word(packet, "version"),
        _take_own_classes(packet, site, protocol),
    )


def unpack_hello(packet: Packet, site: str, feature_dim: int, protocol: Protocol) -> Hello:
    """Read a hello.

    Args:
        packet: The packet that the site sent.
        site: The sender, as its key shows.
        feature_dim: Channels of the features.
        protocol: Its objective may need estimates of the site.

    Raises:
        FederationError: If a field or the sum is missing, malformed or not finite, or an estimate
            out of range.
    """
    check_parts(
        f"client {site!r}",
        packet.tensors,
        {"feature_sum": Part((feature_dim,), torch.float64, "sum")},
    )
    numbers = {}
    for name, (least, most) in protocol.local.objective.estimated(protocol.local.settings).items():
        numbers[name] = take_float(packet, name)
        if not least <= numbers[name] <= most:
            raise FederationError(
                f"client {site!r} sent {name} of {numbers[name]}, must lie in [{least:g}, {most:g}]"
            )
    return Hello(
        client_id=site,
        num_images=take_int(packet, "num_images", 2),
        feature_sum=packet.tensors["feature_sum"],
        feature_count=take_int(packet, "feature_count", 2),
        numbers=numbers,
        fingerprint=take_word(packet, "fingerprint"),
        version=take_word(packet, "version"),
        feature_spread=take_float(packet, "feature_spread"),
        classes=_take_own_classes(packet, site, protocol),
    )


def _take_own_classes(packet: Packet, site: str, protocol: Protocol) -> tuple[str, ...]:
    """Read the classes of a site's labels; none without labels."""
    if not protocol.teaching or "classes" not in packet.fields:
        return ()
    try:
        names = json.loads(take_word(packet, "classes"))
    except (ValueError, RecursionError) as error:
        raise FederationError(f"client {site!r} sent classes that cannot be read") from error
    if not isinstance(names, list):
        raise FederationError(f"client {site!r} sent {shown(names, 80)} as the names of classes")
    check_names(f"client {site!r}", names)
    return tuple(names)


def _packed_parts(
    packet: Packet, task: Task | None, protocol: Protocol, feature_dim: int
) -> dict[str, Part]:
    """List the tensors that a message must contain; plan and head may be left out as a whole."""
    needs_head, needs_centroids = needs(task, protocol)
    found: dict[str, Part] = {}
    if MEAN_FEATURE in packet.tensors:
        found |= plan_parts(feature_dim)
    models = {"": (needs_head, needs_centroids)}
    models |= {
        start_name(place): (True, True) for place in range(0 if task is None else task.starts)
    }
    for prefix, (with_head, with_centroids) in models.items():
        if with_head and any(name.startswith(f"{prefix}{HEAD}") for name in packet.tensors):
            found |= kept_head_parts(protocol, feature_dim, prefix)
        if with_centroids:
            received = None if task is None else task.clusters[0]
            shape = (received or protocol.num_clusters, protocol.code_dim)
            found[f"{prefix}{CENTROIDS}"] = Part(shape, torch.float32, "collect")
            # Only a model with merged clusters has them.
            if f"{prefix}{REGION_OF}" in packet.tensors:
                found[f"{prefix}{REGION_OF}"] = Part(
                    (protocol.num_clusters,), torch.int64, "collect"
                )
    return found
