"""What sites send, recorded at the edge, after TLS, and compared with the ledger."""

import sys
from pathlib import Path

import h11
from flwr.app import Message
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_id,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fusseg.deployment.processes import free_port
from fusseg.deployment.wire.ledger import describe_message, read_ledger
from fusseg.deployment.wire.messages import unpack

REQUESTS = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": GetFabRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "push-object": message_pb2.PushObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}
HEADERS = {
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "user-agent",
    "content-type",
    "content-length",
}
"""Of every HTTP client; Flower's own begin with `flwr`."""


def requests_in(path):
    """Method, path, headers and body of every request of one connection."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(path.read_bytes())
    found = []
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            found.append([event.method, event.target, dict(event.headers), b""])
        elif isinstance(event, h11.Data):
            found[-1][3] += bytes(event.data)
        elif event is h11.PAUSED:
            # The parser waits for the answer before it reads on.
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            parser.start_next_cycle()
        elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return found


def join_through_proxy(federation, tmp_path, *more):
    """Let all sites join through a proxy, and return the folder of what it records."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    port = free_port()
    program = str(Path(__file__).parent / "recording_proxy.py")
    command = [sys.executable, program, str(port), str(federation.port)]
    federation.start("proxy", [*command, str(federation.keys), str(recorded)])
    for site in federation.sites:
        federation.join(site, *more, port=port)
    return recorded


def check_that_every_request_is_in_the_ledger(federation, recorded):
    """Nothing but Flower's calls and messages of the ledger is in what was recorded."""
    bodies = {}
    for path in sorted(recorded.glob("*.requests")):
        for method, target, headers, body in requests_in(path):
            assert method == b"POST"
            name = target.decode().removeprefix("/v1/fleet/")
            assert name in REQUESTS, target
            own = {header.decode() for header in headers}
            assert {one for one in own if not one.startswith("flwr")} <= HEADERS, own
            bodies.setdefault(name, []).append(REQUESTS[name].FromString(body))
            if name not in ("push-object", "push-messages"):
                assert len(body) < 500, name
    objects = {
        get_object_id(one.object_content): one.object_content for one in bodies["push-object"]
    }
    sent = [line for line in read_ledger(federation.run_dir)[0] if line.direction == "to server"]
    digests = {(line.site, line.sha256) for line in sent}
    reached = set()
    for push in bodies["push-messages"]:
        for message, tree in zip(push.messages_list, push.message_object_trees, strict=True):
            packet = unpack(inflate(tree.object_id, objects, reached).content)
            lines = {
                (site, describe_message(site, "to server", packet.tensors, packet.fields).sha256)
                for site in federation.sites
            }
            # every message that left is a line of the ledger
            assert len(lines & digests) >= 1
            assert message.content.ByteSize() == 0
            assert len(push.SerializeToString()) < 10_000
    # and every object that left belongs to such a message
    assert set(objects) == reached
    assert len(bodies["push-messages"]) == len(sent)


def inflate(message_id, objects, reached):
    """Put a message together from the objects that were recorded."""
    wanted, contents = [message_id], {}
    while wanted:
        one = wanted.pop()
        contents[one] = objects[one]
        wanted += get_object_children_ids_from_object_content(objects[one])
    kinds = {get_object_type_from_object_content(content) for content in contents.values()}
    known = {"Message", "RecordDict", "ArrayRecord", "ConfigRecord", "Array", "ArrayChunk"}
    assert kinds <= known, kinds
    reached |= set(contents)
    message = inflate_object_from_contents(message_id, contents)
    assert isinstance(message, Message)
    return message
