"""Encoding of heads for transport: float32, or bfloat16 at half the size.

Simulation and deployment round alike: a simulated client also receives the rounded head and the
server adds the rounded changes, so both give the same bits.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from fusseg.config.schema import Wire
from fusseg.federation.parts import Part, name_head
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.segmentation.head import HeadWeights

BFLOAT16: Wire = "bfloat16"


def narrow_head(head: HeadWeights, wire: Wire) -> HeadWeights:
    """Encode the global head for a client."""
    return head if wire != BFLOAT16 else {name: part.bfloat16() for name, part in head.items()}


def widen_head(sent: HeadWeights) -> HeadWeights:
    """Decode a received head to float32."""
    return {name: part.float() for name, part in sent.items()}


def receive_state(state: GlobalState, wire: Wire) -> GlobalState:
    """Return the state as a client receives it, without what stays with the server."""
    model, *starts = (
        replace(model, head=widen_head(narrow_head(model.head, wire)))
        for model in (state.model, *state.starts)
    )
    return GlobalState(
        state.round_number,
        model,
        state.plan,
        starts=tuple(starts),
        class_sums=state.class_sums,
    )


def narrow_update(
    update: ClientUpdate, parts: Mapping[str, Part], received: HeadWeights, wire: Wire
) -> ClientUpdate:
    """Encode an update for the server.

    With bfloat16, the *change* of each weight is sent. It is small compared with the weight, so
    rounding it to 8 binary digits loses a two-hundredth of a round's training and nothing of the
    weight itself.

    Args:
        update: Update with a head in float32.
        parts: Parts of the update.
        received: The head the client started from.
        wire: Encoding of heads.
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
    """Decode an update from a client.

    Changes are added to the server's own head, not to the rounded one that the client received, so
    the rounding errors of the head sent to clients do not accumulate.

    Args:
        sent: Update encoded by `narrow_update`.
        parts: Parts of the update, each with the server's own weights.
        wire: Encoding of heads.
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
    """Describe the parts of an update as they are encoded for transport."""
    if wire != BFLOAT16:
        return dict(parts)
    return {
        name: replace(part, dtype=torch.bfloat16) if part.narrow else part
        for name, part in parts.items()
    }
