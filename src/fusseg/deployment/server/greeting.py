"""The hello exchange over the network: sites answer once their features are there."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fusseg.config.schema import Config, FederationConfig
from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.admission import admitted_nodes, image_limits
from fusseg.deployment.server.events import DeploymentEvent, write_event
from fusseg.deployment.server.post import Failure, Post, Reply, ask, online_sites
from fusseg.deployment.wire.offer import Offer, pack_offer
from fusseg.deployment.wire.packet import Packet, expect_field, take_int, take_word
from fusseg.deployment.wire.payloads import unpack_hello
from fusseg.deployment.wire.refusals import refusing
from fusseg.federation.checks import check_hello
from fusseg.federation.hello import check_same_backbone, far_clients
from fusseg.federation.protocol import Protocol
from fusseg.federation.state import Hello

HELLO_SECONDS = 120.0
"""A site has so long to answer a hello; with features to extract it says how far it is."""
_PAUSE_SECONDS = 2.0


@dataclass
class Guests:
    """Who has said hello, and what was said last to whoever has not."""

    hellos: dict[str, Hello] = field(default_factory=dict)
    """What each site said first; it holds to the end."""
    returning: set[str] = field(default_factory=set)
    """Sites that said hello and know nothing of it any more: they are greeted again."""
    known: dict[str, int] = field(default_factory=dict)
    """Images of the sites in the record, which a server that starts again has not heard yet."""
    changed: dict[str, str] = field(default_factory=dict)
    """Sites that came back with other images, and in what they differ."""
    gone: set[str] = field(default_factory=set)
    """Sites that were waited for in vain, to score or to finish."""
    last_words: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Sites that are no part of the plan and of this federation, and why."""

    def are_ready(self, sites: Iterable[str]) -> list[str]:
        """Name those who have said hello, in the order given."""
        return [site for site in sites if site in self.hellos and site not in self.returning]


def quorum(config: Config, post: Post, guests: Guests | None = None) -> int:
    """How many usable answers a round needs: as set, or one from every admitted site.

    Who has come back with other images is not one of `guests` that could give any.
    """
    changed = guests.changed if guests else {}
    admitted = sum(site not in changed for site in admitted_nodes(post.nodes))
    return config.federation.min_sites or max(1, admitted)


def greet(
    post: Post, offer: Offer, guests: Guests, protocol: Protocol, shape: tuple[int, int]
) -> None:
    """Offer the settings to every connected site that has not said hello yet.

    Args:
        post: The way to the sites.
        offer: The settings.
        guests: Changed: who has said hello now.
        protocol: Whose objective may need the sites' own estimates.
        shape: Positions of one feature map and channels of the features.
    """
    online = online_sites(post)
    ready = guests.are_ready(online)
    strangers = [site for site in online if site not in ready]
    packets = dict.fromkeys(strangers, pack_offer(offer))
    for reply in ask(post, packets, HELLO_SECONDS):
        hear(post, offer, guests, protocol, shape, reply)


def hear(
    post: Post,
    offer: Offer,
    guests: Guests,
    protocol: Protocol,
    shape: tuple[int, int],
    reply: Reply,
) -> str:
    """Take what a site answers to the settings, and tell it where it is news.

    Args:
        post: The way to the sites.
        offer: The settings.
        guests: Changed: who has said hello now.
        protocol: Whose objective may need the sites' own estimates.
        shape: Positions of one feature map and channels of the features.
        reply: The answer.

    Returns:
        What it says, in words.
    """
    most = image_limits(post.nodes).get(reply.site)
    said = _hear(reply, offer, guests, protocol, shape, most)
    if guests.last_words.get(reply.site) != said:
        guests.last_words[reply.site] = said
        write_event(post.run_dir, DeploymentEvent("site", f"{reply.site}: {said}", reply.site))
    return said


