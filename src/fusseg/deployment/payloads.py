"""Tasks, answers and hellos as packets, and back with every value checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from fusseg.config import Config, FederationConfig
from fusseg.deployment.ledger import Field
from fusseg.deployment.packet import Packet, expect_field, take_float, take_int, take_word
from fusseg.errors import FederationError
from fusseg.federation.checks import check_tensors
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Hello, Task
from fusseg.federation.strategies import CONSENSUS
from fusseg.federation.wire import narrow_head, widen_head
from fusseg.segmentation.head import SegmentationHead
from fusseg.segmentation.training import Model, TrainingPlan
from fusseg.version import VERSION

EVALUATE: Final = "evaluate"
FINISH: Final = "finish"
RoundTask = Task | Literal["evaluate", "finish"]
"""What a site is asked for once it has said hello."""
_HEAD = "head."
_MOST_STEPS = 10**9


@dataclass(frozen=True)
class Request:
    """Names one exchange: an answer has to name the same."""

    run: str
    offer: str
    """Digest of the settings that hold."""
    task: RoundTask
    round_number: int
    """Round that is going on, from 1; for `evaluate` and `finish` the last that is finished."""
    place: int
    """Exchange within the round, from 0."""

    def fields(self) -> dict[str, Field]:
        """What stands in every message of the exchange."""
        return {
            "run": self.run,
            "offer": self.offer,
            "task": self.task,
            "round": self.round_number,
            "place": self.place,
            "version": VERSION,
        }


def read_request(packet: Packet) -> Request:
    """Read what a message asks for.

    Raises:
        FederationError: If a field is missing or out of range.
    """
    task = take_word(packet, "task")
    if task not in ("train", "lloyd", "moments", EVALUATE, FINISH):
        raise FederationError(f"field 'task' must be a known task, got {task!r:.50}")
    expect_field(packet, "version", VERSION)
    return Request(
        run=take_word(packet, "run"),
        offer=take_word(packet, "offer"),
        task=task,  # type: ignore[arg-type]
        round_number=take_int(packet, "round", 1),
        place=take_int(packet, "place"),
    )


def check_answers(packet: Packet, request: Request) -> None:
    """Refuse an answer to something else: another run, round, task, version or settings.

    Raises:
        FederationError: If a field differs from the request's.
    """
    for name, value in request.fields().items():
        expect_field(packet, name, value)


def pack_state(state: GlobalState, request: Request, federation: FederationConfig) -> Packet:
    """Write a task with the parts of the state that are shared."""
    plan = state.plan
    tensors = {"mean_feature": plan.mean_feature}
    if federation.aggregate_heads:
        head = narrow_head(state.model.head, federation.wire)
        tensors |= {f"{_HEAD}{name}": part for name, part in head.items()}
    if federation.aggregate_centroids:
        tensors["centroids"] = state.model.centroids
    shifts = {f"shift_{kind}": shift for kind, shift in enumerate(plan.shift)}
    return Packet({**request.fields(), "num_steps": plan.num_steps, **shifts}, tensors)


def unpack_state(
    packet: Packet, config: Config, federation: FederationConfig, feature_dim: int
) -> GlobalState:
    """Read the state at the start of a round; parts that are not shared are those of round 0.

    Args:
        packet: As `pack_state` wrote it.
        config: The shared settings.
        federation: Its strategy, with baselines resolved.
        feature_dim: Channels of the site's features.

    Raises:
        FederationError: If a tensor is missing, malformed or not finite, or a field out of range.
    """
    shift = [take_float(packet, f"shift_{kind}") for kind in range(3)]
    mean_feature = packet.tensors.get("mean_feature")
    check_tensors(
        "the server",
        {"mean_feature": mean_feature} if mean_feature is not None else {},
        {"mean_feature": torch.zeros(feature_dim)},
    )
    assert mean_feature is not None
    plan = TrainingPlan(
        num_steps=take_int(packet, "num_steps", 1, _MOST_STEPS),
        mean_feature=mean_feature,
        shift=(shift[0], shift[1], shift[2]),
    )
    start = initial_state(config.model, plan, config.seed)
    sent = {name: part for name, part in packet.tensors.items() if name != "mean_feature"}
    expected = _shared_tensors(config, federation, feature_dim)
    check_tensors("the server", sent, expected)
    head = {name.removeprefix(_HEAD): part for name, part in sent.items() if name != "centroids"}
    model = Model(
        head=widen_head(head) if federation.aggregate_heads else start.model.head,
        centroids=sent.get("centroids", start.model.centroids),
    )
    done = packet.fields.get("task") in (EVALUATE, FINISH)
    round_number = take_int(packet, "round", 1) - (0 if done else 1)
    return replace(start, model=model, round_number=round_number)


def pack_update(update: ClientUpdate, request: Request) -> Packet:
    """Write an answer; its head is as it travels already."""
    fields = {**request.fields(), "state": "done", "num_images": update.num_images}
    if update.loss is not None:
        fields["loss"] = update.loss
    return Packet(fields, update.tensors())


def unpack_update(
    packet: Packet,
    site: str,
    expected: Mapping[str, Tensor],
    task: Task,
    federation: FederationConfig,
) -> ClientUpdate:
    """Read an answer.

    Args:
        packet: What the site sent.
        site: Who sent it, as its key says and not as it says itself.
        expected: Stand-ins for its tensors, the head's as they travel.
        task: What was asked for.
        federation: Strategy and switches, with baselines resolved.

    Raises:
        FederationError: If a tensor is missing, malformed or not finite, or a field out of range.
    """
    check_tensors(f"client {site!r}", packet.tensors, expected)
    update = ClientUpdate(site, take_int(packet, "num_images", 1))
    sent = dict(packet.tensors)
    if task == "moments":
        return replace(update, moments=FeatureMoments(**sent))
    if task == "lloyd":
        return replace(update, code_sums=CodeSums(**sent)) if sent else update
    centroids = sent.pop("centroids", None)
    usage = None
    if federation.strategy == CONSENSUS and "counts" in sent:
        usage = CentroidUsage(sent.pop("counts"), sent.pop("cosines"))
    return replace(
        update,
        head=sent or None,
        centroids=centroids,
        usage=usage,
        loss=take_float(packet, "loss"),
    )


def pack_hello(hello: Hello, offer: str, run: str) -> Packet:
    """Write a hello."""
    fields: dict[str, Field] = {
        "task": "hello",
        "round": 0,
        "run": run,
        "offer": offer,
        "state": "done",
        "num_images": hello.num_images,
        "feature_count": hello.feature_count,
        "fingerprint": hello.fingerprint,
        "version": hello.version,
    }
    if hello.shift is not None:
        fields |= {f"shift_{kind}": shift for kind, shift in enumerate(hello.shift)}
    return Packet(fields, {"feature_sum": hello.feature_sum})


def unpack_hello(packet: Packet, site: str, feature_dim: int, *, shifts: bool) -> Hello:
    """Read a hello.

    Args:
        packet: What the site sent.
        site: Who sent it, as its key says.
        feature_dim: Channels of the features.
        shifts: Whether it has to hold the site's own estimates.

    Raises:
        FederationError: If a field or the sum is missing, malformed or not finite.
    """
    expected = {"feature_sum": torch.zeros(feature_dim, dtype=torch.float64)}
    check_tensors(f"client {site!r}", packet.tensors, expected)
    found = [take_float(packet, f"shift_{kind}") for kind in range(3)] if shifts else []
    if any(abs(shift) > 2 for shift in found):
        raise FederationError(f"client {site!r} sent the shifts {found}, each must lie in [-2, 2]")
    return Hello(
        client_id=site,
        num_images=take_int(packet, "num_images", 2),
        feature_sum=packet.tensors["feature_sum"],
        feature_count=take_int(packet, "feature_count", 2),
        shift=(found[0], found[1], found[2]) if shifts else None,
        fingerprint=take_word(packet, "fingerprint"),
        version=take_word(packet, "version"),
    )


def narrow_expected(
    expected: Mapping[str, Tensor], head: Mapping[str, Tensor], federation: FederationConfig
) -> dict[str, Tensor]:
    """Stand-ins for an answer's tensors as they travel."""
    narrowed = narrow_head(dict(head), federation.wire)
    return {name: narrowed.get(name, part) for name, part in expected.items()}


def _shared_tensors(
    config: Config, federation: FederationConfig, feature_dim: int
) -> dict[str, Tensor]:
    expected: dict[str, Tensor] = {}
    if federation.aggregate_heads:
        head = SegmentationHead(feature_dim, config.model.code_dim).state_dict()
        narrowed = narrow_head(dict(head), federation.wire)
        expected |= {f"{_HEAD}{name}": part for name, part in narrowed.items()}
    if federation.aggregate_centroids:
        shape = (config.model.num_clusters, config.model.code_dim)
        expected["centroids"] = torch.zeros(shape)
    return expected
