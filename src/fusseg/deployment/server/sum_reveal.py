"""The end of a secure sum at the server: sites sign whose terms it holds, then reveal the masks."""

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.agreement import signers_of
from fusseg.deployment.secure_sum.masks import unmask
from fusseg.deployment.server.asking import Failure
from fusseg.deployment.server.exchange import RETRY_SECONDS, GridExchange
from fusseg.deployment.server.sum_memory import note_sites
from fusseg.deployment.server.sum_session import (
    AskedSum,
    OpenSession,
    are_enough,
    noting,
    stage_answers,
)
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.sum_messages import (
    SUM_AGREE,
    SUM_REVEAL,
    pack_summed,
    unpack_revealed,
    unpack_signature,
)
from fusseg.federation.rounds import UnusedRoundError

_REFUSALS = 2
"""After as many refusals of one site it is not asked again: the first may come from one that was
just started anew."""


@dataclass
class FoundSum:
    """The sum of masked terms, as they arrive."""

    row: np.ndarray
    summed: list[str] = field(default_factory=list)
    collected: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    """Of these sites, over all that have dealt shares."""


def agree_on_set(
    grid: GridExchange, opened: OpenSession, asked: AskedSum, found: FoundSum
) -> dict[str, bytes] | None:
    """Collect signatures over the sites whose terms have arrived.

    Returns:
        As many as are needed, by site; None if too few have signed.
    """
    place, session = asked.request.place, opened.session
    signatures = found.signatures
    if found.summed != sorted(opened.dealt):
        # Terms were lost, so that the sites have signed a larger set.
        request = replace(asked.request, task=SUM_AGREE)
        packet = pack_summed(found.summed, session)
        packet = Packet({**request.fields(), **packet.fields})
        signatures = {}
        for reply, answer in stage_answers(
            grid, dict.fromkeys(found.summed, packet), request, session
        ):
            with noting(grid, reply.site, SUM_AGREE):
                signatures[reply.site] = unpack_signature(answer, reply.site)
    signers = signers_of(signatures, opened.keys_of(place), session.sum_id(place), found.summed)
    for site in sorted(signatures.keys() - set(signers)):
        grid.note(site, SUM_AGREE, "its signature does not belong to its key of this sum")
    if not are_enough(grid, signers, opened.needed, "their signature of this set"):
        return None
    return {site: signatures[site] for site in signers[: opened.needed]}


def learn_sum(
    grid: GridExchange,
    opened: OpenSession,
    asked: AskedSum,
    found: FoundSum,
    signatures: Mapping[str, bytes],
) -> Int64[Tensor, " numbers"]:
    """Ask the sites of a sum to reveal what it lacks, and remove the masks.

    Raises:
        FederationError: If too few have revealed it within `federation.wait_timeout`. The run can
            be resumed.
        UnusedRoundError: If too many refuse, or what they reveal does not fit.
    """
    place, session = asked.request.place, opened.session
    note_sites(folder_of(grid), session, place, found.summed)
    request = replace(asked.request, task=SUM_REVEAL)
    packet = pack_summed(found.summed, session, signatures)
    packet = Packet({**request.fields(), **packet.fields}, packet.tensors)
    revealed: dict[str, dict[str, bytes]] = {}
    refused: Counter[str] = Counter()
    until = time.monotonic() + grid.sites.config.federation.wait_timeout
    while len(revealed) < opened.needed:
        final = {site for site, times in refused.items() if times >= _REFUSALS}
        left = set(found.summed) - revealed.keys() - final
        if len(left) + len(revealed) < opened.needed:
            close_unused(grid, asked, found.summed, "too few sites reveal what it lacks")
        packets = dict.fromkeys(left & grid.sites.online().keys(), packet)
        for reply in grid.ask_again_if_lost(packets, packets.__getitem__):
            with noting(grid, reply.site, SUM_REVEAL):
                if not isinstance(reply.content, Failure):
                    refused[reply.site] += reply.content.fields.get("state") == "refused"
                answer = grid.accept(reply, request)
                revealed[reply.site] = unpack_revealed(answer, reply.site, [*opened.dealt])
        if len(revealed) < opened.needed:
            if time.monotonic() > until:
                raise FederationError(
                    f"{len(revealed)} of {opened.needed} sites have revealed what the sum of "
                    f"round {request.round_number} lacks; continue with --resume when more of "
                    f"{', '.join(found.summed)} are there"
                )
            time.sleep(RETRY_SECONDS)
    try:
        plain = unmask(
            found.row,
            found.summed,
            opened.keys_of(place),
            opened.commitments_of(place),
            revealed,
            session.sum_id(place),
            opened.needed,
        )
    except FederationError as error:
        close_unused(grid, asked, found.summed, str(error))
    return torch.from_numpy(plain.view(np.int64))


def close_unused(
    grid: GridExchange, asked: AskedSum, begun: Collection[str], why: str, remedy: str = ""
) -> NoReturn:
    """End a sum that was begun and must not be learned of other sites.

    Raises:
        UnusedRoundError: Always.
    """
    error = UnusedRoundError(
        f"{asked.request.task} of round {asked.request.round_number} was begun with "
        f"{', '.join(sorted(begun))}, and must not be learned of other sites, but {why}; "
        f"{remedy or 'start a new run'}"
    )
    grid.sites.tell("incident", str(error))
    raise error


def folder_of(grid: GridExchange) -> Path:
    """Return the folder of what the server remembers of sums."""
    return grid.sites.channel.nodes.parent
