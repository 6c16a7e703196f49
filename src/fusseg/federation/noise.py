"""Noise in sums: what one image or one client adds is hidden in it (experimental).

Each client shortens what it adds to a sum, rounds it to whole steps and adds a discrete Gaussian,
before its term is masked. The sum over as many clients as are needed holds noise of the wanted
standard deviation, so that even a server that works together with the other clients cannot subtract
more than their noise (Kairouz et al., 2021, "The Distributed Discrete Gaussian Mechanism").

All exchanges have one noise multiplier z. Within an exchange, part p of sensitivity S has noise of
standard deviation z S / sqrt(a), where the shares a of all parts add up to 1: together they are one
Gaussian mechanism with multiplier z.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, FederationError
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.federation.accounting import needed_multiplier, spent_epsilon
from fusseg.federation.discrete_gaussian import SCALE_BITS, discrete_gaussian
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Protocol, Task, Work
from fusseg.federation.state import Client

SURE = 3.0
"""Counts below as many standard deviations of their noise count as zero."""


@dataclass(frozen=True)
class _Bound:
    """How large what an image adds to a part can be, for each of its positions."""

    share: float
    """Share of the exchange's budget."""
    power: int
    """Power of the length of a feature vector that it grows with."""


_BOUNDS = {
    LLOYD_STEP.name: {"sums": _Bound(0.9, 0), "counts": _Bound(0.1, 0)},
    "moments": {"second": _Bound(0.7, 2), "first": _Bound(0.3, 1)},
    "class-sums": {"counts": _Bound(0.1, 0), "first": _Bound(0.45, 1), "second": _Bound(0.45, 2)},
}
"""Parts that are noised for an image, by exchange. Parts that are missing here depend on the number
of images alone, which is not protected."""


@dataclass(frozen=True)
class Grain:
    """How a part is rounded and noised."""

    step: float
    """Value of one integer."""
    deviation: float
    """Standard deviation of the noise in the sum of as many clients as are needed."""


def noised_exchanges(protocol: Protocol) -> int:
    """Count the exchanges of a run to which noise is added."""
    rounds = range(protocol.first_round, protocol.num_rounds + 1)
    return sum(len(protocol.tasks(number)) for number in rounds)


@dataclass(frozen=True)
class Guarantee:
    """What the noise of a run promises."""

    protects: str
    """`image` or `site`."""
    epsilon: float
    """Of all exchanges together."""
    delta: float
    noise_multiplier: float
    exchanges: int
    """Number of exchanges that it is computed for."""
    assumes: str
    """What the promise rests on, in words."""


def describe_guarantee(protocol: Protocol) -> Guarantee | None:
    """Compute what the noise of a run promises; None without noise.

    Args:
        protocol: The settled rules.

    Raises:
        ConfigError: If `dp-accounting` is missing, or the noise is too weak for the budget.
    """
    privacy = protocol.privacy
    if privacy.noise == "none":
        return None
    assert privacy.noise_multiplier != "auto"
    exchanges = noised_exchanges(protocol) + privacy.spare_exchanges
    epsilon = spent_epsilon(privacy.noise_multiplier, exchanges, privacy.delta)
    if epsilon > privacy.epsilon:
        raise ConfigError(
            f"privacy.epsilon is {privacy.epsilon:g}, but with privacy.noise_multiplier "
            f"{privacy.noise_multiplier:g} {exchanges} exchanges spend {epsilon:.3g}; raise one of "
            "the two"
        )
    return Guarantee(
        privacy.noise,
        epsilon,
        privacy.delta,
        privacy.noise_multiplier,
        exchanges,
        _ASSUMES[privacy.noise],
    )


def settle_noise(protocol: Protocol, config: Config) -> Protocol:
    """Refuse what cannot be noised, and compute the noise that the budget asks for.

    Args:
        protocol: The resolved rules, all other checks passed.
        config: Configuration as written.

    Raises:
        ConfigError: If settings cannot be combined, or `dp-accounting` is missing.
    """
    privacy = protocol.privacy
    if privacy.noise == "none":
        return protocol
    _check(protocol, config)
    if privacy.noise_multiplier != "auto":
        return protocol
    exchanges = noised_exchanges(protocol) + privacy.spare_exchanges
    found = needed_multiplier(privacy.epsilon, exchanges, privacy.delta)
    return replace(protocol, privacy=replace(privacy, noise_multiplier=found))


