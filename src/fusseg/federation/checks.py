"""Checks of what clients send and strategies return: form, and bounds on plausible values.

The bounds follow from how an update is computed. An update outside of them was not made by the
code of the rounds; one inside may still be harmful.
"""

import math
from collections.abc import Container, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.federation.parts import ClientFacts, Part, PartCheck, Parts, check_parts
from fusseg.federation.state import ClientUpdate, Hello
from fusseg.segmentation.objective import Model, check_regions

ADAM_REACH = (1 - 0.9) / math.sqrt(1 - 0.999)
"""Largest step of Adam for one weight, in learning rates (arXiv 1412.6980, 2.1)."""
LARGEST_LOSS = 1e12
"""Normal losses are a few units; the mean of far larger ones could be infinite."""
LARGEST_FEATURE = 65504.0
"""Largest float16, the type that features are stored in."""
MOST_IMAGES = 10_000_000
"""Most images of one client; a larger number is an error, or an attempt to dominate averages."""
_SLACK = 1.01
"""Tolerance for rounding of the steps, and of changes that travel as bfloat16."""
_ROUNDING = 1e-5


def check_first(client_id: str, known: Container[str], round_number: int) -> None:
    """Refuse a second answer of one client in the same exchange.

    Args:
        client_id: The answering client.
        known: Clients that have already answered.
        round_number: Number of the current round.

    Raises:
        FederationError: If the client has already answered.
    """
    if client_id in known:
        raise FederationError(
            f"client {client_id!r} answered more than once in round {round_number}"
        )


def check_update(update: ClientUpdate, parts: Mapping[str, Part]) -> None:
    """Refuse a client's update that does not have the expected form.

    Args:
        update: The client's update.
        parts: The parts it has to contain.

    Raises:
        FederationError: If the client has no image, its loss is not finite, or a tensor is missing,
            has another shape or dtype, is not finite, or is a negative count.
    """
    if update.num_images < 1:
        raise FederationError(
            f"client {update.client_id!r} must have trained on at least 1 image, "
            f"got {update.num_images}"
        )
    if update.loss is not None and not math.isfinite(update.loss):
        raise FederationError(
            f"client {update.client_id!r} sent a loss that is not finite, got {update.loss}"
        )
    check_parts(f"client {update.client_id!r}", update.parts, parts)


def check_centroids(
    strategy: str, found: object, expected: Float[Tensor, "clusters code"]
) -> Float[Tensor, "clusters code"]:
    """Return the centroids that a strategy returned, or refuse them if they are invalid.

    Args:
        strategy: Name of the strategy.
        found: The value it returned.
        expected: The centroids to replace, of the right shape and dtype.

    Raises:
        FederationError: If the value is not a tensor, has another shape or dtype, or is not finite.
    """
    wanted = (
        f"return a {expected.dtype} tensor of {len(expected)} x {expected.shape[1]} "
        "(model.num_clusters x model.code_dim), all values finite"
    )
    begin = f"federation.strategy {strategy!r} returned"
    if not isinstance(found, Tensor):
        raise FederationError(f"{begin} a value of type {type(found).__name__}; {wanted}")
    if found.shape != expected.shape:
        raise FederationError(f"{begin} a tensor of shape {tuple(found.shape)}; {wanted}")
    if found.dtype != expected.dtype:
        raise FederationError(f"{begin} a tensor of {found.dtype}; {wanted}")
    if not bool(found.isfinite().all()):
        raise FederationError(f"{begin} values that are not finite; {wanted}")
    return found


