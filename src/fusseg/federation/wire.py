"""How heads travel: as float32, or halved to bfloat16; simulation and deployment round alike.

What arrives is what was sent: a simulated client gets the rounded head too, and the server adds
the rounded changes, so that both give the same bits.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from fusseg.config.schema import Wire
from fusseg.federation.parts import Part, name_head
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Model

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


def narrow_update(
    update: ClientUpdate, parts: Mapping[str, Part], received: HeadWeights, wire: Wire
) -> ClientUpdate:
    """Write an update as it travels up.

    In bfloat16 the *change* of each weight is sent: it is small beside the weight, so that rounding
    it to 8 binary digits costs a two-hundredth of a round's training and nothing of the weight.

    Args:
        update: With its head in float32.
        parts: What it holds.
        received: The head the client started from.
        wire: How heads travel.
    """
    if wire != BFLOAT16:
        return update
    start = name_head(received)
    bases = {name: start.get(name, part.start) for name, part in parts.items() if part.narrow}
    changes = {
        name: (update.parts[name] - base).bfloat16()
        for name, base in bases.items()
        if base is not None
    }
    return replace(update, parts={**update.parts, **changes})


def widen_update(sent: ClientUpdate, parts: Mapping[str, Part], wire: Wire) -> ClientUpdate:
    """Read an update that came up.

    Changes are added to the server's own head and not to the rounded one the client had: what is
    lost on the way down is not lost for good.

    Args:
        sent: As `narrow_update` wrote it.
        parts: What it holds, each with the server's own weights.
        wire: How heads travel.
    """
    if wire != BFLOAT16:
        return sent
    weights = {
        name: part.start + sent.parts[name].float()
        for name, part in parts.items()
        if part.narrow and part.start is not None
    }
    return replace(sent, parts={**sent.parts, **weights})


def narrow_parts(parts: Mapping[str, Part], wire: Wire) -> dict[str, Part]:
    """Describe the parts of an update as they travel."""
    if wire != BFLOAT16:
        return dict(parts)
    return {
        name: replace(part, dtype=torch.bfloat16) if part.narrow else part
        for name, part in parts.items()
    }
