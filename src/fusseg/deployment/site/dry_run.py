"""Work out what a site would send, without a server: nothing leaves the machine."""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fusseg.config.compute import choose_compute
from fusseg.config.file import load_config
from fusseg.core.errors import ConfigError
from fusseg.data.findings import Finding
from fusseg.deployment.secure_sum.agreement import SIGNATURE_BYTES
from fusseg.deployment.secure_sum.pair_keys import KEY_BYTES, PublicKeys, SignedKeys
from fusseg.deployment.secure_sum.shares import SEALED_BYTES, Dealt
from fusseg.deployment.site.join import JoinOptions, check_join
from fusseg.deployment.site.site_data import FILTERBANK, PreparedSite, prepare_site
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.deployment.site.sum_answers import read_roster
from fusseg.deployment.wire.ledger import LedgerLine, describe_message
from fusseg.deployment.wire.offer import Offer, make_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import Request, pack_hello, pack_update
from fusseg.deployment.wire.sum_messages import (
    SUM_HELLO,
    SUM_KEYS,
    SUM_REVEAL,
    SUM_SHARES,
    Session,
    Wanted,
    pack_dealt,
    pack_keys,
    pack_masked,
    pack_revealed,
)
from fusseg.features.backbones import load_backbone
from fusseg.features.extraction import Progress
from fusseg.federation.answer import answer
from fusseg.federation.head_precision import narrow_update, receive_state
from fusseg.federation.hello import agree, say_hello, say_open_hello
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, sent_parts
from fusseg.federation.rounds import initial_state
from fusseg.federation.secure_sums import (
    make_hello_term,
    make_term,
    open_parts,
    rules_of_sum,
    sites_needed,
)
from fusseg.federation.state import Hello
from fusseg.federation.strategies import resolve
from fusseg.runs.prepare import is_centered

_RUN = "dryrun"


def rehearse(
    settings: SiteSettings, options: JoinOptions
) -> Generator[Progress | Finding, None, list[tuple[int, LedgerLine]]]:
    """Compute a site's messages under the settings of its configuration, with one step per task.

    The messages have the names, shapes and types of real ones. A head is trained for one step only,
    since the number of steps does not change its size.

    Args:
        settings: The operator's decisions; `pinned` names the configuration.
        options: Only checked: no connection is opened.

    Yields:
        Findings about the images, and the progress of the extraction.

    Returns:
        The kinds of messages, each with the number of times that it would be sent.

    Raises:
        ConfigError: If no configuration is given, or it cannot be used.
        DataError: If the data cannot be used.
    """
    if settings.pinned is None:
        raise ConfigError("--dry-run needs --config CONFIG.toml: what is sent follows from it")
    check_join(settings, options)
    config = load_config(Path(settings.pinned))
    name, compute = settings.backbone or FILTERBANK, choose_compute(config.compute)
    backbone = load_backbone(name, compute, config.backbone.grid)
    center = is_centered(config, backbone)
    offer = make_offer(config, _RUN, backbone.fingerprint, center=center)
    prepared = yield from prepare_site(settings, offer)
    sites = [*read_roster(Path(settings.roster))] if settings.roster is not None else []
    return _messages(prepared, offer, sites)


def describe_sent(messages: Sequence[tuple[int, LedgerLine]]) -> Iterator[str]:
    """Describe what would be sent, with one line per tensor."""
    total = 0
    for times, line in messages:
        total += times * line.bytes
        yield f"{line.task}: {line.bytes:,} bytes, {times} time{'' if times == 1 else 's'}"
        for tensor in line.tensors:
            shape = "x".join(map(str, tensor.shape)) or "1"
            yield f"    tensor {tensor.name}: {shape} {tensor.dtype}, {tensor.bytes:,} bytes"
        for name, value in line.fields.items():
            yield f"    {name}: {value}"
    yield f"in all {total:,} bytes, and nothing else; nothing was sent now"


