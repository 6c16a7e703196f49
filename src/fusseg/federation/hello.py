"""The exchange before round 1: the sites' hellos, and the plan made from them."""

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.randomness import round_generator
from fusseg.core.version import VERSION
from fusseg.federation.protocol import Protocol
from fusseg.federation.state import Client, Hello, HelloTotal, OpenHello
from fusseg.federation.teaching import agree_on_classes, check_classes
from fusseg.federation.weights import bounded_counts
from fusseg.segmentation.objective import LocalTraining, Numbers
from fusseg.segmentation.training import ClassNames, TrainingPlan

MOST_TIMES_MEDIAN = 10
"""Limit of the steps per round, in multiples of the median client's steps. No client can make all
others work for images that only it has."""


def say_hello(client: Client, protocol: Protocol, *, center: bool) -> Hello:
    """Make one client's hello (method section 2).

    The objective's numbers are estimated before the global mean feature is known, so the client's
    own mean is used instead.

    Args:
        client: The answering client.
        protocol: The objective, which may need estimates, and the seed.
        center: Whether the mean feature is subtracted before computing cosines.
    """
    features, local = client.features, protocol.local
    total = features.feature_sum()
    own_mean = _mean(total, features.feature_count, center=center)
    generator = round_generator(protocol.seed, 0, client.client_id)
    return Hello(
        client_id=client.client_id,
        num_images=len(features),
        feature_sum=total,
        feature_count=features.feature_count,
        numbers=_as_floats(local.objective.estimate(features, own_mean, local, generator)),
        fingerprint=features.fingerprint,
        version=VERSION,
        feature_spread=features.feature_spread(),
        classes=() if client.labeled is None else client.labeled.classes,
    )


def say_open_hello(client: Client) -> OpenHello:
    """Make the part of a client's hello that no sum hides."""
    classes = () if client.labeled is None else client.labeled.classes
    return OpenHello(client.client_id, client.features.fingerprint, VERSION, classes)


def check_same_backbone(hello: Hello | OpenHello, fingerprint: str) -> None:
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


def agree(
    hellos: Sequence[Hello],
    protocol: Protocol,
    fingerprint: str,
    *,
    center: bool,
    joined: Mapping[str, str] | None = None,
) -> TrainingPlan:
    """Make the plan shared by all clients: steps per round, mean feature, agreed numbers.

    Args:
        hellos: One per client, in any order.
        protocol: Steps or epochs, the objective, and the largest weight of one client.
        fingerprint: Fingerprint of the server's backbone.
        center: Whether the mean feature is subtracted before computing cosines.
        joined: Names of classes by other names that clients use for them.

    Raises:
        FederationError: If no client answered, a client has another backbone or version, or classes
            are to be taught and there are none.
    """
    if not hellos:
        raise FederationError("no client answered the hello")
    hellos = sorted(hellos, key=lambda hello: hello.client_id)
    for hello in hellos:
        check_same_backbone(hello, fingerprint)
    images = [hello.num_images for hello in hellos]
    counts = bounded_counts(images, protocol.max_weight_share)
    # A client weighted by fewer images than it has contributes a part of its sum.
    parts = [count / hello.num_images for count, hello in zip(counts, hellos, strict=True)]
    sums = [hello.feature_sum * part for hello, part in zip(hellos, parts, strict=True)]
    count = sum(hello.feature_count * part for hello, part in zip(hellos, parts, strict=True))
    return TrainingPlan(
        num_steps=local_steps(protocol.local, images),
        mean_feature=_mean(torch.stack(sums).sum(dim=0), count, center=center),
        agreed=_agree_on_numbers(hellos, counts, protocol.local),
        classes=_agree_on_classes(
            {hello.client_id: hello.classes for hello in hellos}, protocol, joined or {}
        ),
    )


