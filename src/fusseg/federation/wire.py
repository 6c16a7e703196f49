"""How heads travel: as float32, or halved to bfloat16; simulation and deployment round alike.

What arrives is what was sent: a simulated client gets the rounded head too, and the server adds
the rounded changes, so that both give the same bits.
"""

from dataclasses import replace

import torch

from fusseg.config import Wire
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model

BFLOAT16: Wire = "bfloat16"


def narrow_head(head: HeadWeights, wire: Wire) -> HeadWeights:
    """Write the global head as it travels down to a client."""
    return head if wire != BFLOAT16 else {name: part.bfloat16() for name, part in head.items()}


def widen_head(sent: HeadWeights) -> HeadWeights:
    """Read a head that came down, in float32."""
    return {name: part.float() for name, part in sent.items()}


def receive_state(state: GlobalState, wire: Wire) -> GlobalState:
    """Give the state as a client receives it."""
    head = widen_head(narrow_head(state.model.head, wire))
    return replace(state, model=Model(head, state.model.centroids))


def narrow_update(update: ClientUpdate, received: HeadWeights, wire: Wire) -> ClientUpdate:
    """Write an update as it travels up.

    In bfloat16 the *change* of each weight is sent: it is small beside the weight, so that rounding
    it to 8 binary digits costs a two-hundredth of a round's training and nothing of the weight.

    Args:
        update: With its head in float32.
        received: The head the client started from.
        wire: How heads travel.
    """
    if update.head is None or wire != BFLOAT16:
        return update
    change = {name: (part - received[name]).bfloat16() for name, part in update.head.items()}
    return replace(update, head=change)


def widen_update(sent: ClientUpdate, head: HeadWeights, wire: Wire) -> ClientUpdate:
    """Read an update that came up.

    Changes are added to the server's own head and not to the rounded one the client had: what is
    lost on the way down is not lost for good.

    Args:
        sent: As `narrow_update` wrote it.
        head: The server's head at the start of the round.
        wire: How heads travel.
    """
    if sent.head is None or wire != BFLOAT16:
        return sent
    return replace(
        sent, head={name: head[name] + change.float() for name, change in sent.head.items()}
    )


def wire_dtype(wire: Wire) -> torch.dtype:
    """Type of a head's numbers on the way."""
    return torch.bfloat16 if wire == BFLOAT16 else torch.float32
