"""What no honest client can send: bounds that follow from how an update comes about.

An update inside them may still be harmful; one outside was not made by the rounds' own code.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import FederationError
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Hello

ADAM_REACH = (1 - 0.9) / math.sqrt(1 - 0.999)
"""Learning rates by which a step of Adam moves a weight at most (arXiv 1412.6980, 2.1)."""
LARGEST_FEATURE = 65504.0
"""Features are kept as float16."""
MOST_IMAGES = 10_000_000
"""Of one client; more is a slip, or a claim on most of every average."""
_SLACK = 1.01
"""For rounding: of the steps, and of changes that travel as bfloat16."""
_ROUNDING = 1e-5


@dataclass(frozen=True)
class ClientFacts:
    """What a client declared once, before its first round; it holds for the whole run."""

    num_images: int
    positions_per_image: int
    """Positions of one feature map."""


def check_plausible(
    state: GlobalState,
    update: ClientUpdate,
    facts: ClientFacts,
    local: LocalConfig,
    federation: FederationConfig,
) -> None:
    """Refuse an update that cannot come from training, counting and summing as agreed.

    Args:
        state: State the client started from.
        update: Of the right shapes and finite (`check_update`).
        facts: What the client declared.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.

    Raises:
        FederationError: If a weight moved farther than the steps can move it, a sum is longer than
            its count allows, or a count differs from what was declared.
    """
    name = update.client_id
    if update.num_images != facts.num_images:
        raise FederationError(
            f"client {name!r} has {facts.num_images} images by its hello, but sent a count of "
            f"{update.num_images}"
        )
    steps = state.plan.num_steps * ADAM_REACH * _SLACK
    for part, sent in (update.head or {}).items():
        _check_reach(name, part, sent, state.model.head[part], steps * local.head_learning_rate)
    if update.centroids is not None:
        reach = steps * local.centroid_learning_rate
        _check_reach(name, "centroids", update.centroids, state.model.centroids, reach)
    positions = federation.positions_per_image or facts.positions_per_image
    total = facts.num_images * min(positions, facts.positions_per_image)
    if update.usage is not None:
        _check_usage(name, update.usage, total)
    if update.code_sums is not None:
        _check_sums(name, update.code_sums, total)
    if update.moments is not None:
        _check_moments(name, update.moments, total)


def check_hello(hello: Hello, positions_per_image: int) -> None:
    """Refuse a hello whose counts do not fit each other or whose sum no features can have.

    Args:
        hello: Of the right shape and finite.
        positions_per_image: Positions of one feature map.

    Raises:
        FederationError: If a count or the sum is out of bounds.
    """
    name, images = hello.client_id, hello.num_images
    if not 2 <= images <= MOST_IMAGES:
        raise FederationError(
            f"client {name!r} says it has {images} images, must be 2 to {MOST_IMAGES}"
        )
    _check_total(name, "feature_count", hello.feature_count, images * positions_per_image)
    largest = float(hello.feature_sum.abs().max()) / hello.feature_count
    if largest > LARGEST_FEATURE:
        raise FederationError(
            f"client {name!r} sent a sum of features with a mean of {largest:.3g}, features are "
            f"at most {LARGEST_FEATURE:.0f}"
        )


def _check_reach(name: str, part: str, sent: Tensor, start: Tensor, reach: float) -> None:
    farthest = (sent - start).abs() - _ROUNDING * (1 + start.abs())
    if float(farthest.max()) > reach:
        raise FederationError(
            f"client {name!r} sent {part} with a value that moved by {float(farthest.max()):.3g}, "
            f"but the steps of a round can move one by {reach:.3g} at most"
        )


def _check_usage(name: str, usage: CentroidUsage, total: int) -> None:
    _check_total(name, "counts", int(usage.counts.sum()), total)
    if bool((usage.cosines.abs() > 1 + _ROUNDING).any()):
        raise FederationError(
            f"client {name!r} sent a mean cosine of {float(usage.cosines.abs().max()):.3g}, "
            "must be at most 1"
        )


def _check_sums(name: str, found: CodeSums, total: int) -> None:
    _check_total(name, "counts", int(found.counts.sum()), total)
    excess = found.sums.norm(dim=1) - found.counts * (1 + _ROUNDING)
    if float(excess.max()) > _ROUNDING:
        longest = float(found.sums.norm(dim=1).max())
        raise FederationError(
            f"client {name!r} sent a sum of unit codes of length {longest:.3g}, longer than their "
            "number"
        )


def _check_moments(name: str, moments: FeatureMoments, total: int) -> None:
    _check_total(name, "count", int(moments.count), total)
    squares = moments.second.diagonal()
    largest = (squares * moments.count).clamp(min=0).sqrt() * (1 + _ROUNDING) + _ROUNDING
    if bool((squares < 0).any()) or bool((moments.first.abs() > largest).any()):
        raise FederationError(
            f"client {name!r} sent a sum of features that its sum of squares does not allow"
        )


def _check_total(name: str, part: str, sent: int, total: int) -> None:
    if sent != total:
        raise FederationError(
            f"client {name!r} sent {part} of {sent} positions in all, expected {total}"
        )
