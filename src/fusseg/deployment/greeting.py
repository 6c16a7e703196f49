"""The hello exchange over the network: sites answer once their features are there."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fusseg.config import Config
from fusseg.deployment.admission import admitted_nodes
from fusseg.deployment.events import DeploymentEvent, write_event
from fusseg.deployment.offer import Offer, pack_offer
from fusseg.deployment.packet import Packet, expect_field, take_int, take_word
from fusseg.deployment.payloads import unpack_hello
from fusseg.deployment.post import Failure, Post, Reply, ask, online_sites
from fusseg.errors import FederationError
from fusseg.federation.bounds import check_hello
from fusseg.federation.hello import check_same_backbone
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
    last_words: dict[str, str] = field(default_factory=dict)

    def are_ready(self, sites: Iterable[str]) -> list[str]:
        """Name those who have said hello, in the order given."""
        return [site for site in sites if site in self.hellos and site not in self.returning]


def quorum(config: Config, post: Post) -> int:
    """How many usable answers a round needs: as set, or one from every admitted site."""
    return config.federation.min_sites or max(1, len(admitted_nodes(post.nodes)))


def greet(post: Post, offer: Offer, guests: Guests, positions: int, feature_dim: int) -> None:
    """Offer the settings to every connected site that has not said hello yet.

    Args:
        post: The way to the sites.
        offer: The settings.
        guests: Changed: who has said hello now.
        positions: Positions of one feature map.
        feature_dim: Channels of the features.
    """
    online = online_sites(post)
    ready = guests.are_ready(online)
    strangers = [site for site in online if site not in ready]
    packets = dict.fromkeys(strangers, pack_offer(offer))
    for reply in ask(post, packets, HELLO_SECONDS):
        said = _hear(reply, offer, guests, positions, feature_dim)
        if guests.last_words.get(reply.site) != said:
            guests.last_words[reply.site] = said
            write_event(post.run_dir, DeploymentEvent("site", f"{reply.site}: {said}", reply.site))


def wait_for_sites(
    post: Post,
    offer: Offer,
    guests: Guests,
    shape: tuple[int, int],
    wanted: int,
) -> list[str]:
    """Greet sites until so many have said hello and are connected.

    Args:
        post: The way to the sites.
        offer: The settings.
        guests: Changed: who has said hello now.
        shape: Positions of one feature map and channels of the features.
        wanted: Sites to wait for.

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
        greet(post, offer, guests, *shape)
        there = guests.are_ready(online_sites(post))
        if len(there) >= wanted:
            return there
        least = quorum(offer.config, post)
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


def _hear(reply: Reply, offer: Offer, guests: Guests, positions: int, feature_dim: int) -> str:
    """Take a hello, or say why there is none."""
    packet = reply.content
    if isinstance(packet, Failure):
        return packet.reason
    try:
        state = take_word(packet, "state")
        if state != "done":
            return _excuse(packet, state)
        expect_field(packet, "offer", offer.digest)
        hello = unpack_hello(
            packet, reply.site, feature_dim, shifts=offer.config.local.shift == "auto"
        )
        check_same_backbone(hello, offer.fingerprint)
        check_hello(hello, positions)
        _check_returning(hello, guests.hellos.get(reply.site, hello))
    except FederationError as error:
        return f"refused: {error}"
    guests.hellos.setdefault(reply.site, hello)
    guests.returning.discard(reply.site)
    return f"ready with {hello.num_images} images"


def _check_returning(hello: Hello, first: Hello) -> None:
    """Refuse a site that comes back with other images than the plan was made of."""
    for name in ("num_images", "feature_count"):
        now, before = getattr(hello, name), getattr(first, name)
        if now != before:
            raise FederationError(
                f"{name} is {now}, but the site came with {before}; give it back the images it had"
            )


def _excuse(packet: Packet, state: str) -> str:
    if state == "preparing":
        done, total = take_int(packet, "done"), take_int(packet, "total")
        return f"extracting features, {done} of {total}" if total else "preparing"
    return f"{state!r:.20}: {take_word(packet, 'reason')[:500]}"


def _name(sites: Mapping[str, object] | list[str]) -> str:
    return ", ".join(sites) or "none"
