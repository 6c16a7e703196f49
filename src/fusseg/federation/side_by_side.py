"""Exchanges in which clients measure several starts at once, each as if it were the only one.

A message costs a deployment seconds, and sums of a start cost little more than milliseconds.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from fusseg.federation.checks import check_model
from fusseg.federation.parts import ClientFacts, Part, PartCheck, Parts, start_name
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import GlobalState

_Value = TypeVar("_Value")


def side_by_side(task: Task, count: int) -> Task:
    """Make an exchange about several starts from one about the model.

    Args:
        task: Exchange whose `merge` moves the model.
        count: Number of starts.
    """
    return replace(
        task,
        parts=partial(_parts, task),
        measure=partial(_measure, task),
        conclude=partial(_move, task),
        starts=count,
    )


def of_start(gathered: Gathered, number: int) -> Gathered:
    """Take what the clients sent about one start, which becomes the model."""
    prefix = start_name(number)
    return replace(
        gathered,
        state=_with_start(gathered.state, number),
        totals=_named(prefix, gathered.totals),
        collected=_named(prefix, gathered.collected),
    )


def _parts(task: Task, state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    return {
        f"{start_name(number)}{name}": replace(part, check=_check_of(number, part.check))
        for number in range(len(state.starts))
        for name, part in task.parts(_with_start(state, number), protocol).items()
    }


def _check_of(number: int, check: PartCheck) -> PartCheck:
    def check_start(parts: Parts, facts: ClientFacts) -> str | None:
        return check(_named(start_name(number), parts), facts)

    return check_start


def _measure(task: Task, work: Work) -> dict[str, Tensor]:
    sent: dict[str, Tensor] = {}
    for number, model in enumerate(work.state.starts):
        state = _with_start(work.state, number)
        found = task.measure(replace(work, state=state, model=model, start=number))
        sent |= {f"{start_name(number)}{name}": part for name, part in found.items()}
    return sent


def _move(task: Task, gathered: Gathered) -> GlobalState:
    moved = []
    for number, start in enumerate(gathered.state.starts):
        model = task.merge(of_start(gathered, number))
        num_clusters = task.clusters[1] or len(start.centroids)
        check_model(gathered.protocol.strategy_name, model, start, num_clusters)
        moved.append(model)
    return replace(gathered.state, starts=tuple(moved))


def _with_start(state: GlobalState, number: int) -> GlobalState:
    return replace(state, model=state.starts[number])


def _named(prefix: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
