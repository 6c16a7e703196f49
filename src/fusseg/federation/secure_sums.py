"""Terms of sums: what a client adds to a sum, and what the server reads from the sum.

A term is one row of integers: all parts of an update that are summed or averaged, multiplied by the
client's weight where they are averaged, and the client's number of images, weight and loss. Sums of
integers are the same bits in any order, whether the terms were masked or not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from jaxtyping import Int64
from torch import Tensor

from fusseg.config.schema import Config, Weights
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.fixed_point import (
    join_parts,
    most_of,
    split_parts,
    to_integers,
    to_numbers,
)
from fusseg.federation.noise import Grain, add_noise, grains, settle_total
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Protocol, Task
from fusseg.federation.state import ClientUpdate, Hello, HelloTotal, Total
from fusseg.federation.weights import FIT, client_weight
from fusseg.segmentation.objective import average_numbers

_IMAGES, _WEIGHT, _LOSS = "/images", "/weight", "/loss"
_COUNT, _SUM, _NUMBER = "/count", "/sum", "/number."
"""Names of what is added besides the parts; names of parts contain no slash."""


def sites_needed(threshold: float, sites: int) -> int:
    """Count the sites without which no sum is learned: more than half of them, and two at least.

    >>> [sites_needed(2 / 3, sites) for sites in (1, 2, 3, 18)]
    [2, 2, 2, 12]
    >>> sites_needed(0.5001, 4)
    3

    Args:
        threshold: Share of all sites, as in `privacy.threshold`.
        sites: Number of all sites.
    """
    share = Fraction(threshold).limit_denominator(1000)
    return max(2, sites // 2 + 1, math.ceil(share * sites))


def open_parts(parts: Mapping[str, Part]) -> dict[str, Part]:
    """List the parts of an update that no sum hides, because the server needs each client's."""
    # How well codes fit enters the weight at the client and is not sent.
    return {name: part for name, part in parts.items() if part.reduce == "collect" and name != FIT}


def check_secure_sum(config: Config, protocol: Protocol) -> None:
    """Refuse settings with which the server would need more than sums.

    Args:
        config: Configuration as written.
        protocol: Its rules, all other checks passed.

    Raises:
        ConfigError: If there is such a setting.
    """
    if not protocol.privacy.secure_sum:
        return
    federation, name = config.federation, protocol.strategy_name
    reasons = {
        f"federation.strategy {name!r} is a baseline on one machine, which sends nothing; choose "
        "another strategy": protocol.strategy.baseline,
        f"federation.max_weight_share is {federation.max_weight_share}, but a hidden weight cannot "
        "be bounded; set it to 'auto' or 1": (protocol.max_weight_share < 1),
        f"federation.wire is {federation.wire!r}, but masked numbers take 8 bytes each; set it to "
        "'float32'": federation.wire != "float32",
        f"federation.centroid_weights is {federation.centroid_weights!r}, but a term has one "
        "weight; remove it": protocol.centroid_weights != protocol.weights,
        "federation.site_clusters is 'used', which tells the regions of each client; set it to "
        "'all'": protocol.site_clusters != "all",
        f"local.objective {config.local.objective!r} combines the clients' numbers by a rule of "
        "its own, but only averages are sums; give its numbers in the configuration, or choose "
        "another objective": (
            bool(protocol.local.objective.estimated(protocol.local.settings))
            and protocol.local.objective.combine is not average_numbers
        ),
    }
    for reason, found in reasons.items():
        if found:
            raise ConfigError(f"privacy.secure_sum is set, but {reason}")


def hides_only_heads(protocol: Protocol) -> bool:
    """Tell whether the server needs each client's centroids, so that sums hide only the heads."""
    strategy = protocol.strategy
    sends = strategy.trains and strategy.uses_centroids and protocol.aggregate_centroids
    return protocol.privacy.secure_sum and sends and not strategy.averages_centroids


def term_shapes(parts: Mapping[str, Part], task: Task) -> dict[str, tuple[int, ...]]:
    """List what a term consists of, in the order of its names.

    Args:
        parts: The parts of an update.
        task: The exchange.
    """
    names = (_IMAGES, _WEIGHT, _LOSS) if task.trains else (_IMAGES, _WEIGHT)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, ())
    for name, part in parts.items():
        if part.reduce != "collect":
            shapes[name] = tuple(side or 0 for side in part.shape)
    return shapes