def check_model(strategy: str, found: object, expected: Model, num_clusters: int) -> None:
    """Refuse an invalid model that a strategy returned.

    Args:
        strategy: Name of the strategy.
        found: The value it returned.
        expected: The model to replace: of the right names and dtypes, with a head of the right
            shapes.
        num_clusters: Number of centroids that the model must have.

    Raises:
        FederationError: If the value is not a model, a tensor of it is missing, has another shape
            or dtype, or is not finite, or its regions are not numbered from 0 without gaps.
    """
    begin = f"federation.strategy {strategy!r} returned"
    if not isinstance(found, Model):
        raise FederationError(f"{begin} a value of type {type(found).__name__}; return a Model")
    if found.head.keys() != expected.head.keys():
        raise FederationError(
            f"{begin} a head of {sorted(found.head)}; return one of {sorted(expected.head)}"
        )
    for name, weight in expected.head.items():
        made = found.head[name]
        if made.shape != weight.shape or made.dtype != weight.dtype:
            raise FederationError(
                f"{begin} head.{name} of {tuple(made.shape)} and {made.dtype}; return "
                f"{tuple(weight.shape)} and {weight.dtype}"
            )
        if not bool(made.isfinite().all()):
            raise FederationError(f"{begin} head.{name} with values that are not finite")
    rows = expected.centroids[:1].expand(num_clusters, -1)
    check_centroids(strategy, found.centroids, rows)
    if found.region_of is not None:
        try:
            check_regions(found.region_of, len(found.centroids))
        except ValueError as error:
            raise FederationError(f"{begin} {error}") from error


def check_plausible(update: ClientUpdate, parts: Mapping[str, Part], facts: ClientFacts) -> None:
    """Refuse an update that cannot result from training, counting and summing as agreed.

    Args:
        update: An update that passed `check_update`.
        parts: Its parts, each with its own check.
        facts: What the client declared.

    Raises:
        FederationError: If a count differs from the declared one, or a part's check refuses it.
    """
    name = update.client_id
    if update.num_images != facts.num_images:
        raise FederationError(
            f"client {name!r} declared {facts.num_images} images in its hello, but sent a count of "
            f"{update.num_images}"
        )
    wrong = find_implausible(update.loss, update.parts, parts, facts)
    if wrong is not None:
        raise FederationError(f"client {name!r} sent {wrong}")


def find_implausible(
    loss: float | None, sent: Parts, parts: Mapping[str, Part], facts: ClientFacts
) -> str | None:
    """Say what cannot result from training, counting and summing as agreed; None: nothing.

    Args:
        loss: The loss, if there is one.
        sent: Tensors by name: of one client, or the sums over several.
        parts: The parts, each with its own check.
        facts: What the client or all of them declared.
    """
    if loss is not None and abs(loss) > LARGEST_LOSS:
        return f"a loss of {loss:.3g}; it must lie in [-{LARGEST_LOSS:.0e}, {LARGEST_LOSS:.0e}]"
    found = (part.check(sent, facts) for part in parts.values())
    return next((wrong for wrong in found if wrong is not None), None)


def within_reach(name: str, start: Tensor, steps: int, learning_rate: float) -> PartCheck:
    """Check that no value moved farther than the steps of Adam can move it.

    Args:
        name: Name of the part.
        start: The part at the start of training.
        steps: Number of steps of the round.
        learning_rate: Learning rate of the part.
    """
    reach = steps * ADAM_REACH * _SLACK * learning_rate

    def check(parts: Parts, _facts: ClientFacts) -> str | None:
        farthest = float(((parts[name] - start).abs() - _ROUNDING * (1 + start.abs())).max())
        if farthest <= reach:
            return None
        return (
            f"{name} with a value that moved by {farthest:.3g}, but the steps of a round can move "
            f"a value by at most {reach:.3g}"
        )

    return check


def counts_of_positions(name: str, positions_per_image: int) -> PartCheck:
    """Check that counts add up to the client's number of sampled positions.

    Args:
        name: Name of the part.
        positions_per_image: Positions sampled in each image; 0: all.
    """

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        counts, total = parts[name], sampled_positions(facts, positions_per_image)
        # Check each count first: the sum of huge numbers can overflow 2^63 and look right.
        if bool((counts > total).any()):
            return f"a count of {int(counts.max())} positions, but has only {total}"
        return _wrong_total(name, int(counts.sum()), total)

    return check


