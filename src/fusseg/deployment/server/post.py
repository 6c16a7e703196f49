"""How the server reaches the sites: packets out, packets back, each with a deadline."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.admission import admitted_nodes
from fusseg.deployment.wire.ledger import append_line, describe_message
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.refusals import refusing

NODES = "nodes.json"
"""File in Flower's folder: the node id of every site that is admitted now."""
_POLL_SECONDS = 0.5
_NO_FAULT_OF_A_SITE = (httpx.TransportError, RunNotRunningException)
"""Errors of Flower's while an answer is pulled: the SuperLink is gone, or has stopped the run."""


@dataclass(frozen=True)
class Post:
    """The way to the sites."""

    grid: Grid
    run_dir: Path
    """Where the ledger is."""
    nodes: Path
    """The file of admitted sites, read anew for every exchange."""


@dataclass(frozen=True)
class Failure:
    """Why a site's answer cannot be used."""

    reason: str


@dataclass(frozen=True)
class Reply:
    """What came back from a site."""

    site: str
    content: Packet | Failure
    bytes_down: int
    bytes_up: int


def online_sites(post: Post) -> dict[str, int]:
    """Name the admitted sites that are connected."""
    connected = set(post.grid.get_node_ids())
    return {site: node for site, node in admitted_nodes(post.nodes).items() if node in connected}


def ask(post: Post, packets: Mapping[str, Packet], timeout: float) -> Iterator[Reply]:
    """Send each site its packet and wait for the answers: `ask_and_look`, with pauses."""
    for reply in ask_and_look(post, packets, timeout):
        if reply is None:
            time.sleep(_POLL_SECONDS)
        else:
            yield reply


def ask_and_look(
    post: Post, packets: Mapping[str, Packet], timeout: float
) -> Iterator[Reply | None]:
    """Send each site its packet and look for the answers, for who does other things meanwhile.

    Args:
        post: The way to the sites.
        packets: By site; a site that is no longer admitted gets nothing.
        timeout: Seconds until those who have not answered count as missing. Messages live no
            longer either, so that a site that was away does not work through old ones.

    Yields:
        The replies as they come, and a failure for everyone who sent none; None where it is time
        for a pause.
    """
    nodes = admitted_nodes(post.nodes)
    sent = {}
    for site, packet in packets.items():
        if site not in nodes:
            yield Reply(site, Failure("it is no longer admitted"), 0, 0)
            continue
        message_id, bytes_down = _send(post, site, nodes[site], packet, timeout)
        if not message_id:
            yield Reply(site, Failure("Flower's server no longer knows it"), 0, 0)
            continue
        sent[message_id] = site, bytes_down
    until = time.monotonic() + timeout
    over = False
    while sent and not over:
        # Looked at before the answers are: what was there in time counts, however long the others
        # take to be read.
        over = time.monotonic() >= until
        yield from _pull_all(post, sent)
        if sent and not over:
            yield None
    for site, bytes_down in sent.values():
        yield Reply(site, Failure(f"no answer within {timeout:.0f} s"), bytes_down, 0)


def _send(
    post: Post, site: str, node: int, packet: Packet, timeout: float
) -> tuple[str | None, int]:
    """Send a packet; the number of its message, if Flower takes it, and its bytes."""
    line = describe_message(site, "to site", packet.tensors, packet.fields)
    append_line(post.run_dir, line)
    message = Message(pack(packet), node, MessageType.QUERY, ttl=timeout)
    # One by one: the messages of many sites together may be too large a request.
    (message_id,) = post.grid.push_messages([message])
    return message_id, line.bytes


def _pull_all(post: Post, sent: dict[str, tuple[str, int]]) -> Iterator[Reply]:
    """Take the answers that are there, and their messages off the list.

    One by one: an answer that Flower cannot read takes none of the others with it, one is in
    memory at a time, and it is from the site that was asked, whatever it says of itself.
    """
    for message_id, (site, bytes_down) in list(sent.items()):
        reply = _pull(post, site, bytes_down, message_id)
        if reply is not None:
            del sent[message_id]
            yield reply


def _pull(post: Post, site: str, bytes_down: int, message_id: str) -> Reply | None:
    """Take a site's answer to a message; None where there is none yet."""
    try:
        with refusing(f"the answer of {site}", _NO_FAULT_OF_A_SITE):
            messages = list(post.grid.pull_messages([message_id]))
            if not messages:
                return None
            content = _read(messages[0])
            # Whatever can be read can be described.
            line = describe_message(site, "to server", content.tensors, content.fields)
    except FederationError as error:
        return Reply(site, Failure(str(error)), bytes_down, 0)
    append_line(post.run_dir, line)
    return Reply(site, content, bytes_down, line.bytes)


def _read(message: Message) -> Packet:
    if not message.has_content():
        raise FederationError(f"no answer: {brief(message.error.reason or 'no reason')}")
    return unpack(message.content)
