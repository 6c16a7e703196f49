"""Scores from the counts that sites send: pixels by region and class, with the class names."""

import json
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.data.items import Classes
from fusseg.deployment.server.exchange import GridExchange
from fusseg.deployment.wire.packet import Packet, take_int, take_word
from fusseg.deployment.wire.payloads import EVALUATE
from fusseg.deployment.wire.refusals import refusing
from fusseg.evaluation.held_out import score_sites
from fusseg.federation.parts import Part, check_parts
from fusseg.federation.state import GlobalState, Hello
from fusseg.federation.traffic import NUMBER_BYTES, num_bytes
from fusseg.runs.model_scores import describe_site_scores
from fusseg.runs.record_form import ModelScores

_MOST_CLASSES = 256
_LONGEST_CLASS = 100


@dataclass(frozen=True)
class SiteCounts:
    """The counts of one site."""

    names: tuple[str, ...]
    """Names of the classes."""
    confusion: Tensor
    num_images: int


def score_at_sites(exchange: GridExchange, state: GlobalState) -> ModelScores:
    """Sum the confusion counts of all sites that have the most common list of classes.

    Args:
        exchange: Asks the sites, and records which are left out.
        state: After a round.
    """
    request = exchange.request(EVALUATE, state.round_number, 0)
    found: dict[str, SiteCounts] = {}
    for reply in exchange.ask_all(state, EVALUATE, exchange.sites.config.federation.round_timeout):
        try:
            with refusing(f"the counts of {reply.site}"):
                packet = exchange.accept(reply, request)
                hello = exchange.sites.guests.hellos[reply.site]
                assert isinstance(hello, Hello)
                most = hello.num_images
                counts = read_counts(packet, reply.site, state.model.num_regions, most)
                sent = num_bytes(*packet.tensors.values()) + NUMBER_BYTES
                exchange.sites.traffic.receive(reply.site, sent)
        except FederationError as error:
            exchange.note(reply.site, EVALUATE, str(error))
            continue
        if counts is not None:
            found[reply.site] = counts
    if not found:
        return describe_site_scores(None, None)
    # Replies are sorted by site: of equally common lists, that of the first site is used.
    ((names, _),) = Counter(counts.names for counts in found.values()).most_common(1)
    for site, counts in list(found.items()):
        if counts.names != names:
            reason = f"its classes are {shown(counts.names, 200)}, others' {shown(names, 200)}"
            exchange.note(site, EVALUATE, reason)
            del found[site]
    scores = score_sites({site: [counts.confusion] for site, counts in found.items()})
    if scores is None:
        return describe_site_scores(None, None)
    num_images = {site: found[site].num_images for site in scores.num_images}
    return describe_site_scores(replace(scores, num_images=num_images), Classes(names))


def read_counts(packet: Packet, site: str, num_regions: int, most: int) -> SiteCounts | None:
    """Read a site's counts; None if it has no labeled image.

    Args:
        packet: What the site sent.
        site: The sender, as its key shows.
        num_regions: Rows of the counts.
        most: Number of images at the site.

    Raises:
        FederationError: If a field or the counts are missing, malformed or out of bounds.
    """
    images = take_int(packet, "num_images", 0, most)
    if images == 0:
        return None
    names = _class_names(take_word(packet, "classes"))
    shape = (num_regions, len(names))
    parts = {"confusion": Part(shape, torch.int64, "collect")}
    check_parts(f"client {site!r}", packet.tensors, parts)
    confusion = packet.tensors["confusion"]
    if bool((confusion > 2**53).any()):
        raise FederationError("its pixel counts are out of bounds")
    return SiteCounts(names, confusion, images)


def _class_names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FederationError(f"field 'classes' must be a list of names, got {shown(text, 80)}")
    if not 0 < len(names) <= _MOST_CLASSES:
        raise FederationError(f"it has {len(names)} classes, must be 1 to {_MOST_CLASSES}")
    for name in names:
        if not 0 < len(name) <= _LONGEST_CLASS or names.count(name) > 1:
            raise FederationError(
                f"its classes must differ and have 1 to {_LONGEST_CLASS} characters, got "
                f"{shown(name, 80)}"
            )
    return tuple(names)