def cosines_only(name: str) -> PartCheck:
    """Check that all values are cosines."""

    def check(parts: Parts, _facts: ClientFacts) -> str | None:
        largest = float(parts[name].abs().max())
        if largest <= 1 + _ROUNDING:
            return None
        return f"a mean cosine of {largest:.3g}; it must be at most 1"

    return check


def number_within(name: str, least: float, most: float) -> PartCheck:
    """Check an estimated number."""

    def check(parts: Parts, _facts: ClientFacts) -> str | None:
        found = float(parts[name])
        if least <= found <= most:
            return None
        return f"{name} of {found}, which must be {least} to {most}"

    return check


def sums_of_unit_codes(name: str, counts: str) -> PartCheck:
    """Check that no sum of unit codes is longer than the number of codes.

    Args:
        name: Name of the part with the sums.
        counts: Name of the part with the numbers of codes.
    """

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        lengths = parts[name].norm(dim=1)
        slack = _ROUNDING + facts.rounding * math.sqrt(parts[name].shape[1])
        if float((lengths - parts[counts] * (1 + _ROUNDING)).max()) <= slack:
            return None
        return (
            f"a sum of unit codes of length {float(lengths.max()):.3g}, which is longer than the "
            "number of codes"
        )

    return check


def borders_of_clusters(name: str) -> PartCheck:
    """Check that counts of neighbors are alike in both directions, and no more than there are.

    Args:
        name: Name of the part with a count for each pair of clusters.
    """

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        borders = parts[name]
        # A position has at most one neighbor to the right and one below.
        most = 2 * facts.num_images * facts.positions_per_image
        # Check each count first, as in `counts_of_positions`.
        if bool((borders > most).any()) or int(borders.triu().sum()) > most:
            return f"{name} of more neighbors than its positions have, which is at most {most}"
        if not torch.equal(borders, borders.T) or bool(borders.diagonal().any()):
            return f"{name} that differ between the two directions, or of a cluster with itself"
        return None

    return check


def moments_of_features(positions_per_image: int) -> PartCheck:
    """Check that first and second moments can be moments of features.

    Args:
        positions_per_image: Positions sampled in each image; 0: all.
    """

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        second, first, count = parts["second"], parts["first"], parts["count"]
        total = sampled_positions(facts, positions_per_image)
        wrong = _wrong_total("count", int(count), total)
        if wrong is not None:
            return wrong
        squares = second.diagonal()
        # Otherwise a sum over clients could exceed the largest float64 and not be decomposed.
        if bool((squares > total * LARGEST_FEATURE**2 * _SLACK).any()):
            return (
                f"a sum of squares of {float(squares.max()):.3g}, but features are at most "
                f"{LARGEST_FEATURE:.0f}"
            )
        slack = _ROUNDING + facts.rounding
        largest = ((squares.clamp(min=0) + slack) * count).sqrt() * (1 + _ROUNDING) + slack
        if bool((squares < -facts.rounding).any()) or bool((first.abs() > largest).any()):
            return "a sum of features that its sum of squares does not allow"
        lengths = (squares.clamp(min=0) + slack).sqrt()
        if bool((second.abs() > _SLACK * torch.outer(lengths, lengths) + slack).any()):
            return "a sum of products that its sums of squares do not allow"
        return None

    return check


def judged_positions(positions_per_image: int) -> PartCheck:
    """Check the sums of the judge: no more positions than there are, and margins of cosines.

    Args:
        positions_per_image: Positions sampled in each image for the margin; 0: all.
    """

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        total = sampled_positions(facts, positions_per_image)
        wrong = _wrong_total("positions", int(parts["positions"]), total)
        if wrong is not None:
            return wrong
        margin, pairs = float(parts["margin"]), parts["pairs"]
        slack = facts.rounding
        if not -slack <= margin <= 2 * total * (1 + _ROUNDING) + slack:
            return f"a sum of margins of {margin:.3g}; it must lie in [0, {2 * total}]"
        most = facts.num_images * facts.positions_per_image
        if bool((pairs > most).any()) or int(pairs.sum()) > most:
            return f"pairs of more than the {most} positions that its images have"
        return None

    return check


