"""How a site answers a message, from what it stores on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from fusseg.config.file import dump_config
from fusseg.core.errors import DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.core.visible_text import brief
from fusseg.deployment.site.site_data import own_config, prepare_site, recall_client
from fusseg.deployment.site.site_disk import (
    Preparation,
    SiteSettings,
    load_memory,
    load_offer,
    load_preparation,
    load_settings,
    run_folder,
    save_memory,
    save_offer,
)
from fusseg.deployment.site.sum_answers import (
    FINAL_STAGES,
    STAGES,
    Dealers,
    answer_stage,
    mask_term,
    read_dealers,
    using_sum,
)
from fusseg.deployment.site.sum_state import OwnSession, forget_session, note_noised
from fusseg.deployment.wire.ledger import Field, append_line, describe_message
from fusseg.deployment.wire.offer import HELLO, Offer, unpack_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import (
    EVALUATE,
    Request,
    find_task,
    pack_hello,
    pack_update,
    read_request,
    unpack_task,
)
from fusseg.deployment.wire.received import LackError
from fusseg.deployment.wire.sum_messages import SUM_HELLO
from fusseg.evaluation.held_out import evaluate
from fusseg.features.extraction import wait_for
from fusseg.federation.answer import answer, current_model
from fusseg.federation.head_precision import narrow_update
from fusseg.federation.hello import say_hello, say_open_hello
from fusseg.federation.noise import noised_exchanges
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Task, sent_parts
from fusseg.federation.secure_sums import (
    make_hello_term,
    make_term,
    open_parts,
    rules_of_sum,
)
from fusseg.federation.state import Client, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import CONFIG
from fusseg.runs.saved_state import SavedState, save_state
from fusseg.segmentation.assignment import build_segmenter


def answer_packet(packet: Packet, folder: Path) -> Packet:
    """Do what a message asks for, and write the message and the answer to the ledger.

    Args:
        packet: The message.
        folder: The site's own folder.

    Raises:
        FederationError: If the site refuses; its text may be sent to the server.
        FussegError: If the site's data, cache or disk cannot be used.
    """
    site = load_settings(folder)
    append_line(folder, describe_message(site.name, "to site", packet.tensors, packet.fields))
    if packet.fields.get("task") == HELLO:
        answered = _answer_hello(packet, folder, site)
    else:
        answered = _answer_task(packet, folder, site)
    # Written before the answer leaves: nothing is sent that is not in the ledger.
    note_sent(folder, answered)
    return answered


def note_sent(folder: Path, packet: Packet) -> None:
    """Write an answer to the ledger.

    Raises:
        DataError: If it cannot be written.
    """
    name = load_settings(folder).name
    append_line(folder, describe_message(name, "to server", packet.tensors, packet.fields))


def _answer_hello(packet: Packet, folder: Path, site: SiteSettings) -> Packet:
    try:
        offer = unpack_offer(packet)
    except FederationError as error:
        # Answered as a hello: this ends `fusseg join --once`, which a refused round does not.
        reason = brief(str(error))
        return Packet({"task": HELLO, "round": 0, "state": "refused", "reason": reason})
    known = load_offer(folder)
    if known is None or known.digest != offer.digest:
        save_offer(folder, offer)
    preparation = load_preparation(folder, offer)
    if preparation.state != "ready":
        return _not_ready(offer, preparation)
    client, protocol = recall_client(folder, site, offer), resolve(offer.config)
    if protocol.privacy.secure_sum:
        return pack_hello(say_open_hello(client), offer.digest, offer.run)
    hello = say_hello(client, protocol, center=offer.center)
    return pack_hello(hello, offer.digest, offer.run)


def _not_ready(offer: Offer, preparation: Preparation) -> Packet:
    fields: dict[str, Field] = {
        "task": HELLO,
        "round": 0,
        "run": offer.run,
        "offer": offer.digest,
    }
    if preparation.state == "refused":
        return Packet({**fields, "state": "refused", "reason": brief(preparation.reason)})
    # Numbers of images are no sum.
    hidden = offer.config.privacy.secure_sum
    progress = {
        "done": 0 if hidden else preparation.done,
        "total": 0 if hidden else preparation.total,
    }
    return Packet({**fields, "state": "preparing", **progress})


@dataclass(frozen=True)
class _Run:
    """The federation's run that a message belongs to, at this site."""

    kept: Path
    """Its folder."""
    offer: Offer
    protocol: Protocol
    site: SiteSettings


def _answer_task(packet: Packet, folder: Path, site: SiteSettings) -> Packet:
    request = read_request(packet)
    offer = load_offer(folder)
    if offer is None or (request.offer, request.run) != (offer.digest, offer.run):
        raise FederationError("this site was not offered these settings; say hello first")
    run = _Run(run_folder(folder, offer.run), offer, resolve(offer.config), site)
    hidden = run.protocol.privacy.secure_sum
    if hidden and request.task in FINAL_STAGES:
        return answer_stage(packet, request, run.kept, site, run.protocol)
    preparation = load_preparation(folder, offer)
    if preparation.state != "ready":
        reason = preparation.reason or "its features are not there yet"
        raise FederationError(f"this site is not ready: {reason}")
    if hidden and request.task in STAGES:
        return answer_stage(packet, request, run.kept, site, run.protocol)
    client = recall_client(folder, site, offer)
    if hidden and request.task == SUM_HELLO:
        return _add_hello(packet, request, client, run)
    task = find_task(request, run.protocol, at_sites=offer.config.evaluation.at_sites)
    if task is None:
        return _use_model(packet, request, client, run)
    return _take_part(packet, request, task, client, run)


