"""What Flower does not check about an answer: that it is one, and that it is the sender's own."""

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_SUPERLINK_NODE_ID = 1
MOST_OBJECTS = 256
"""Parts that an answer may have: Flower fetches each by itself. An honest one has some four, one
per tensor, and one per 5 MiB."""


def find_forgery(body: bytes) -> str:
    """Say why a push is not the answer of the node that sends it, or too many; empty if it is.

    Flower 1.41 checks that `node` has the key that signed the request, but not that the message
    comes from `node`: a site could answer for another, or, with a message that answers none, give
    orders to the others in the server's name.

    Args:
        body: Body of a request for push-messages.
    """
    push = PushMessagesRequest()
    try:
        push.ParseFromString(body)
    except DecodeError:
        return "no message of Flower"
    for message in push.messages_list:
        metadata = message.metadata
        if metadata.src_node_id != push.node.node_id:
            return "an answer for another node"
        if metadata.dst_node_id != _SUPERLINK_NODE_ID or not metadata.reply_to_message_id:
            return "a message that is no answer"
    for tree in push.message_object_trees:
        parts = _count_objects(tree)
        if parts > MOST_OBJECTS:
            return f"an answer of {parts} parts, at most {MOST_OBJECTS} are allowed"
    return ""


def _count_objects(tree: ObjectTree) -> int:
    # Flower's parser takes no trees that are deeper than Python's stack.
    return 1 + sum(map(_count_objects, tree.children))
