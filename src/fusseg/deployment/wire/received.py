"""The plan and the head that a site received, which it stores until they change.

Both are identified by a digest of their content. A site that has lost one of them, or has another,
says so and is sent it again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusseg.core.errors import DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.core.visible_text import shown
from fusseg.deployment.wire.packet import Packet, take_float, take_int, take_word
from fusseg.federation.head_precision import narrow_parts, widen_head
from fusseg.federation.parts import HEAD, Part, check_parts, head_parts, take_head
from fusseg.federation.protocol import Protocol
from fusseg.federation.teaching import MOST_LABELS
from fusseg.federation.traffic import (
    CLASSES,
    HEAD_BUNDLE,
    MEAN_FEATURE,
    PLAN,
    make_bundle,
    plan_numbers,
)
from fusseg.segmentation.head import HeadWeights, SegmentationHead
from fusseg.segmentation.training import ClassNames, TrainingPlan

_FOLDER, _NUMBERS = "received", "numbers"
_MOST_STEPS = 10**9
_LARGEST_NUMBER = 1e30
"""Limit of the agreed numbers: far beyond any that an objective can use."""
_SERVER = "the server"
_LONGEST_NAME = 200
"""Most characters of the name of a class."""


class LackError(FederationError):
    """The server relies on something that this site does not have, and must send it again."""


def plan_parts(feature_dim: int) -> dict[str, Part]:
    """Describe the tensors of a plan."""
    return {MEAN_FEATURE: Part((feature_dim,), torch.float32, "sum")}


def kept_head_parts(protocol: Protocol, feature_dim: int, prefix: str = "") -> dict[str, Part]:
    """Describe the weights of a head in the form in which the server sends it."""
    head = SegmentationHead(feature_dim, protocol.code_dim).state_dict()
    parts = narrow_parts(head_parts(dict(head)), protocol.wire)
    return {f"{prefix}{name}": part for name, part in parts.items()}


def take_plan(packet: Packet, protocol: Protocol, feature_dim: int, folder: Path) -> TrainingPlan:
    """Read the plan from a message, or from where this site stores it.

    Args:
        packet: The message.
        protocol: Defines the agreed numbers.
        feature_dim: Channels of the site's features.
        folder: Folder of the run.

    Raises:
        FederationError: If the digest does not match the plan, or a number is out of range.
        LackError: If it was not sent, and this site does not have it.
        DataError: If it cannot be stored.
    """
    digest, was_sent = take_word(packet, PLAN), MEAN_FEATURE in packet.tensors
    if not was_sent:
        packet = Packet(*_recall(folder, PLAN, digest))
        # It may have been stored under other settings.
        check_parts(_SERVER, packet.tensors, plan_parts(feature_dim))
    local = protocol.local
    names = [*local.objective.estimated(local.settings), *local.objective.given(local.settings)]
    agreed = {name: take_float(packet, name) for name in names}
    if any(abs(value) > _LARGEST_NUMBER for value in agreed.values()):
        raise FederationError(f"the server sent the numbers {agreed}, which nothing can use")
    num_steps = take_int(packet, "num_steps", 1, _MOST_STEPS)
    if local.steps is not None and num_steps != local.steps:
        raise FederationError(
            f"the server sent a plan of {num_steps} steps, but the settings say local.steps = "
            f"{local.steps}"
        )
    classes = take_classes(packet) if protocol.teaching else ()
    plan = TrainingPlan(num_steps, packet.tensors[MEAN_FEATURE], agreed, classes)
    if was_sent:
        _keep(folder, PLAN, digest, {MEAN_FEATURE: plan.mean_feature}, plan_numbers(plan))
    return plan


def take_classes(packet: Packet) -> ClassNames:
    """Read the classes that are taught from a message.

    Raises:
        FederationError: If they are not what the server of this version writes.
    """
    try:
        listed = json.loads(take_word(packet, CLASSES))
        found = tuple((name, tuple(names)) for name, names in listed)
    except (ValueError, TypeError, RecursionError) as error:
        raise FederationError(f"the server sent classes that cannot be read: {error}") from error
    check_names(_SERVER, [name for name, _ in found])
    for _, names in found:
        check_names(_SERVER, names)
    return found


def check_names(sender: str, names: Sequence[object]) -> None:
    """Refuse names of classes that are no names, or too many.

    Args:
        sender: The sender, as named at the beginning of the message.
        names: The names.

    Raises:
        FederationError: If there are more than 255, one occurs twice, or one is not printable text
            of at most 200 characters.
    """
    if len(names) > MOST_LABELS:
        raise FederationError(f"{sender} sent {len(names)} classes, more than {MOST_LABELS}")
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise FederationError(f"{sender} sent {shown(name, 80)} as the name of a class")
        if len(name) > _LONGEST_NAME:
            raise FederationError(
                f"{sender} sent the name of a class of {len(name)} characters, more than "
                f"{_LONGEST_NAME}"
            )
        if name in names[:place]:
            raise FederationError(f"{sender} sent the class {shown(name, 80)} twice")


def take_kept_head(
    packet: Packet, protocol: Protocol, feature_dim: int, folder: Path, prefix: str = ""
) -> HeadWeights:
    """Read the head from a message, or from where this site stores it, in float32.

    Args:
        packet: The message.
        protocol: Defines the channels of the codes, and how heads travel.
        feature_dim: Channels of the site's features.
        folder: Folder of the run.
        prefix: Names the start that the head belongs to; empty: it is that of the model.

    Raises:
        FederationError: If the digest does not match the head.
        LackError: If it was not sent, and this site does not have it.
        DataError: If it cannot be stored.
    """
    bundle = f"{prefix}{HEAD_BUNDLE}"
    digest, begin = take_word(packet, bundle), f"{prefix}{HEAD}"
    head = {name: part for name, part in packet.tensors.items() if name.startswith(begin)}
    if head:
        _keep(folder, bundle, digest, head, {})
    else:
        _, head = _recall(folder, bundle, digest)
        # It may have been stored under other settings.
        check_parts(_SERVER, head, kept_head_parts(protocol, feature_dim, prefix))
    return widen_head(take_head({name.removeprefix(prefix): part for name, part in head.items()}))


def _keep(
    folder: Path,
    name: str,
    digest: str,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, int | float | str],
) -> None:
    """Store what the server sent, replacing what it sent before."""
    found = make_bundle(tensors, numbers).digest
    if found != digest:
        raise FederationError(
            f"the server sent a {name} with the digest {found}, but names {shown(digest)}"
        )
    path = _path(folder, name)
    content = save(
        {part: one.contiguous().clone() for part, one in tensors.items()},
        {_NUMBERS: json.dumps(dict(numbers))},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _recall(
    folder: Path, name: str, digest: str
) -> tuple[dict[str, int | float | str], dict[str, Tensor]]:
    """Read the numbers and tensors that the server sent before."""
    try:
        with safe_open(_path(folder, name), framework="pt") as opened:
            tensors = {part: opened.get_tensor(part) for part in opened.keys()}  # noqa: SIM118
            numbers = json.loads(opened.metadata()[_NUMBERS])
        if make_bundle(tensors, numbers).digest == digest:
            return numbers, tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        # Lost or damaged: the server sends it again.
        pass
    raise LackError(f"this site does not have the {name} any more")


def _path(folder: Path, name: str) -> Path:
    return folder / _FOLDER / f"{name}.safetensors"
