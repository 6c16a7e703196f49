"""The hello exchange over the network: sites answer once their features are extracted."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fusseg.config.schema import Config
from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.admission import admitted_nodes, image_limits
from fusseg.deployment.server.asking import Channel, Failure, Reply, ask, online_sites
from fusseg.deployment.server.events import DeploymentEvent, Kind, write_event
from fusseg.deployment.wire.offer import Offer, pack_offer
from fusseg.deployment.wire.packet import Packet, expect_field, take_int, take_word
from fusseg.deployment.wire.payloads import unpack_hello, unpack_open_hello
from fusseg.deployment.wire.refusals import refusing
from fusseg.federation.checks import check_hello
from fusseg.federation.hello import check_same_backbone, far_clients
from fusseg.federation.protocol import Protocol
from fusseg.federation.state import Hello, OpenHello
from fusseg.federation.traffic import Traffic

HELLO_SECONDS = 120.0
"""Time for a site to answer a hello. A site that is still extracting features answers with its
progress."""
_PAUSE_SECONDS = 2.0


@dataclass
class Guests:
    """Which sites have said hello, and what the others said last."""

    hellos: dict[str, Hello | OpenHello] = field(default_factory=dict)
    """The first hello of each site, which holds to the end."""
    returning: set[str] = field(default_factory=set)
    """Sites that said hello but have lost the settings since: they are greeted again."""
    known: dict[str, int | None] = field(default_factory=dict)
    """Number of images per site in the record, for a restarted server that has heard no hello;
    None: only their sum is known."""
    changed: dict[str, str] = field(default_factory=dict)
    """Sites that came back with other images, and how these differ."""
    gone: set[str] = field(default_factory=set)
    """Sites that did not come back in time to score or to finish."""
    last_words: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Sites that are not part of the plan or of this federation, and why."""

    def are_ready(self, sites: Iterable[str]) -> list[str]:
        """List the sites that have said hello, in the given order."""
        return [site for site in sites if site in self.hellos and site not in self.returning]


@dataclass(frozen=True)
class Sites:
    """The sites of a federation, as the server asks them."""

    channel: Channel
    offer: Offer
    """The settings that all share."""
    protocol: Protocol
    shape: tuple[int, int]
    """Positions of one feature map and channels of the features."""
    guests: Guests = field(default_factory=Guests)
    traffic: Traffic = field(default_factory=Traffic)
    """What each site was sent."""

    @property
    def config(self) -> Config:
        """The settings that all share, without the data of any machine."""
        return self.offer.config

    def admitted(self) -> dict[str, int]:
        """Read the node ids of the sites that are admitted now."""
        return admitted_nodes(self.channel.nodes)

    def online(self) -> dict[str, int]:
        """List the admitted sites that are connected, with their node ids."""
        return online_sites(self.channel)

    def tell(self, kind: Kind, text: str, site: str = "") -> None:
        """Write an event."""
        write_event(self.channel.run_dir, DeploymentEvent(kind, text, site))


def quorum(sites: Sites) -> int:
    """How many usable answers a round needs: `federation.min_sites`, or one per admitted site.

    Sites that came back with other images do not count: they cannot give a usable answer.
    """
    usable = sum(site not in sites.guests.changed for site in sites.admitted())
    return sites.config.federation.min_sites or max(1, usable)


def greet(sites: Sites) -> None:
    """Offer the settings to every connected site that has not said hello yet."""
    online = sites.online()
    ready = sites.guests.are_ready(online)
    strangers = [site for site in online if site not in ready]
    packets = dict.fromkeys(strangers, pack_offer(sites.offer))
    for reply in ask(sites.channel, packets, HELLO_SECONDS):
        hear(sites, reply)


def hear(sites: Sites, reply: Reply) -> str:
    """Read a site's answer to the settings, and write an event if it says something new.

    Args:
        sites: Their guests are changed: who has said hello now.
        reply: The answer.

    Returns:
        What the site says, in words.
    """
    said, guests = _hear(sites, reply), sites.guests
    if guests.last_words.get(reply.site) != said:
        guests.last_words[reply.site] = said
        sites.tell("site", f"{reply.site}: {said}", reply.site)
    return said