def _take_part(packet: Packet, request: Request, task: Task, client: Client, run: _Run) -> Packet:
    """Answer a task of the rounds, with an update or a masked term."""
    protocol, plain, dealers = run.protocol, packet, None
    if protocol.privacy.secure_sum:
        plain, dealers = read_dealers(packet, request.place, "round", run.kept, run.site)
    try:
        state = unpack_task(plain, task, protocol, client.features.map_shape[2], run.kept)
    except LackError as error:
        return _lacks(request, error)
    memory = load_memory(run.kept, request.round_number)
    codes = KeptCodes(protocol.positions_per_image, protocol.seed)
    answered = answer(state, task, memory, client, protocol, codes)
    update, parts = answered.update, sent_parts(task, state, protocol)
    if answered.memory is not None and protocol.keeps_memories:
        save_memory(run.kept, request.round_number, answered.memory)
    if dealers is None:
        sent = narrow_update(update, parts, state.model.head, protocol.wire)
        return pack_update(sent, request)
    opened = {name: update.parts[name] for name in open_parts(parts)}
    if protocol.privacy.noise != "none":
        note_noised(run.kept, noised_exchanges(protocol) + protocol.privacy.spare_exchanges)
    with using_sum(dealers, run.kept, run.site) as own:
        # The bound is that of all sites on the roster: the server must not choose it.
        height, width, _ = client.features.map_shape
        rules = rules_of_sum(task, parts, protocol, height * width, own.needed)
        term = make_term(update, rules, len(dealers.roster))
        return _mask(term, opened, request, dealers, own, run)


def _add_hello(packet: Packet, request: Request, client: Client, run: _Run) -> Packet:
    """Answer with the masked term of the sum of the hellos."""
    _, dealers = read_dealers(packet, request.place, "hello", run.kept, run.site)
    hello = say_hello(client, run.protocol, center=run.offer.center)
    with using_sum(dealers, run.kept, run.site) as own:
        term = make_hello_term(hello, run.protocol, len(dealers.roster))
        return _mask(term, {}, request, dealers, own, run)


def _mask(
    term: Int64[Tensor, " numbers"],
    opened: Mapping[str, Tensor],
    request: Request,
    dealers: Dealers,
    own: OwnSession,
    run: _Run,
) -> Packet:
    tensors = mask_term(term, opened, dealers, own, run.site)
    promised: dict[str, Field] = {}
    privacy = run.protocol.privacy
    if privacy.noise != "none" and dealers.session.kind == "round":
        # For the ledger: the budget of the run, and what its noise is.
        promised = {"epsilon": privacy.epsilon, "delta": privacy.delta}
        promised["noise_multiplier"] = privacy.noise_multiplier
    fields = {**request.fields(), **dealers.session.fields(), **promised, "state": "done"}
    return Packet(fields, tensors)


def _use_model(packet: Packet, request: Request, client: Client, run: _Run) -> Packet:
    """Score or store the model."""
    dim = client.features.map_shape[2]
    try:
        state = unpack_task(packet, None, run.protocol, dim, run.kept)
    except LackError as error:
        return _lacks(request, error)
    if request.task == EVALUATE:
        return _evaluate(request, state, run.kept, run.offer, run.site)
    _keep_result(state, run.kept, run.offer, run.site)
    if run.protocol.privacy.secure_sum:
        forget_session(run.kept)
    return Packet({**request.fields(), "state": "done"})


def _lacks(request: Request, error: LackError) -> Packet:
    return Packet({**request.fields(), "state": "lacks", "reason": str(error)})


def _evaluate(
    request: Request, state: GlobalState, kept: Path, offer: Offer, site: SiteSettings
) -> Packet:
    """Count the pixels of the site's labeled images by cluster and class."""
    labeled = wait_for(prepare_site(site, offer)).labeled
    if labeled is None or labeled.classes is None:
        return Packet({**request.fields(), "state": "done", "num_images": 0})
    memory = load_memory(kept, request.round_number + 1)
    model = current_model(state, memory, resolve(offer.config))
    segmenter = build_segmenter(model, state.plan.mean_feature)
    scores = evaluate(segmenter, labeled).scores
    num_images = 0 if scores is None else sum(scores.num_images.values())
    fields = {**request.fields(), "state": "done", "num_images": num_images}
    if scores is None:
        return Packet(fields)
    names = json.dumps(labeled.classes.names)
    return Packet({**fields, "classes": names}, {"confusion": scores.confusion})


def _keep_result(state: GlobalState, kept: Path, offer: Offer, site: SiteSettings) -> None:
    """Store the trained model at the site as a run that `fusseg predict` can use."""
    memory = load_memory(kept, state.round_number + 1)
    result = kept / "result"
    memories = {} if memory is None else {site.name: memory}
    try:
        result.mkdir(parents=True, exist_ok=True)
        write_atomically(result / CONFIG, dump_config(own_config(site, offer)).encode())
    except OSError as error:
        raise DataError(f"cannot write {result}: {error.strerror}") from error
    save_state(result, SavedState(state, memories, offer.fingerprint))
