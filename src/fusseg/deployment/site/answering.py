"""How a site answers a message, from what it stores on disk."""

import json
from pathlib import Path

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
from fusseg.evaluation.held_out import evaluate
from fusseg.features.extraction import wait_for
from fusseg.federation.answer import answer, current_model
from fusseg.federation.head_precision import narrow_update
from fusseg.federation.hello import say_hello
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Task, sent_parts
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
    client = recall_client(folder, site, offer)
    hello = say_hello(client, resolve(offer.config), center=offer.center)
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
    progress = {"done": preparation.done, "total": preparation.total}
    return Packet({**fields, "state": "preparing", **progress})


def _answer_task(packet: Packet, folder: Path, site: SiteSettings) -> Packet:
    request = read_request(packet)
    offer = load_offer(folder)
    if offer is None or (request.offer, request.run) != (offer.digest, offer.run):
        raise FederationError("this site was not offered these settings; say hello first")
    preparation = load_preparation(folder, offer)
    if preparation.state != "ready":
        reason = preparation.reason or "its features are not there yet"
        raise FederationError(f"this site is not ready: {reason}")
    protocol = resolve(offer.config)
    task = find_task(request, protocol, at_sites=offer.config.evaluation.at_sites)
    client = recall_client(folder, site, offer)
    kept = run_folder(folder, offer.run)
    try:
        state = unpack_task(packet, task, protocol, client.features.map_shape[2], kept)
    except LackError as error:
        return Packet({**request.fields(), "state": "lacks", "reason": str(error)})
    if task is not None:
        return _take_part(request, task, state, kept, protocol, client)
    if request.task == EVALUATE:
        return _evaluate(request, state, kept, offer, site)
    _keep_result(state, kept, offer, site)
    return Packet({**request.fields(), "state": "done"})


def _take_part(
    request: Request,
    task: Task,
    state: GlobalState,
    kept: Path,
    protocol: Protocol,
    client: Client,
) -> Packet:
    memory = load_memory(kept, request.round_number)
    codes = KeptCodes(protocol.positions_per_image, protocol.seed)
    answered = answer(state, task, memory, client, protocol, codes)
    if answered.memory is not None and protocol.keeps_memories:
        save_memory(kept, request.round_number, answered.memory)
    parts = sent_parts(task, state, protocol)
    sent = narrow_update(answered.update, parts, state.model.head, protocol.wire)
    return pack_update(sent, request)


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