def grains(
    task: Task, parts: Mapping[str, Part], protocol: Protocol, positions: int, needed: int
) -> dict[str, Grain]:
    """Compute how the parts of an exchange are rounded and noised; empty without noise.

    Args:
        task: The exchange.
        parts: Its parts.
        protocol: What is protected, and how well.
        positions: Positions of one feature map.
        needed: Number of clients without which no sum is learned.
    """
    privacy = protocol.privacy
    if privacy.noise == "none":
        return {}
    assert privacy.noise_multiplier != "auto"
    if privacy.noise == "site":
        averaged = [name for name, part in parts.items() if part.reduce == "mean"]
        size = sum(_size(parts[name]) for name in averaged)
        grain = _grain(privacy.update_norm, 1.0, size, privacy.noise_multiplier, needed)
        return dict.fromkeys(averaged, grain)
    return {
        name: _grain(
            _largest(task, name, protocol, positions),
            bound.share,
            _size(parts[name]),
            privacy.noise_multiplier,
            needed,
        )
        for name, bound in _BOUNDS[task.name].items()
    }


def measure(task: Task, work: Work, parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Compute the parts that a client sends, shortened where they are noised.

    Args:
        task: The exchange.
        work: The client's images and model.
        parts: The parts of an update.
    """
    kind = work.protocol.privacy.noise
    if kind == "image":
        return _sum_images(task, work, parts)
    measured = task.measure(work)
    if kind == "none":
        return measured
    return shorten_change(measured, parts, work.protocol.privacy.update_norm)


def add_noise(value: Float[Tensor, "*_"], grain: Grain, most: float) -> Int64[Tensor, "*_"]:
    """Round a part to whole steps, and add this client's noise.

    Args:
        value: The part, shortened.
        grain: Its step.
        most: Largest absolute value, in steps, for which no sum can overflow.

    Raises:
        FederationError: If a number is beyond the bound.
    """
    steps = (value.double() / grain.step).round()
    if not bool((steps.abs() < most).all()):
        raise FederationError(
            "a number is too large to be summed with noise; raise privacy.epsilon, or lower "
            "privacy.feature_norm"
        )
    drawn = torch.from_numpy(discrete_gaussian(value.numel())).reshape(value.shape)
    return steps.to(torch.int64) + drawn


def settle_total(
    values: Mapping[str, Tensor], parts: Mapping[str, Part], found: Mapping[str, Grain]
) -> dict[str, Tensor]:
    """Make sums with noise plausible again, which uses nothing but the sums.

    Counts are rounded, and are zero where the noise could have made them; sums of what was not
    counted are zero, too.

    Args:
        values: Sums, as numbers.
        parts: The parts.
        found: Which of them hold noise.
    """
    settled = dict(values)
    for name, grain in found.items():
        if not parts[name].dtype.is_floating_point:
            sure = values[name] >= SURE * grain.deviation
            settled[name] = torch.where(sure, values[name].round(), 0.0).to(torch.int64)
    if "counts" in found:
        empty = settled["counts"] == 0
        for name in ("sums", "first"):
            if name in settled and settled[name].ndim == 2:
                settled[name] = settled[name].masked_fill(empty[:, None], 0.0)
    return settled


def _grain(largest: float, share: float, size: int, multiplier: float, needed: int) -> Grain:
    """Choose the step for which draws of the fixed scale have the wanted deviation.

    Rounding can add half a step to each number on both sides, so that the sensitivity is
    `largest` + sqrt(size) steps.
    """
    spread = 2**SCALE_BITS * math.sqrt(needed * share)
    step = multiplier * largest / (spread - multiplier * math.sqrt(size))
    if step <= 0:
        raise ConfigError(
            f"privacy.epsilon asks for noise of {multiplier:.3g} sensitivities, which is more than "
            "sums can hold; raise it"
        )
    return Grain(step, step * 2**SCALE_BITS * math.sqrt(needed))


def _largest(task: Task, name: str, protocol: Protocol, positions: int) -> float:
    """Compute the length to which an image's part of a sum is shortened."""
    bound, privacy = _BOUNDS[task.name][name], protocol.privacy
    if task.name != "class-sums":
        positions = min(protocol.positions_per_image or positions, positions)
    return float(privacy.clip * positions * privacy.feature_norm**bound.power)


def _sum_images(task: Task, work: Work, parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Sum the parts of single images, each shortened."""
    height, width, _ = work.client.features.map_shape
    sums = {
        name: torch.zeros([side or 0 for side in part.shape], dtype=torch.float64)
        for name, part in parts.items()
    }
    noised = _BOUNDS[task.name]
    for single in _single_images(task, work.client):
        for name, value in task.measure(replace(work, client=single)).items():
            added = value.double()
            if name in noised:
                most = _largest(task, name, work.protocol, height * width)
                added = added * min(1.0, most / max(float(added.norm()), 1e-300))
            sums[name] += added
    return {
        name: value if name in noised else value.to(parts[name].dtype)
        for name, value in sums.items()
    }


def _single_images(task: Task, client: Client) -> Iterator[Client]:
    """View each image of a client as a client; where classes are summed, each labeled image."""
    if task.name == "class-sums":
        labeled = client.labeled
        for image in range(0 if labeled is None else len(labeled.features)):
            assert labeled is not None
            yield replace(
                client,
                labeled=LabeledFeatures(
                    labeled.features.pick(np.array([image])),
                    labeled.labels[image : image + 1],
                    labeled.classes,
                ),
            )
        return
    for image in range(len(client.features)):
        # With a name of its own, so that the codes of each image are kept between steps.
        name = f"{client.client_id}/{image}"
        yield replace(client, client_id=name, features=client.features.pick(np.array([image])))


def shorten_change(
    measured: Mapping[str, Tensor], parts: Mapping[str, Part], most: float
) -> dict[str, Tensor]:
    """Shorten a client's change of all averaged parts together.

    Args:
        measured: The parts after training.
        parts: The parts, with their start.
        most: Largest length of the change.
    """
    changes = {}
    for name, part in parts.items():
        assert part.start is not None
        changes[name] = measured[name].double() - part.start.double()
    length = math.sqrt(sum(float(change.square().sum()) for change in changes.values()))
    factor = min(1.0, most / max(length, 1e-300))
    shortened = {}
    for name, change in changes.items():
        start = parts[name].start
        assert start is not None
        shortened[name] = (start.double() + factor * change).to(parts[name].dtype)
    return shortened


def _size(part: Part) -> int:
    return math.prod(side or 1 for side in part.shape)


def _check(protocol: Protocol, config: Config) -> None:
    """Refuse settings with which something would be sent without noise.

    Raises:
        ConfigError: If there is such a setting.
    """
    privacy, local = protocol.privacy, protocol.local
    names = {
        task.name
        for number in range(protocol.first_round, protocol.num_rounds + 1)
        for task in protocol.tasks(number)
    }
    unknown = sorted(names - (_BOUNDS.keys() if privacy.noise == "image" else {"train"}))
    needs_norm = bool(names & {"moments", "class-sums"})
    reasons = {
        "privacy.secure_sum is false, but only sums can be noised; set it to true": (
            not privacy.secure_sum
        ),
        f"the run has the exchanges {', '.join(unknown)}, which cannot be noised; {_REMEDY}": (
            bool(unknown)
        ),
        "privacy.feature_norm is 0; give the length of a typical feature vector, measured on "
        "images that need no protection": (
            privacy.noise == "image" and needs_norm and not privacy.feature_norm
        ),
        f"federation.weights is {protocol.weights!r}, which depends on images; set it to "
        "'equal'": privacy.noise == "site" and protocol.weights != "equal",
        f"federation.strategy {protocol.strategy_name!r} sends centroids that no sum hides; choose "
        "'fedavg'": privacy.noise == "site" and not protocol.strategy.averages_centroids,
        "local.objective estimates numbers from the images; give them in the configuration": (
            protocol.strategy.trains and bool(local.objective.estimated(local.settings))
        ),
        f"data.crops is {config.data.crops!r}, with which one image is several; set it to 'none'": (
            privacy.noise == "image" and config.data.crops != "none"
        ),
        "backbone.center is true, but mean features are not told; set it to false": (
            config.backbone.center is True
        ),
        "clients keep parts of the model to themselves; set federation.aggregate_heads and "
        "federation.aggregate_centroids to true": protocol.keeps_own_models,
    }
    for reason, found in reasons.items():
        if found:
            raise ConfigError(f"privacy.noise is {privacy.noise!r}, but {reason}")


_ASSUMES = {
    "image": (
        "an image is replaced by one that adds nothing; numbers of images are told, and images of "
        "one scene are not one image; of the sites in a sum, at most those beyond the number that "
        "privacy.threshold asks for work with the server"
    ),
    "site": (
        "all images of a site are replaced by such that do not move the model; numbers of images "
        "are told; of the sites in a sum, at most those beyond the number that privacy.threshold "
        "asks for work with the server"
    ),
}
_REMEDY = (
    "with 'image', use federation.strategy 'pca' with model.init 'pca', model.whitening 0, "
    "federation.keep 'last', no merging, and a teach.shrinkage; with 'site', 'fedavg' with "
    "model.init 'random' and federation.keep 'last'"
)