@dataclass(frozen=True)
class SumRules:
    """What all terms of a sum have in common."""

    parts: Mapping[str, Part]
    """The parts of an update."""
    task: Task
    """The exchange."""
    protocol: Protocol
    """Weights, resolution and noise."""
    grains: Mapping[str, Grain] = field(default_factory=dict)
    """How parts are rounded and noised; those that are missing are rounded to the resolution."""


def rules_of_sum(
    task: Task, parts: Mapping[str, Part], protocol: Protocol, positions: int, needed: int
) -> SumRules:
    """List what all terms of a sum have in common.

    Args:
        task: The exchange.
        parts: The parts of an update.
        protocol: Weights, resolution and noise.
        positions: Positions of one feature map.
        needed: Number of clients without which no sum is learned.
    """
    return SumRules(parts, task, protocol, grains(task, parts, protocol, positions, needed))


def make_term(update: ClientUpdate, rules: SumRules, terms: int) -> Int64[Tensor, " numbers"]:
    """Turn an update into the client's term.

    Args:
        update: The client's update.
        rules: What all terms have in common.
        terms: Largest number of terms of the sum, which must not overflow.

    Raises:
        FederationError: If a number is too large for the sum.
    """
    parts, protocol = rules.parts, rules.protocol
    weight = client_weight(update, _weights(parts, protocol))
    scaled: dict[str, Tensor] = {
        _IMAGES: torch.tensor(update.num_images),
        _WEIGHT: torch.tensor(weight),
    }
    if update.loss is not None:
        # With noise the loss is not sent: it depends on every image.
        loss = 0.0 if rules.grains else update.num_images * update.loss
        scaled[_LOSS] = torch.tensor(loss, dtype=torch.float64)
    for name, part in parts.items():
        if part.reduce == "mean":
            scaled[name] = weight * update.parts[name].double()
        elif part.reduce == "sum":
            scaled[name] = update.parts[name]
    most = most_of(0, terms)
    noised = {name: add_noise(scaled.pop(name), one, most) for name, one in rules.grains.items()}
    return join_parts({**_round(scaled, protocol, terms), **noised})


def read_total(
    row: Int64[Tensor, " numbers"],
    client_ids: Sequence[str],
    collected: Mapping[str, Mapping[str, Tensor]],
    rules: SumRules,
) -> Total:
    """Read what a sum of terms says.

    Args:
        row: Sum of the terms.
        client_ids: The clients whose terms it holds.
        collected: Parts that were not summed, by client.
        rules: What all terms have in common.

    Raises:
        FederationError: If the sum of the weights is not positive.
    """
    parts, task, resolution = rules.parts, rules.task, rules.protocol.privacy.resolution
    found = split_parts(row, term_shapes(parts, task))
    images, weight = int(found[_IMAGES]), int(found[_WEIGHT])
    if images < 1 or weight < 1:
        raise FederationError(
            f"the sum over {len(client_ids)} clients holds {images} images and a weight of "
            f"{weight}; both must be at least 1, so a client has sent a wrong term"
        )
    summed = {name: part for name, part in parts.items() if part.reduce != "collect"}
    values: dict[str, Tensor] = {}
    for name, part in summed.items():
        value = found[name]
        if name in rules.grains:
            value = value.double() * rules.grains[name].step
        elif part.reduce == "mean" or part.dtype.is_floating_point:
            value = to_numbers(value, resolution)
        # Integers stay in 64 bits, and sums in float64, as in sums of the clients' own numbers.
        values[name] = (value / weight).to(part.dtype) if part.reduce == "mean" else value
    loss = None
    if task.trains and not rules.grains:
        loss = float(to_numbers(found[_LOSS], resolution)) / images
    values = settle_total(values, parts, rules.grains)
    return Total(tuple(sorted(client_ids)), images, loss, values, collected)


def hello_shapes(protocol: Protocol, dim: int) -> dict[str, tuple[int, ...]]:
    """List what the term of a hello consists of.

    Args:
        protocol: The objective, which may need estimates of the clients.
        dim: Channels of the features.
    """
    local = protocol.local
    numbers = [f"{_NUMBER}{name}" for name in local.objective.estimated(local.settings)]
    return {_SUM: (dim,), **dict.fromkeys((_IMAGES, _COUNT, *numbers), ())}


