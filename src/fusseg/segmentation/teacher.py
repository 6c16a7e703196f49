"""A teacher for objectives: centroids that follow the trained ones slowly.

It stays with the client. The server may return centroids in any order and of any length, so the
teacher of a client's last round is matched to the received ones before it is used again.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.segmentation.assignment import match_rows
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Carry, Model

TEACHER = "teacher"
"""Name of the carried tensor."""


def begin_teacher(
    model: Model,
    kept: Mapping[str, Tensor],
    _settings: Any,  # noqa: ANN401 - an objective's own
) -> dict[str, Tensor]:
    """Take up the teacher of the client's last round, in the order and lengths of the centroids.

    Only directions matter to cosines, but the pace of the average depends on the lengths.

    Args:
        model: The received model; in a client's first round, its centroids are the teacher.
        kept: The teacher after the last round.
    """
    if TEACHER not in kept:
        return {TEACHER: model.centroids.clone()}
    matched = normalize(match_rows(kept[TEACHER], model.centroids), dim=1)
    return {TEACHER: matched * model.centroids.norm(dim=1, keepdim=True)}


def follow_teacher(
    carried: Mapping[str, Tensor],
    _weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    settings: Any,  # noqa: ANN401 - an objective's own
) -> dict[str, Tensor]:
    """Move the teacher towards the centroids: g <- a g + (1 - a) c, with a = settings.momentum."""
    return {TEACHER: torch.lerp(centroids, carried[TEACHER], settings.momentum)}


FOLLOWING = Carry(begin_teacher, follow_teacher)
