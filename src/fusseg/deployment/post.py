"""How the server reaches the sites: packets out, packets back, each with a deadline."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fusseg.deployment.admission import admitted_nodes
from fusseg.deployment.ledger import append_line, describe_message
from fusseg.deployment.messages import pack, unpack
from fusseg.deployment.packet import Packet
from fusseg.errors import FederationError

NODES = "nodes.json"
"""File in Flower's folder: the node id of every site that is admitted now."""
_POLL_SECONDS = 0.5
_PULLED_AT_ONCE = 8
"""Answers that are in memory together, however many wait."""


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
    """Send each site its packet and wait for the answers.

    Args:
        post: The way to the sites.
        packets: By site; a site that is no longer admitted gets nothing.
        timeout: Seconds until those who have not answered count as missing. Messages live no
            longer either, so that a site that was away does not work through old ones.

    Yields:
        The replies as they come, and a failure for everyone who sent none.
    """
    nodes = admitted_nodes(post.nodes)
    sent = {}
    for site, packet in packets.items():
        if site not in nodes:
            yield Reply(site, Failure("it is no longer admitted"), 0, 0)
            continue
        line = describe_message(site, "to site", packet.tensors, packet.fields)
        append_line(post.run_dir, line)
        message = Message(pack(packet), nodes[site], MessageType.QUERY, ttl=timeout)
        # One by one: the messages of many sites together may be too large a request.
        (message_id,) = post.grid.push_messages([message])
        sent[message_id] = (site, line.bytes)
    until = time.monotonic() + timeout
    while sent and time.monotonic() < until:
        waiting = list(sent)
        for start in range(0, len(waiting), _PULLED_AT_ONCE):
            for message in post.grid.pull_messages(waiting[start : start + _PULLED_AT_ONCE]):
                # By the question, not by what the answer says of itself: only the site that was
                # asked knows its number.
                asked = sent.pop(message.metadata.reply_to_message_id, None)
                if asked is not None:
                    yield _read(post, asked[0], asked[1], message)
        time.sleep(_POLL_SECONDS)
    for site, bytes_down in sent.values():
        yield Reply(site, Failure(f"no answer within {timeout:.0f} s"), bytes_down, 0)


def _read(post: Post, site: str, bytes_down: int, message: Message) -> Reply:
    if not message.has_content():
        return Reply(site, Failure(f"no answer: {message.error.reason}"), bytes_down, 0)
    try:
        packet = unpack(message.content)
    except FederationError as error:
        return Reply(site, Failure(str(error)), bytes_down, 0)
    line = describe_message(site, "to server", packet.tensors, packet.fields)
    append_line(post.run_dir, line)
    return Reply(site, packet, bytes_down, line.bytes)
