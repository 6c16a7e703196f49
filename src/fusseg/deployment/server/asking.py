"""How the server asks sites: packets out, answers back, each with a deadline."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import RunNotRunningException

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.admission import admitted_nodes
from fusseg.deployment.wire.ledger import append_line, describe_message
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.refusals import refusing

_POLL_SECONDS = 0.5
_PUSHES = 3
"""How often a message is handed to the SuperLink before the run ends with its error."""
_NO_FAULT_OF_A_SITE = (httpx.TransportError, RunNotRunningException)
"""Errors that Flower raises while an answer is pulled: the SuperLink is gone or stopped the run."""


@dataclass(frozen=True)
class Channel:
    """The connection to the sites."""

    grid: Grid
    run_dir: Path
    """Folder of the ledger."""
    nodes: Path
    """The file of admitted sites, which is read again for every exchange."""


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


def online_sites(channel: Channel) -> dict[str, int]:
    """List the admitted sites that are connected, with their node ids."""
    connected = set(channel.grid.get_node_ids())
    return {site: node for site, node in admitted_nodes(channel.nodes).items() if node in connected}


def ask(channel: Channel, packets: Mapping[str, Packet], timeout: float) -> Iterator[Reply]:
    """Send each site its packet and wait for the answers: `ask_and_look` with pauses."""
    for reply in ask_and_look(channel, packets, timeout):
        if reply is None:
            time.sleep(_POLL_SECONDS)
        else:
            yield reply


def ask_and_look(
    channel: Channel, packets: Mapping[str, Packet], timeout: float
) -> Iterator[Reply | None]:
    """Send each site its packet and look for the answers, without blocking in between.

    Args:
        channel: The connection to the sites.
        packets: One per site. A site that is no longer admitted gets nothing.
        timeout: Seconds after which sites without an answer count as missing. Messages expire at
            the same time, so that a site that was away does not work through old ones.

    Yields:
        The replies in the order of arrival, and a failure for each site that sent none; None when
        the caller should pause.
    """
    nodes = admitted_nodes(channel.nodes)
    sent = {}
    for site, packet in packets.items():
        if site not in nodes:
            yield Reply(site, Failure("it is no longer admitted"), 0, 0)
            continue
        message_id, bytes_down = _send(channel, site, nodes[site], packet, timeout)
        if not message_id:
            yield Reply(site, Failure("Flower's server no longer knows it"), 0, 0)
            continue
        sent[message_id] = site, bytes_down
    until = time.monotonic() + timeout
    over = False
    while sent and not over:
        # Checked before the answers are read: an answer that arrived in time counts, however long
        # the others take to read.
        over = time.monotonic() >= until
        yield from _pull_all(channel, sent)
        if sent and not over:
            yield None
    for site, bytes_down in sent.values():
        yield Reply(site, Failure(f"no answer within {timeout:.0f} s"), bytes_down, 0)


def _send(
    channel: Channel, site: str, node: int, packet: Packet, timeout: float
) -> tuple[str | None, int]:
    """Send a packet; returns the id of its message, if Flower accepts it, and its bytes."""
    line = describe_message(site, "to site", packet.tensors, packet.fields)
    append_line(channel.run_dir, line)
    message = Message(pack(packet), node, MessageType.QUERY, ttl=timeout)
    # One by one: the messages of many sites together may be too large a request.
    for left in reversed(range(_PUSHES)):
        try:
            (message_id,) = channel.grid.push_messages([message])
            break
        except ObjectPushError:
            # On a busy machine the SuperLink's database may stay locked longer than it waits, and
            # it then refuses a part of the message. The same message is completed by a new push.
            if not left:
                raise
            time.sleep(_POLL_SECONDS)
    return message_id, line.bytes


def _pull_all(channel: Channel, sent: dict[str, tuple[str, int]]) -> Iterator[Reply]:
    """Yield the answers that have arrived, and remove their messages from `sent`.

    They are pulled one by one: an answer that Flower cannot read does not affect the others, only
    one is in memory at a time, and it counts as that of the site that was asked, whatever it says.
    """
    for message_id, (site, bytes_down) in list(sent.items()):
        reply = _pull(channel, site, bytes_down, message_id)
        if reply is not None:
            del sent[message_id]
            yield reply


def _pull(channel: Channel, site: str, bytes_down: int, message_id: str) -> Reply | None:
    """Pull a site's answer to a message; None if there is none yet."""
    try:
        with refusing(f"the answer of {site}", _NO_FAULT_OF_A_SITE):
            messages = list(channel.grid.pull_messages([message_id]))
            if not messages:
                return None
            content = _read(messages[0])
            # Everything that can be read can be described.
            line = describe_message(site, "to server", content.tensors, content.fields)
    except FederationError as error:
        return Reply(site, Failure(str(error)), bytes_down, 0)
    append_line(channel.run_dir, line)
    return Reply(site, content, bytes_down, line.bytes)


def _read(message: Message) -> Packet:
    if not message.has_content():
        raise FederationError(f"no answer: {brief(message.error.reason or 'no reason')}")
    return unpack(message.content)
