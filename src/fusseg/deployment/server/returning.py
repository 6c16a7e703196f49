"""An exchange with every site of a federation, also with those that come back meanwhile."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from fusseg.deployment.server.admission import admitted_nodes
from fusseg.deployment.server.greeting import HELLO_SECONDS, Guests, hear
from fusseg.deployment.server.post import Failure, Post, Reply, ask_and_look, online_sites
from fusseg.deployment.wire.offer import Offer, pack_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.federation.protocol import Protocol
from fusseg.federation.traffic import Traffic

ABSENT_SECONDS = 120.0
"""So long a site is waited for that is not connected: after a kill Flower takes a minute."""
_PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Question:
    """What is asked, and what a site is told first that knows nothing any more."""

    packet_for: Callable[[str], Packet]
    """What a site is sent, by its name."""
    offer: Offer
    protocol: Protocol
    shape: tuple[int, int]
    """Positions of one feature map and channels of the features."""
    timeout: float
    """Seconds until those who have not answered count as missing."""


@dataclass(frozen=True)
class _Asking:
    post: Post
    guests: Guests
    traffic: Traffic
    question: Question
    begun: float

    def seconds_left(self, most: float = float("inf")) -> float:
        """Say how long an answer can be waited for, at most so long from the beginning."""
        return self.begun + min(self.question.timeout, most) - time.monotonic()


def ask_everybody(
    post: Post, guests: Guests, traffic: Traffic, question: Question
) -> Iterator[Reply]:
    """Ask every site that is part of the federation, and wait for those that come back.

    A site that knows nothing of the settings any more is offered them again, and asked once its
    features are there. One that is not connected is waited for `ABSENT_SECONDS`, and in later
    exchanges only once it was there again. All have their time side by side: none holds another
    up, and nobody is waited for once all have answered.

    Args:
        post: The way to the sites.
        guests: Changed: who has said hello now, and who is gone.
        traffic: Changed: what was sent to whom.
        question: What to ask.

    Yields:
        The replies as they come, and a failure for everyone who sent none. A site may refuse, and
        then answer: its last reply counts.
    """
    asking = _Asking(post, guests, traffic, question, time.monotonic())
    visits = [
        _visit(asking, site)
        for site in admitted_nodes(post.nodes)
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
    """Ask one site, and greet it first where it has to be; None where it is time for a pause."""
    guests = asking.guests
    greeted = False
    while True:
        away = yield from _wait_until_there(asking, site)
        if away:
            yield _failure(site, away)
            return
        if guests.are_ready([site]):
            reply = yield from _ask(asking, site, asking.question.packet_for(site), float("inf"))
            if _state(reply) == "lacks":
                asking.traffic.forget(site)
                reply = yield from _ask(
                    asking, site, asking.question.packet_for(site), float("inf")
                )
            yield reply
            if greeted or _state(reply) != "refused":
                return
            guests.returning.add(site)
            asking.traffic.forget(site)
        hello = yield from _ask(asking, site, pack_offer(asking.question.offer), HELLO_SECONDS)
        question = asking.question
        said = hear(asking.post, question.offer, guests, question.protocol, question.shape, hello)
        greeted = bool(guests.are_ready([site]))
        may_change = _state(hello) in ("preparing", "silent") and asking.seconds_left() > 0
        if not greeted and not may_change:
            yield _failure(site, f"it came back without the settings, and then: {said}")
            return
        if not greeted:
            yield from _pause(_PAUSE_SECONDS)


def _wait_until_there(asking: _Asking, site: str) -> Generator[None, None, str]:
    """Wait until a site is connected; why it cannot be asked, if it is not."""
    gone = asking.guests.gone
    while site not in online_sites(asking.post):
        if site not in admitted_nodes(asking.post.nodes):
            return "it is no longer admitted"
        if changed := asking.guests.changed.get(site):
            return f"it is not connected, and came back with other images: {changed}"
        if site in gone or asking.seconds_left(ABSENT_SECONDS) <= 0:
            gone.add(site)
            return "it is not connected"
        yield from _pause(_PAUSE_SECONDS)
    gone.discard(site)
    return ""


def _ask(asking: _Asking, site: str, packet: Packet, most: float) -> Generator[None, None, Reply]:
    """Send one site a packet and wait for its answer."""
    seconds = min(asking.seconds_left(), most)
    if seconds <= 0:
        return _failure(site, f"no answer within {asking.question.timeout:.0f} s")
    for reply in ask_and_look(asking.post, {site: packet}, seconds):
        if reply is not None:
            return reply
        yield None
    raise AssertionError  # a reply comes for every packet


def _pause(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield None


def _state(reply: Reply) -> object:
    """Say what a site is up to: a word of its own, or that there is none."""
    return "silent" if isinstance(reply.content, Failure) else reply.content.fields.get("state")


def _failure(site: str, reason: str) -> Reply:
    return Reply(site, Failure(reason), 0, 0)
