"""The exchange before round 1: what the sites tell once, and the plan that follows from it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.config import LocalConfig
from fusseg.errors import FederationError
from fusseg.federation.client import Client
from fusseg.federation.state import Hello
from fusseg.randomness import round_generator
from fusseg.segmentation.shifts import Shift, automatic_shift
from fusseg.segmentation.training import TrainingPlan
from fusseg.version import VERSION


def say_hello(client: Client, local: LocalConfig, seed: int, *, center: bool) -> Hello:
    """Answer for one client (method section 2).

    The shifts are estimated before the global mean feature is known, with the client's own mean in
    its place.

    Args:
        client: Who answers.
        local: How shifts are estimated, unless it gives them.
        seed: Seed of the experiment.
        center: Whether the mean feature is subtracted before any cosine.
    """
    features = client.features
    total = features.feature_sum()
    shift: Shift | None = None
    if local.shift == "auto":
        own_mean = _mean(total, features.feature_count, center=center)
        generator = round_generator(seed, 0, client.client_id)
        shift = automatic_shift(features, own_mean, local, generator)
    return Hello(
        client_id=client.client_id,
        num_images=len(features),
        feature_sum=total,
        feature_count=features.feature_count,
        shift=shift,
        fingerprint=features.fingerprint,
        version=VERSION,
    )


def agree(
    hellos: Sequence[Hello], local: LocalConfig, fingerprint: str, *, center: bool
) -> TrainingPlan:
    """Settle what is the same for all clients: steps per round, mean feature, shifts.

    Args:
        hellos: One per client, in any order.
        local: Steps or epochs, and shifts where they are given.
        fingerprint: Of the server's backbone.
        center: Whether the mean feature is subtracted before any cosine.

    Raises:
        FederationError: If nobody answered, or a client has another backbone or version.
    """
    if not hellos:
        raise FederationError("no client answered the hello")
    hellos = sorted(hellos, key=lambda hello: hello.client_id)
    for hello in hellos:
        check_same_backbone(hello, fingerprint)
    total = torch.stack([hello.feature_sum for hello in hellos]).sum(dim=0)
    count = sum(hello.feature_count for hello in hellos)
    return TrainingPlan(
        num_steps=local_steps(local, max(hello.num_images for hello in hellos)),
        mean_feature=_mean(total, count, center=center),
        shift=_average_shift(hellos) if local.shift == "auto" else local.shift,
    )


def local_steps(local: LocalConfig, largest: int) -> int:
    """Steps per round: as given, or so many epochs of the largest client, at least one step."""
    if local.steps is not None:
        return local.steps
    epochs = 1.0 if local.epochs is None else local.epochs
    return max(1, int(epochs * (largest // local.batch_size)))


def _average_shift(hellos: Sequence[Hello]) -> Shift:
    total = sum(hello.num_images for hello in hellos)
    averages = [0.0, 0.0, 0.0]
    for hello in hellos:
        if hello.shift is None:
            raise FederationError(
                f"client {hello.client_id!r} sent no shifts, but local.shift is 'auto'"
            )
        for kind, shift in enumerate(hello.shift):
            averages[kind] += hello.num_images * shift / total
    return averages[0], averages[1], averages[2]


def _mean(total: Float[Tensor, " dim"], count: int, *, center: bool) -> Float[Tensor, " dim"]:
    return (total / count).float() if center else torch.zeros(len(total))


def check_same_backbone(hello: Hello, fingerprint: str) -> None:
    """Refuse a client with another backbone or version.

    Raises:
        FederationError: If one differs.
    """
    if hello.fingerprint != fingerprint:
        raise FederationError(
            f"client {hello.client_id!r} has a backbone with fingerprint "
            f"{hello.fingerprint[:16]}, expected {fingerprint[:16]}; give it the same weights"
        )
    if hello.version != VERSION:
        raise FederationError(
            f"client {hello.client_id!r} runs fusseg {hello.version}, expected {VERSION}"
        )