def agree_on_total(
    total: HelloTotal,
    protocol: Protocol,
    *,
    center: bool,
    joined: Mapping[str, str] | None = None,
) -> TrainingPlan:
    """Make the plan from sums alone; epochs are passes over a client of average size.

    Args:
        total: The sums of the clients' hellos.
        protocol: Steps or epochs, and the objective.
        center: Whether the mean feature is subtracted before computing cosines.
        joined: Names of classes by other names that clients use for them.

    Raises:
        FederationError: If classes are to be taught and there are none.
    """
    local = protocol.local
    given = local.objective.given(local.settings)
    return TrainingPlan(
        num_steps=local_steps(local, [total.num_images // len(total.classes_of)]),
        mean_feature=_mean(total.feature_sum, total.feature_count, center=center),
        agreed=_as_floats({**total.numbers, **given}),
        classes=_agree_on_classes(total.classes_of, protocol, joined or {}),
    )


def local_steps(local: LocalTraining, images: Sequence[int]) -> int:
    """Return the steps per round: as configured, or epochs of the largest client; at least one.

    Args:
        local: Steps or epochs, and the batch size.
        images: Number of images of each client. The steps are at most `MOST_TIMES_MEDIAN` times
            those of the median client (of two, the smaller).
    """
    if local.steps is not None:
        return local.steps
    return min(
        _steps_over(local, max(images)), MOST_TIMES_MEDIAN * _steps_over(local, median_low(images))
    )


def _steps_over(local: LocalTraining, images: int) -> int:
    epochs = 1.0 if local.epochs is None else local.epochs
    return max(1, int(epochs * (images // local.batch_size)))


def _agree_on_numbers(
    hellos: Sequence[Hello], counts: Sequence[int], local: LocalTraining
) -> Numbers:
    """Combine the clients' estimates, and add the numbers given by the configuration."""
    objective, wanted = local.objective, local.objective.estimated(local.settings)
    for hello in hellos:
        if hello.numbers.keys() != wanted.keys():
            raise FederationError(
                f"client {hello.client_id!r} sent the numbers {sorted(hello.numbers)}, expected "
                f"{sorted(wanted)}"
            )
    combined = objective.combine([hello.numbers for hello in hellos], counts) if wanted else {}
    if combined.keys() != wanted.keys():
        raise FederationError(
            f"the objective combined the clients' numbers to {sorted(combined)}, expected "
            f"{sorted(wanted)}; its combine must return the numbers that its estimated names"
        )
    return _as_floats({**combined, **objective.given(local.settings)})


def _agree_on_classes(
    classes_of: Mapping[str, tuple[str, ...]], protocol: Protocol, joined: Mapping[str, str]
) -> ClassNames:
    if not protocol.teaching:
        return ()
    classes = agree_on_classes(classes_of, joined)
    check_classes(classes, protocol.teach, protocol.num_clusters)
    return classes


def _as_floats(numbers: Mapping[str, SupportsFloat]) -> Numbers:
    """Convert integers and NumPy numbers, which an objective may return, to floats."""
    return {name: float(number) for name, number in numbers.items()}


def _mean(
    total: Float[Tensor, " dim"], count: int | float, *, center: bool
) -> Float[Tensor, " dim"]:
    return (total / count).float() if center else torch.zeros(len(total))


def far_clients(hellos: Sequence[Hello], most: float) -> dict[str, float]:
    """Find the clients with a mean feature too far from the others', farthest first.

    After each one found, the distances of the others are computed again without it.

    Args:
        hellos: One per client.
        most: Largest allowed distance, as computed by `mean_distances`; 0: any.

    Returns:
        Distance by client; empty if no client is too far.
    """
    far: dict[str, float] = {}
    kept = sorted(hellos, key=lambda hello: hello.client_id)
    while most > 0 and len(kept) > 1:
        distances = mean_distances(kept)
        place = max(range(len(kept)), key=distances.__getitem__)
        if distances[place] <= most:
            break
        far[kept[place].client_id] = distances[place]
        del kept[place]
    return far


def mean_distances(hellos: Sequence[Hello]) -> list[float]:
    """Compute the distance of each client's mean feature from the median of all.

    The median is taken channel by channel, and the unit is the median spread of the clients'
    features. Fewer than half of the clients cannot move either one far, whatever they send. With
    two clients, each is compared with the other.

    Args:
        hellos: At least two.
    """
    means = torch.stack([hello.feature_sum / hello.feature_count for hello in hellos])
    spreads = [hello.feature_spread for hello in hellos]
    if len(hellos) == 2:
        return [_distance(means[0], means[1], spread) for spread in reversed(spreads)]
    # Per channel: the middle value or, for an even number of clients, the mean of the middle two.
    center = means.quantile(0.5, dim=0)
    return [_distance(mean, center, median_low(spreads)) for mean in means]


def _distance(mean: Float[Tensor, " dim"], center: Float[Tensor, " dim"], spread: float) -> float:
    length = float((mean - center).norm())
    # If all images are of one uniform color, there is no unit to measure distances in.
    return length / spread if spread > 0 else 0.0
