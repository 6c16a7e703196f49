"""What Flower does not check about an answer: that it is one, and that it is the sender's own."""

from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_SUPERLINK_NODE_ID = 1


def find_forgery(body: bytes) -> str:
    """Say why a push is not the answer of the node that sends it; empty if it is.

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
    return ""
