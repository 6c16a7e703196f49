"""An exchange with every site of a federation, including those that come back meanwhile."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from fusseg.deployment.server.asking import Failure, Reply, ask_and_look
from fusseg.deployment.server.greeting import HELLO_SECONDS, Sites, hear
from fusseg.deployment.wire.offer import pack_offer
from fusseg.deployment.wire.packet import Packet

ABSENT_SECONDS = 120.0
"""How long to wait for a site that is not connected: after a kill Flower takes a minute."""
_PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class _Asking:
    sites: Sites
    packet_for: Callable[[str], Packet]
    timeout: float
    begun: float

    def seconds_left(self, most: float = float("inf")) -> float:
        """Return how long to wait for an answer, with at most `most` seconds from the beginning."""
        return self.begun + min(self.timeout, most) - time.monotonic()


def ask_all_sites(
    sites: Sites, packet_for: Callable[[str], Packet], timeout: float
) -> Iterator[Reply]:
    """Ask every site that is part of the federation, and wait for those that come back.

    A site that has lost the settings is offered them again, and asked once its features are ready.
    A site that is not connected is waited for `ABSENT_SECONDS`; in later exchanges it is waited for
    only if it has been connected again in between. All sites are served side by side, so that none
    delays another, and the exchange ends as soon as all have answered.

    Args:
        sites: Changed: which sites have said hello, which are gone, and what each was sent.
        packet_for: Makes the packet for a site, by its name.
        timeout: Seconds after which sites without an answer count as missing.

    Yields:
        The replies in the order of arrival, and a failure for each site that sent none. A site may
        refuse first and then answer: its last reply counts.
    """
    asking = _Asking(sites, packet_for, timeout, time.monotonic())
    guests = sites.guests
    visits = [
        _visit(asking, site)
        for site in sites.admitted()
        if site not in guests.refused and (site in guests.hellos or site in guests.known)
    ]
    while visits:
        going_on = []
        for visit in visits:
            for reply in visit:
                if reply is None:
                    going_on.append(visit)
                    break
                yield reply
        visits = going_on
        if visits:
            time.sleep(_LOOK_SECONDS)


def _visit(asking: _Asking, site: str) -> Iterator[Reply | None]:
    """Ask one site, and greet it first if necessary; yields None when it is time to pause."""
    sites, guests = asking.sites, asking.sites.guests
    greeted = False
    while True:
        away = yield from _wait_until_there(asking, site)
        if away:
            yield _failure(site, away)
            return
        if guests.are_ready([site]):
            reply = yield from _ask(asking, site, asking.packet_for(site))
            if _state(reply) == "lacks":
                sites.traffic.forget(site)
                reply = yield from _ask(asking, site, asking.packet_for(site))
            yield reply
            if greeted or _state(reply) != "refused":
                return
            guests.returning.add(site)
            sites.traffic.forget(site)
        hello = yield from _ask(asking, site, pack_offer(sites.offer), HELLO_SECONDS)
        said = hear(sites, hello)
        greeted = bool(guests.are_ready([site]))
        may_change = _state(hello) in ("preparing", "silent") and asking.seconds_left() > 0
        if not greeted and not may_change:
            yield _failure(site, f"it came back without the settings, and then: {said}")
            return
        if not greeted:
            yield from _pause(_PAUSE_SECONDS)


def _wait_until_there(asking: _Asking, site: str) -> Generator[None, None, str]:
    """Wait until a site is connected; returns why it cannot be asked, or an empty string."""
    sites = asking.sites
    gone = sites.guests.gone
    while site not in sites.online():
        if site not in sites.admitted():
            return "it is no longer admitted"
        if changed := sites.guests.changed.get(site):
            return f"it is not connected, and came back with other images: {changed}"
        if site in gone or asking.seconds_left(ABSENT_SECONDS) <= 0:
            gone.add(site)
            return "it is not connected"
        yield from _pause(_PAUSE_SECONDS)
    gone.discard(site)
    return ""


def _ask(
    asking: _Asking, site: str, packet: Packet, most: float = float("inf")
) -> Generator[None, None, Reply]:
    """Send one site a packet and wait for its answer."""
    seconds = min(asking.seconds_left(), most)
    if seconds <= 0:
        return _failure(site, f"no answer within {asking.timeout:.0f} s")
    for reply in ask_and_look(asking.sites.channel, {site: packet}, seconds):
        if reply is not None:
            return reply
        yield None
    raise AssertionError  # every packet gets a reply


def _pause(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield None


def _state(reply: Reply) -> object:
    """Read the state that a site names in its reply; `silent` if there is no answer."""
    return "silent" if isinstance(reply.content, Failure) else reply.content.fields.get("state")


def _failure(site: str, reason: str) -> Reply:
    return Reply(site, Failure(reason), 0, 0)
