"""What a site answers to a message, from what it keeps on disk."""

import json
from pathlib import Path

from fusseg.atomic import write_atomically
from fusseg.config import Config
from fusseg.config_file import dump_config
from fusseg.deployment.ledger import Field, append_line, describe_message
from fusseg.deployment.offer import HELLO, Offer, unpack_offer
from fusseg.deployment.packet import Packet
from fusseg.deployment.payloads import (
    EVALUATE,
    FINISH,
    Request,
    pack_hello,
    pack_update,
    read_request,
    unpack_state,
)
from fusseg.deployment.site import (
    Preparation,
    SiteSettings,
    load_offer,
    load_own_model,
    load_preparation,
    load_settings,
    run_folder,
    save_offer,
    save_own_model,
)
from fusseg.deployment.site_data import own_config, prepare_site, recall_client
from fusseg.errors import DataError, FederationError
from fusseg.evaluation.held_out import evaluate
from fusseg.features.extraction import wait_for
from fusseg.federation.client import Client, answer, current_model, remembers_own_model
from fusseg.federation.hello import say_hello
from fusseg.federation.points import KeptCodes
from fusseg.federation.schedule import num_rounds, tasks
from fusseg.federation.state import GlobalState
from fusseg.federation.strategies import keeps_own_models, resolve_federation
from fusseg.federation.wire import narrow_update
from fusseg.runs import CONFIG, SavedState, save_state
from fusseg.segmentation.segmenter import build_segmenter
from fusseg.segmentation.shifts import balance_quantiles


def answer_packet(packet: Packet, folder: Path) -> Packet:
    """Do what a message asks for, and note both in the ledger.

    Args:
        packet: The message.
        folder: The site's own folder.

    Raises:
        FederationError: If the site refuses; fit to be sent.
        FussegError: If the site's data, cache or disk fail it.
    """
    site = load_settings(folder)
    append_line(folder, describe_message(site.name, "to site", packet.tensors, packet.fields))
    if packet.fields.get("task") == HELLO:
        answered = _answer_hello(packet, folder, site)
    else:
        answered = _answer_task(packet, folder, site)
    # The line is written before the message leaves: nothing is sent that the ledger lacks.
    note_sent(folder, answered)
    return answered


def note_sent(folder: Path, packet: Packet) -> None:
    """Note an answer in the ledger.

    Raises:
        DataError: If it cannot be written.
    """
    name = load_settings(folder).name
    append_line(folder, describe_message(name, "to server", packet.tensors, packet.fields))


def _answer_hello(packet: Packet, folder: Path, site: SiteSettings) -> Packet:
    try:
        offer = unpack_offer(packet)
    except FederationError as error:
        # Answered as a hello: `fusseg join --once` ends with it, and not with a refused round.
        return Packet({"task": HELLO, "round": 0, "state": "refused", "reason": str(error)})
    known = load_offer(folder)
    if known is None or known.digest != offer.digest:
        save_offer(folder, offer)
    preparation = load_preparation(folder, offer)
    if preparation.state != "ready":
        return _not_ready(offer, preparation)
    client = recall_client(folder, site, offer)
    local = balance_quantiles(offer.config.local, offer.config.model.num_clusters)
    hello = say_hello(client, local, offer.config.seed, center=offer.center)
    return pack_hello(hello, offer.digest, offer.run)


def _not_ready(offer: Offer, preparation: Preparation) -> Packet:
    fields: dict[str, Field] = {
        "task": HELLO,
        "round": 0,
        "run": offer.run,
        "offer": offer.digest,
    }
    if preparation.state == "refused":
        return Packet({**fields, "state": "refused", "reason": preparation.reason})
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
    federation = resolve_federation(offer.config.federation)
    _check_task(request, offer.config)
    client = recall_client(folder, site, offer)
    dim = client.features.map_shape[2]
    state = unpack_state(packet, offer.config, federation, dim)
    kept = run_folder(folder, offer.run)
    if request.task == EVALUATE:
        return _evaluate(request, state, kept, offer, site)
    if request.task == FINISH:
        _keep_result(state, kept, offer, site)
        return Packet({**request.fields(), "state": "done"})
    return _take_part(request, state, kept, offer.config, client)


def _check_task(request: Request, config: Config) -> None:
    """Refuse what the agreed settings do not ask of a site: other sums, or further rounds."""
    federation = resolve_federation(config.federation)
    number, task = request.round_number, request.task
    agreed: set[str] = {FINISH, *tasks(number, federation)}
    if config.evaluation.at_sites:
        agreed.add(EVALUATE)
    if number > num_rounds(federation) or task not in agreed:
        raise FederationError(f"the agreed settings hold no task {task!r} in round {number}")


def _take_part(
    request: Request, state: GlobalState, kept: Path, config: Config, client: Client
) -> Packet:
    assert request.task in ("train", "lloyd", "moments")
    federation = resolve_federation(config.federation)
    own = load_own_model(kept, request.round_number)
    codes = KeptCodes(federation.positions_per_image, config.seed)
    update, after = answer(state, request.task, own, client, config.local, federation, codes)
    changes = request.task == "train" or keeps_own_models(federation)
    if after is not None and changes and remembers_own_model(federation, config.local):
        save_own_model(kept, request.round_number, after)
    return pack_update(narrow_update(update, state.model.head, federation.wire), request)


def _evaluate(
    request: Request, state: GlobalState, kept: Path, offer: Offer, site: SiteSettings
) -> Packet:
    """Count the pixels of the site's labeled images by cluster and class."""
    labeled = wait_for(prepare_site(site, offer)).labeled
    if labeled is None or labeled.classes is None:
        return Packet({**request.fields(), "state": "done", "num_images": 0})
    own = load_own_model(kept, request.round_number + 1)
    model = current_model(state, own, resolve_federation(offer.config.federation))
    segmenter = build_segmenter(model, state.plan.mean_feature)
    scores = evaluate(segmenter, labeled).scores
    num_images = 0 if scores is None else sum(scores.num_images.values())
    fields = {**request.fields(), "state": "done", "num_images": num_images}
    if scores is None:
        return Packet(fields)
    names = json.dumps(labeled.classes.names)
    return Packet({**fields, "classes": names}, {"confusion": scores.confusion})


def _keep_result(state: GlobalState, kept: Path, offer: Offer, site: SiteSettings) -> None:
    """Leave the trained model at the site, as a run that `fusseg predict` can use."""
    own = load_own_model(kept, state.round_number + 1)
    result = kept / "result"
    models = {} if own is None else {site.name: own}
    try:
        result.mkdir(parents=True, exist_ok=True)
        write_atomically(result / CONFIG, dump_config(own_config(site, offer)).encode())
    except OSError as error:
        raise DataError(f"cannot write {result}: {error.strerror}") from error
    save_state(result, SavedState(state, models, offer.fingerprint))