def _messages(
    prepared: PreparedSite, offer: Offer, sites: Sequence[str]
) -> list[tuple[int, LedgerLine]]:
    config, client = offer.config, prepared.client
    protocol = resolve(config)
    hello = say_hello(client, protocol, center=offer.center)
    hidden = protocol.privacy.secure_sum
    said = say_open_hello(client) if hidden else hello
    found = [(1, pack_hello(said, offer.digest, offer.run))]
    if hidden:
        found += _stages_of_sums(hello, protocol, offer, sites)
    plan = replace(agree([hello], protocol, offer.fingerprint, center=offer.center), num_steps=1)
    state = receive_state(initial_state(protocol, plan), protocol.wire)
    asked = [
        task
        for number in range(protocol.first_round, protocol.num_rounds + 1)
        for task in protocol.tasks(number)
    ]
    codes = KeptCodes(protocol.positions_per_image, protocol.seed)
    # By name and number of starts: a task object may be created again for every round.
    for (name, starts), task in {(task.name, task.starts): task for task in asked}.items():
        received = replace(state, starts=(state.model,) * starts)
        update = answer(received, task, None, client, protocol, codes).update
        parts = sent_parts(task, received, protocol)
        request = Request(offer.run, offer.digest, name, 1, 0)
        times = sum((one.name, one.starts) == (name, starts) for one in asked)
        if hidden:
            # In a real message the numbers of the term are masked.
            height, width, _ = client.features.map_shape
            needed = sites_needed(protocol.privacy.threshold, len(sites))
            rules = rules_of_sum(task, parts, protocol, height * width, needed)
            term = make_term(update, rules, len(sites))
            opened = {name: update.parts[name] for name in open_parts(parts)}
            found.append((times, _hide(offer, name, Packet({}, _name_term(term, opened)))))
            continue
        sent = narrow_update(update, parts, state.model.head, protocol.wire)
        found.append((times, pack_update(sent, request)))
    lines = [
        (times, describe_message(client.client_id, "to server", packet.tensors, packet.fields))
        for times, packet in found
    ]
    if prepared.labeled is not None and prepared.labeled.classes is not None:
        lines.append((1, _counts(prepared, offer)))
    return lines


def _stages_of_sums(
    hello: Hello, protocol: Protocol, offer: Offer, sites: Sequence[str]
) -> list[tuple[int, Packet]]:
    """Make the messages of secure sums besides the terms, with zeros for keys and shares."""
    numbers = range(protocol.first_round, protocol.num_rounds + 1)
    sums = Counter(len(protocol.tasks(number)) for number in numbers)
    # The hellos have a session of their own, with one sum.
    sums[1] += 1
    keys, dealt = PublicKeys(*[bytes(KEY_BYTES)] * 3), bytes(SEALED_BYTES)
    needed = sites_needed(protocol.privacy.threshold, len(sites))
    wanted = Wanted(needed, bytes(KEY_BYTES).hex())
    found = []
    for many, times in sorted(sums.items()):
        signed = SignedKeys(hello.client_id, (keys,) * many, b"")
        shares = [Dealt(b"", bytes(KEY_BYTES), dict.fromkeys(sites, dealt))] * many
        found.append((times, _hide(offer, SUM_KEYS, pack_keys(signed, wanted))))
        found.append((times, _hide(offer, SUM_SHARES, pack_dealt(shares, sorted(sites)))))
    term = Packet({}, _name_term(make_hello_term(hello, protocol, len(sites)), {}))
    found.append((1, _hide(offer, SUM_HELLO, term)))
    revealed = Packet({}, pack_revealed(dict.fromkeys(sites, bytes(KEY_BYTES))))
    times = sum(many * times for many, times in sums.items())
    return [*found, (times, _hide(offer, SUM_REVEAL, revealed))]


def _hide(offer: Offer, task: str, packet: Packet) -> Packet:
    """Add the fields of an answer in a session of secure sums."""
    request, session = (
        Request(offer.run, offer.digest, task, 1, 0),
        Session(offer.run, 1, "round", 1),
    )
    fields = {**request.fields(), **session.fields(), **packet.fields, "state": "done"}
    return Packet(fields, packet.tensors)


def _name_term(term: Int64[Tensor, " numbers"], opened: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return pack_masked(term.numpy().view(np.uint64), bytes(SIGNATURE_BYTES), opened)


def _counts(prepared: PreparedSite, offer: Offer) -> LedgerLine:
    assert prepared.labeled is not None
    assert prepared.labeled.classes is not None
    names = prepared.labeled.classes.names
    model = offer.config.model
    # With "auto" the server decides after training; there are never more regions than clusters.
    regions = model.num_regions if isinstance(model.num_regions, int) else model.num_clusters
    counts = torch.zeros(regions, len(names), dtype=torch.int64)
    request = Request(offer.run, offer.digest, "evaluate", 1, 0)
    fields = {**request.fields(), "state": "done", "classes": json.dumps(names)}
    fields["num_images"] = len(prepared.labeled.views)
    return describe_message(prepared.client.client_id, "to server", {"confusion": counts}, fields)