def counts_of_classes() -> PartCheck:
    """Check class statistics: no more labels than positions, and sums that features can have."""
    moments = moments_of_features(0)

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        counts, first, images = parts["counts"], parts["first"], int(parts["images"])
        most = facts.num_images * facts.positions_per_image
        labeled = int(counts.double().sum())
        if labeled > most or images > facts.num_images:
            return (
                f"labels at {labeled} positions of {images} images, but it has {most} positions "
                f"of {facts.num_images} images"
            )
        largest = counts[:, None] * LARGEST_FEATURE * 2 * _SLACK
        if bool((first.abs() > largest).any()):
            return "a sum of features of a class that is too large for its number of positions"
        total = {"second": parts["second"], "first": first.sum(dim=0), "count": counts.sum()}
        return moments(total, ClientFacts(1, labeled, facts.rounding * len(counts)))

    return check


def trials_of_classes() -> PartCheck:
    """Check the counts of left-out images: no more than there are positions, and likelihoods."""

    def check(parts: Parts, facts: ClientFacts) -> str | None:
        confusion, likelihood = parts["confusion"], parts["likelihood"]
        most = facts.num_images * facts.positions_per_image
        counted = confusion.double().sum(dim=(1, 2))
        if bool((counted > most).any()):
            return f"counts of {float(counted.max()):.0f} positions, but it has {most}"
        if bool((likelihood > facts.rounding).any()):
            return "a sum of logarithms of probabilities above 0"
        return None

    return check


def sampled_positions(facts: ClientFacts, positions_per_image: int) -> int:
    """Count the positions that a client samples in all of its images."""
    most = facts.positions_per_image
    return facts.num_images * min(positions_per_image or most, most)


def check_hello(hello: Hello, positions_per_image: int, max_images: int | None = None) -> None:
    """Refuse a hello with inconsistent counts or an impossible sum of features.

    Args:
        hello: A finite hello of the right shape.
        positions_per_image: Number of positions of one feature map.
        max_images: Most images that the server's operator expects from the client; None: any
            number.

    Raises:
        FederationError: If a count, the spread or the sum is out of bounds.
    """
    name, images = hello.client_id, hello.num_images
    if not 2 <= images <= MOST_IMAGES:
        raise FederationError(
            f"client {name!r} says it has {images} images; the number must be 2 to {MOST_IMAGES}"
        )
    if max_images is not None and images > max_images:
        raise FederationError(
            f"client {name!r} says it has {images} images, but max_images of [sites.{name}] in the "
            f"server's list of sites is {max_images}; if the number is right, raise max_images"
        )
    positions = images * positions_per_image
    wrong = _wrong_total("feature_count", hello.feature_count, positions)
    if wrong is not None:
        raise FederationError(f"client {name!r} sent {wrong}")
    largest = float(hello.feature_sum.abs().max()) / hello.feature_count
    if largest > LARGEST_FEATURE:
        raise FederationError(
            f"client {name!r} sent a sum of features with a mean of {largest:.3g}, but features "
            f"are at most {LARGEST_FEATURE:.0f}"
        )
    widest = LARGEST_FEATURE * math.sqrt(len(hello.feature_sum))
    if not 0 <= hello.feature_spread <= widest:
        raise FederationError(
            f"client {name!r} sent a feature_spread of {hello.feature_spread:.3g}; it must lie in "
            f"[0, {widest:.3g}]"
        )


def _wrong_total(part: str, sent: int, total: int) -> str | None:
    if sent == total:
        return None
    return f"{part} of {sent} positions in all, expected {total}"