def wait_for_sites(
    post: Post,
    offer: Offer,
    guests: Guests,
    protocol: Protocol,
    shape: tuple[int, int],
    wanted: int,
) -> list[str]:
    """Greet sites until so many have said hello and are connected.

    Args:
        post: The way to the sites.
        offer: The settings.
        guests: Changed: who has said hello now.
        protocol: Whose objective may need the sites' own estimates.
        shape: Positions of one feature map and channels of the features.
        wanted: Sites to wait for. Where a round needs every site, those that came back with other
            images are not waited for.

    Returns:
        The sites that are.

    Raises:
        FederationError: If fewer than the quorum are there within `federation.wait_timeout`; the
            run can go on later.
    """
    seconds = offer.config.federation.wait_timeout
    until = time.monotonic() + seconds
    told = ""
    while True:
        greet(post, offer, guests, protocol, shape)
        there = guests.are_ready(online_sites(post))
        least = quorum(offer.config, post, guests)
        if guests.changed and not offer.config.federation.min_sites:
            wanted = least
        if len(there) >= wanted:
            return there
        if time.monotonic() > until:
            if len(there) >= least:
                return there
            raise FederationError(
                f"{len(there)} of {least} sites are ready after {seconds:.0f} s "
                f"({_name(there)}); go on with --resume when they are"
            )
        missing = [site for site in admitted_nodes(post.nodes) if site not in there]
        text = f"waiting for {wanted} sites, {len(there)} are ready; missing: {_name(missing)}"
        if len(there) + len(missing) < wanted:
            text += f"; only {len(there) + len(missing)} are admitted"
        if text != told:
            told = text
            write_event(post.run_dir, DeploymentEvent("waiting", text))
        time.sleep(_PAUSE_SECONDS)


def refuse_far_means(post: Post, guests: Guests, federation: FederationConfig) -> None:
    """Leave out sites whose mean feature lies too far from the others', before the plan is made.

    Args:
        post: The way to the sites.
        guests: Changed: who is refused, and has not said hello.
        federation: How far is too far.
    """
    most = federation.max_mean_distance
    for site, distance in far_clients(list(guests.hellos.values()), most).items():
        del guests.hellos[site]
        guests.refused[site] = (
            f"its mean feature lies {distance:.3g} standard deviations from the other sites', more "
            f"than federation.max_mean_distance {most:g} allows; look at its images, or raise the "
            "setting"
        )
        # What it is told when it is greeted again is no news.
        said = guests.last_words[site] = f"refused: {guests.refused[site]}"
        write_event(post.run_dir, DeploymentEvent("site", f"{site}: {said}", site))


def _hear(
    reply: Reply,
    offer: Offer,
    guests: Guests,
    protocol: Protocol,
    shape: tuple[int, int],
    max_images: int | None,
) -> str:
    """Take a hello, or say why there is none."""
    packet = reply.content
    if reply.site in guests.refused:
        return f"refused: {guests.refused[reply.site]}"
    if isinstance(packet, Failure):
        return packet.reason
    try:
        with refusing(f"the hello of {reply.site}"):
            state = take_word(packet, "state")
            if state != "done":
                return _excuse(packet, state)
            hello = _read_hello(packet, reply.site, offer, protocol, shape, max_images)
    except FederationError as error:
        return f"refused: {error}"
    guests.changed.pop(reply.site, None)
    if changed := _find_change(hello, guests):
        guests.changed[reply.site] = changed
        return f"refused: {changed}"
    guests.hellos.setdefault(reply.site, hello)
    guests.returning.discard(reply.site)
    return f"ready with {hello.num_images} images"


def _read_hello(
    packet: Packet,
    site: str,
    offer: Offer,
    protocol: Protocol,
    shape: tuple[int, int],
    max_images: int | None,
) -> Hello:
    expect_field(packet, "offer", offer.digest)
    hello = unpack_hello(packet, site, shape[1], protocol)
    check_same_backbone(hello, offer.fingerprint)
    check_hello(hello, shape[0], max_images)
    return hello


def _find_change(hello: Hello, guests: Guests) -> str:
    """Say in what a site that comes back differs from the one that the plan was made of."""
    site = hello.client_id
    first = guests.hellos.get(site)
    before = {"num_images": guests.known.get(site)}
    if first is not None:
        before = {"num_images": first.num_images, "feature_count": first.feature_count}
    for name, count in before.items():
        now = getattr(hello, name)
        if count is not None and now != count:
            return (
                f"{name} is {now}, but the site came with {count}; give it back the images it had"
            )
    return ""


def _excuse(packet: Packet, state: str) -> str:
    if state == "preparing":
        done, total = take_int(packet, "done"), take_int(packet, "total")
        return f"extracting features, {done} of {total}" if total else "preparing"
    return f"{brief(state, 20)}: {brief(take_word(packet, 'reason'))}"


def _name(sites: Mapping[str, object] | list[str]) -> str:
    return ", ".join(sites) or "none"
