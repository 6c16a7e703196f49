"""Bytes sent to and received from the clients, without the overhead of a transport protocol.

Simulation and deployment both use this module to decide what a client still needs, and to count
the bytes.
"""

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from fusseg.federation.head_precision import narrow_head
from fusseg.federation.parts import CENTROIDS, REGION_OF, name_head, start_name
from fusseg.federation.protocol import Protocol, Task
from fusseg.federation.state import ClientUpdate, GlobalState, Taught
from fusseg.federation.teaching import CLASS_SUMS
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

SUMS_SENT = ("counts", "first", "second")
"""Class statistics that clients need to leave out an image."""
NUMBER_BYTES = 8
"""Bytes of a count, loss or agreed number sent with the tensors."""
MEAN_FEATURE = "mean_feature"
CLASSES = "taught_classes"
"""Field with the names of the classes that are taught, as JSON."""
CLASSIFIER = "classifier."
"""Prefix of the tensors of a classifier."""
PLAN, HEAD_BUNDLE = "plan", "head"
"""Names of the bundles that clients keep once received."""


@dataclass(frozen=True)
class Bundle:
    """Tensors that a client keeps once received; they are sent again only when they change."""

    digest: str
    """Digest of the names and values."""
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Delivery:
    """Everything a client needs for a task."""

    kept: Mapping[str, Bundle]
    """Bundles by name: `plan`, and `head` if heads are shared and the task needs one, or the head
    of each start."""
    fresh: Mapping[str, Tensor]
    """Tensors sent every time: the centroids, if they are shared and the task needs them, those of
    each start, the regions of merged clusters, class statistics or the classifier."""
    numbers: int
    """How many numbers the plan has, with names of classes as one."""

    def news(self, held: Mapping[str, str]) -> dict[str, Bundle]:
        """Select the bundles that a client lacks, given the digests of those it has by name."""
        return {
            name: bundle for name, bundle in self.kept.items() if held.get(name) != bundle.digest
        }

    def num_bytes(self, sent: Mapping[str, Bundle]) -> int:
        """Count the bytes sent along with these bundles, including the round number."""
        tensors = [tensor for bundle in sent.values() for tensor in bundle.tensors.values()]
        numbers = 1 + (self.numbers if PLAN in sent else 0)
        return num_bytes(*tensors, *self.fresh.values()) + numbers * NUMBER_BYTES


@dataclass
class Traffic:
    """What each client has, and the bytes sent in the current round."""

    held: MutableMapping[str, dict[str, str]] = field(default_factory=dict)
    """Digests of the bundles that each client has, by client and name of the bundle."""
    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)

    def send(self, client_id: str, delivery: Delivery) -> dict[str, Bundle]:
        """Count the bytes sent to a client for a task; return the bundles to send."""
        sent = delivery.news(self.held.get(client_id, {}))
        self.down[client_id] = self.down.get(client_id, 0) + delivery.num_bytes(sent)
        return sent

    def arrived(self, client_id: str, delivery: Delivery) -> None:
        """Note that a client has received a delivery, since it has answered."""
        digests = {name: bundle.digest for name, bundle in delivery.kept.items()}
        self.held[client_id] = {**self.held.get(client_id, {}), **digests}

    def forget(self, client_id: str) -> None:
        """Note that a client has lost everything it had received."""
        self.held.pop(client_id, None)

    def receive(self, client_id: str, count: int) -> None:
        """Count bytes sent by a client."""
        self.up[client_id] = self.up.get(client_id, 0) + count

    def take(self) -> dict[str, dict[str, int]]:
        """Return the bytes of each client in the form of the record, and reset the counts."""
        clients = sorted(self.down.keys() | self.up.keys())
        taken = {
            client: {"bytes_up": self.up.get(client, 0), "bytes_down": self.down.get(client, 0)}
            for client in clients
        }
        self.down, self.up = {}, {}
        return taken


def needs(task: Task | None, protocol: Protocol) -> tuple[bool, bool]:
    """Return whether a task needs the head, and the centroids; None: to use the final model.

    Clients that keep their own part still receive the shared start of that part, since a client's
    first round may be any round. Where several starts are measured, clients need those instead.
    """
    head = protocol.aggregate_heads or protocol.shares_start
    centroids = protocol.aggregate_centroids or protocol.shares_start
    if task is not None and task.starts:
        return False, False
    if task is not None:
        head, centroids = head and "head" in task.receives, centroids and CENTROIDS in task.receives
    return head, centroids


def make_delivery(state: GlobalState, task: Task | None, protocol: Protocol) -> Delivery:
    """Make the delivery of a task; None: to use the final model."""
    needs_head, needs_centroids = needs(task, protocol)
    plan, model = state.plan, state.model
    numbers = plan_numbers(plan)
    kept = {PLAN: make_bundle({MEAN_FEATURE: plan.mean_feature}, numbers)}
    if needs_head:
        kept[HEAD_BUNDLE] = _bundle_head("", model, protocol)
    fresh = _name_clusters("", model) if needs_centroids else {}
    for number, start in enumerate(state.starts if task is not None and task.starts else ()):
        prefix = start_name(number)
        kept[f"{prefix}{HEAD_BUNDLE}"] = _bundle_head(prefix, start, protocol)
        fresh |= _name_clusters(prefix, start)
    if task is not None and CLASS_SUMS in task.receives:
        fresh |= {f"{CLASS_SUMS}.{name}": state.class_sums[name] for name in SUMS_SENT}
    if task is None and state.taught is not None:
        fresh |= name_classifier(state.taught)
    return Delivery(kept, fresh, len(numbers))


def _bundle_head(prefix: str, model: Model, protocol: Protocol) -> Bundle:
    named = name_head(narrow_head(model.head, protocol.wire))
    return make_bundle({f"{prefix}{name}": weight for name, weight in named.items()}, {})


def _name_clusters(prefix: str, model: Model) -> dict[str, Tensor]:
    named = {f"{prefix}{CENTROIDS}": model.centroids}
    return named if model.region_of is None else {**named, f"{prefix}{REGION_OF}": model.region_of}


def name_classifier(taught: Taught) -> dict[str, Tensor]:
    """Name the tensors of a classifier; none if nothing could be taught."""
    if taught.classifier is None:
        return {}
    return {
        f"{CLASSIFIER}weight": taught.classifier.weight,
        f"{CLASSIFIER}bias": taught.classifier.bias,
    }


def plan_numbers(plan: TrainingPlan) -> dict[str, int | float | str]:
    """Name the numbers of a plan, which are sent with the mean feature, and its classes."""
    classes = {CLASSES: json.dumps(plan.classes)} if plan.classes else {}
    return {"num_steps": plan.num_steps, **plan.agreed, **classes}


def make_bundle(tensors: Mapping[str, Tensor], numbers: Mapping[str, int | float | str]) -> Bundle:
    """Make a bundle, with a digest of its tensors and numbers."""
    digest = sha256(repr(sorted(numbers.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Bundle(digest.hexdigest()[:32], tensors)


def bytes_up(update: ClientUpdate) -> int:
    """Count the bytes of an update: its tensors, number of images and, after training, loss."""
    numbers = 1 if update.loss is None else 2
    return num_bytes(*update.parts.values()) + numbers * NUMBER_BYTES


def num_bytes(*tensors: Tensor) -> int:
    """Count the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