def make_hello_term(hello: Hello, protocol: Protocol, terms: int) -> Int64[Tensor, " numbers"]:
    """Turn a hello into the client's term, if no later sum can overflow.

    Args:
        hello: The client's hello.
        protocol: Resolution, and the objective's estimates.
        terms: Number of terms of the sum.

    Raises:
        FederationError: If sums over the client's features could be too large.
    """
    # What is noised is rounded to steps of its own, and checked then.
    if protocol.privacy.noise == "none":
        _check_range(hello, protocol, terms)
    total = hello.feature_sum.double()
    scaled: dict[str, Tensor] = {
        _IMAGES: torch.tensor(hello.num_images),
        _COUNT: torch.tensor(hello.feature_count),
        _SUM: total if protocol.privacy.noise == "none" else torch.zeros_like(total),
    }
    for name, number in hello.numbers.items():
        scaled[f"{_NUMBER}{name}"] = torch.tensor(hello.num_images * number, dtype=torch.float64)
    return join_parts(_round(scaled, protocol, terms))


def read_hello_total(
    row: Int64[Tensor, " numbers"],
    classes_of: Mapping[str, tuple[str, ...]],
    protocol: Protocol,
    dim: int,
) -> HelloTotal:
    """Read what a sum of hellos says.

    Args:
        row: Sum of the terms.
        classes_of: Names of each client's classes, by client.
        protocol: Resolution, and the objective's estimates.
        dim: Channels of the features.

    Raises:
        FederationError: If it holds fewer than two images or positions for each client.
    """
    found = split_parts(row, hello_shapes(protocol, dim))
    images, count = int(found[_IMAGES]), int(found[_COUNT])
    if min(images, count) < 2 * len(classes_of):
        raise FederationError(
            f"the sum of the hellos of {len(classes_of)} clients holds {images} images with "
            f"{count} positions; each client has at least 2, so a client has sent a wrong term"
        )
    numbers = {
        name.removeprefix(_NUMBER): float(to_numbers(value, protocol.privacy.resolution)) / images
        for name, value in found.items()
        if name.startswith(_NUMBER)
    }
    total = to_numbers(found[_SUM], protocol.privacy.resolution)
    return HelloTotal(dict(sorted(classes_of.items())), images, total, count, numbers)


def sum_hellos(hellos: Sequence[Hello], protocol: Protocol) -> HelloTotal:
    """Add up the hellos of clients in this process, as a server with secure sums learns them.

    Raises:
        FederationError: If there is one client, or sums over its features could be too large.
    """
    if len(hellos) < sites_needed(protocol.privacy.threshold, len(hellos)):
        raise FederationError(
            "privacy.secure_sum is set, but there is only one client: the sum would be its term; "
            "set it to false"
        )
    dim = len(hellos[0].feature_sum)
    total = torch.stack([make_hello_term(one, protocol, len(hellos)) for one in hellos]).sum(dim=0)
    classes_of = {hello.client_id: hello.classes for hello in hellos}
    return read_hello_total(total, classes_of, protocol, dim)


def _check_range(hello: Hello, protocol: Protocol, terms: int) -> None:
    """Check before round 1 that sums of squared features cannot overflow."""
    mean = hello.feature_sum / hello.feature_count
    squares = hello.feature_spread**2 + float(mean.square().sum())
    positions = hello.feature_count
    if not protocol.teaching and protocol.positions_per_image:
        positions = min(positions, hello.num_images * protocol.positions_per_image)
    most, resolution = most_of(protocol.privacy.resolution, terms), protocol.privacy.resolution
    if positions * squares >= most:
        raise FederationError(
            "sums over the features of this client can become too large: with privacy.resolution "
            f"{resolution} and {terms} clients they must stay below {most:.3g}; lower "
            "privacy.resolution"
        )


def _round(values: Mapping[str, Tensor], protocol: Protocol, terms: int) -> dict[str, Tensor]:
    """Round fractions to the resolution, and leave counts as they are."""
    resolution = protocol.privacy.resolution
    return {
        name: to_integers(value.double(), resolution, most_of(resolution, terms))
        if value.dtype.is_floating_point
        else _check_count(name, value, terms)
        for name, value in values.items()
    }


def _check_count(name: str, value: Tensor, terms: int) -> Tensor:
    most = most_of(0, terms)
    if bool((value.abs() >= most).any()):
        raise FederationError(f"{name} holds a count that is too large for a sum of {terms} terms")
    return value


def _weights(parts: Mapping[str, Part], protocol: Protocol) -> Weights:
    """Return what clients are weighted by in this exchange: only training tells their fit."""
    return "images" if protocol.weights == "uncertainty" and FIT not in parts else protocol.weights