def wait_for_sites(sites: Sites, wanted: int) -> list[str]:
    """Greet sites until enough have said hello and are connected.

    Args:
        sites: Their guests are changed: who has said hello now.
        wanted: Number of sites to wait for. Where a round needs every site, those that came back
            with other images are not waited for.

    Returns:
        The sites that are ready.

    Raises:
        FederationError: If fewer than the quorum are ready within `federation.wait_timeout`. The
            run can be resumed later.
    """
    federation = sites.config.federation
    seconds = federation.wait_timeout
    until = time.monotonic() + seconds
    told = ""
    while True:
        greet(sites)
        there = sites.guests.are_ready(sites.online())
        least = quorum(sites)
        if sites.guests.changed and not federation.min_sites:
            wanted = least
        if len(there) >= wanted:
            return there
        if time.monotonic() > until:
            if len(there) >= least:
                return there
            raise FederationError(
                f"{len(there)} of {least} sites are ready after {seconds:.0f} s "
                f"({_name(there)}); continue with --resume when they are"
            )
        missing = [site for site in sites.admitted() if site not in there]
        text = f"waiting for {wanted} sites, {len(there)} are ready; missing: {_name(missing)}"
        if len(there) + len(missing) < wanted:
            text += f"; only {len(there) + len(missing)} are admitted"
        if text != told:
            told = text
            sites.tell("waiting", text)
        time.sleep(_PAUSE_SECONDS)


def refuse_far_means(sites: Sites) -> None:
    """Refuse sites whose mean feature is too far from the others', before the plan is made.

    Args:
        sites: Their guests are changed: a refused site has not said hello.
    """
    guests, most = sites.guests, sites.config.federation.max_mean_distance
    hellos = [hello for hello in guests.hellos.values() if isinstance(hello, Hello)]
    for site, distance in far_clients(hellos, most).items():
        del guests.hellos[site]
        guests.refused[site] = (
            f"its mean feature lies {distance:.3g} standard deviations from the other sites', more "
            f"than federation.max_mean_distance {most:g} allows; look at its images, or raise the "
            "setting"
        )
        # Set here, so that the next greeting does not report it again.
        said = guests.last_words[site] = f"refused: {guests.refused[site]}"
        sites.tell("site", f"{site}: {said}", site)


def _hear(sites: Sites, reply: Reply) -> str:
    """Accept a hello, or say why there is none."""
    packet, guests = reply.content, sites.guests
    if reply.site in guests.refused:
        return f"refused: {guests.refused[reply.site]}"
    if isinstance(packet, Failure):
        return packet.reason
    # Outside `refusing`: a damaged file of the server's is not the site's fault.
    most = image_limits(sites.channel.nodes).get(reply.site)
    try:
        with refusing(f"the hello of {reply.site}"):
            state = take_word(packet, "state")
            if state != "done":
                return _excuse(packet, state)
            hello = _read_hello(packet, reply.site, sites, most)
    except FederationError as error:
        return f"refused: {error}"
    guests.changed.pop(reply.site, None)
    if changed := _find_change(hello, guests):
        guests.changed[reply.site] = changed
        return f"refused: {changed}"
    guests.hellos.setdefault(reply.site, hello)
    guests.returning.discard(reply.site)
    return f"ready with {hello.num_images} images" if isinstance(hello, Hello) else "ready"


def _read_hello(
    packet: Packet, site: str, sites: Sites, max_images: int | None
) -> Hello | OpenHello:
    positions, feature_dim = sites.shape
    expect_field(packet, "offer", sites.offer.digest)
    if sites.protocol.privacy.secure_sum:
        opened = unpack_open_hello(packet, site, sites.protocol)
        check_same_backbone(opened, sites.offer.fingerprint)
        return opened
    hello = unpack_hello(packet, site, feature_dim, sites.protocol)
    check_same_backbone(hello, sites.offer.fingerprint)
    check_hello(hello, positions, max_images)
    return hello


def _find_change(hello: Hello | OpenHello, guests: Guests) -> str:
    """Say how a site that comes back differs from the one that the plan was made of, if it does."""
    if isinstance(hello, OpenHello):
        return ""
    site = hello.client_id
    first = guests.hellos.get(site)
    before = {"num_images": guests.known.get(site)}
    if isinstance(first, Hello):
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
        return f"preparing images, {done} of {total}" if total else "preparing"
    return f"{brief(state, 20)}: {brief(take_word(packet, 'reason'))}"


def _name(sites: Mapping[str, object] | list[str]) -> str:
    return ", ".join(sites) or "none"
