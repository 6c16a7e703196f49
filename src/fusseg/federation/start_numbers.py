"""The exchange in which clients estimate the objective's numbers again, from the computed start."""

from dataclasses import replace

import torch
from torch import Tensor

from fusseg.core.randomness import round_generator
from fusseg.federation.checks import number_within
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import GlobalState
from fusseg.segmentation.objective import Model

_SOURCE = "/estimate"
"""Added to a client's name for the random source; names of sites contain no slash."""


def number_parts(_state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the numbers, which are averaged by the clients' weights."""
    local = protocol.local
    return {
        name: Part((), torch.float64, "mean", number_within(name, least, most))
        for name, (least, most) in local.objective.estimated(local.settings).items()
    }


def measure_numbers(work: Work) -> dict[str, Tensor]:
    """Estimate the client's numbers from its features and the start."""
    client, protocol = work.client, work.protocol
    local = protocol.local
    assert local.objective.estimate_at_start is not None
    generator = round_generator(protocol.seed, 0, f"{client.client_id}{_SOURCE}")
    mean_feature = work.state.plan.mean_feature
    found = local.objective.estimate_at_start(
        client.features, mean_feature, work.model, local, generator
    )
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in found.items()}


def keep_model(gathered: Gathered) -> Model:
    """Return the start as it is."""
    return gathered.state.model


def take_numbers(gathered: Gathered) -> GlobalState:
    """Put the averages of the clients' numbers in place of those of the hello."""
    state, plan = gathered.state, gathered.state.plan
    found = {name: float(total) for name, total in gathered.totals.items()}
    return replace(state, plan=replace(plan, agreed={**plan.agreed, **found}))


ESTIMATE = Task("estimate", number_parts, measure_numbers, keep_model, take_numbers)
"""The last exchange of round 0, for objectives whose numbers depend on the start."""
