"""A deployment's rounds on the server: hello, rounds, scores, record, as in a simulated run."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from flwr.serverapp import Grid
from torch import Tensor

from fusseg.atomic import write_atomically
from fusseg.bookkeeping import enter_scores, is_scored, keep_round, rewind_record
from fusseg.config import Config
from fusseg.data.items import Classes
from fusseg.deployment.admission import admitted_nodes
from fusseg.deployment.events import DeploymentEvent, write_event
from fusseg.deployment.exchange import GridExchange, RoundLog, enter_traffic
from fusseg.deployment.greeting import Guests, quorum, wait_for_sites
from fusseg.deployment.offer import make_offer
from fusseg.deployment.packet import take_int, take_word
from fusseg.deployment.payloads import EVALUATE, FINISH, RoundTask, pack_state
from fusseg.deployment.post import NODES, Post, Reply, ask, online_sites
from fusseg.deployment.server_data import PreparedServer, prepare_server
from fusseg.errors import DataError, FederationError
from fusseg.evaluation.held_out import score_sites
from fusseg.experiment import check_fingerprint, final_models, score_models
from fusseg.features.extraction import wait_for
from fusseg.federation.checks import check_tensors
from fusseg.federation.hello import agree
from fusseg.federation.rounds import Round, run_rounds
from fusseg.federation.schedule import num_rounds
from fusseg.federation.state import GlobalState
from fusseg.federation.strategies import keeps_own_models, resolve_federation
from fusseg.record import (
    DEPLOYMENT,
    describe_hello,
    describe_round,
    describe_site_scores,
    describe_skipped,
    new_record,
)
from fusseg.runs import (
    Record,
    SavedState,
    has_state,
    load_record,
    load_state,
    read_run_config,
    save_record,
)
from fusseg.segmentation.segmenter import build_segmenter
from fusseg.warm_start import start_state

FLOWER = "flower"
"""Flower's folder in the run directory."""
_RUN_ID = "run-id"
_LOCK_SECONDS = 60.0
"""An earlier server process that was orphaned needs a moment to notice."""
_FINISH_SECONDS = 120.0
_MOST_CLASSES = 256


@dataclass(frozen=True)
class Server:
    """All that the rounds of a deployment work on."""

    run_dir: Path
    config: Config
    prepared: PreparedServer
    exchange: GridExchange


def run_federation(grid: Grid, run_dir: Path, cache: Path) -> None:
    """Run the rounds that are left, from the last finished one.

    Args:
        grid: Flower's way to the sites.
        run_dir: Run directory with a configuration.
        cache: Folder of the feature cache.

    Raises:
        FussegError: If the run cannot go on; what is finished is kept.
    """
    lock = FileLock(run_dir / FLOWER / "rounds.lock")
    try:
        with lock.acquire(timeout=_LOCK_SECONDS):
            _run(grid, run_dir, cache)
    except Timeout as error:
        raise FederationError(f"another process runs the rounds of {run_dir}") from error


def _run(grid: Grid, run_dir: Path, cache: Path) -> None:
    server = _open_server(grid, run_dir, cache)
    saved, record = _begin(server)
    exchange, config = server.exchange, server.config
    started = time.perf_counter()
    for event in run_rounds(saved.state, exchange, exchange.federation, config.seed):
        if not isinstance(event, Round):
            continue
        seconds = time.perf_counter() - started
        saved = replace(saved, state=event.state)
        entry = _enter_round(record, event, saved, server, seconds)
        keep_round(run_dir, record, event, saved)
        write_event(run_dir, DeploymentEvent("round", describe_entry(entry, exchange)))
        started = time.perf_counter()
    _finish(server, saved.state)
    write_event(run_dir, DeploymentEvent("finished", "all rounds are finished"))


def describe_entry(entry: Record, exchange: GridExchange) -> str:
    """Sum up a finished round in a line."""
    text = f"round {entry['round']} of {num_rounds(exchange.federation)}"
    text += "" if entry["loss"] is None else f": loss {entry['loss']:.4f}"
    if entry["mean_iou"] is not None:
        text += f", mIoU {entry['mean_iou']:.4f}"
    sites = len(entry["clients"])
    return f"{text}, {sites} site{'' if sites == 1 else 's'} ({entry['seconds']:.1f} s)"


def _open_server(grid: Grid, run_dir: Path, cache: Path) -> Server:
    config = read_run_config(run_dir)
    prepared = wait_for(prepare_server(config, cache))
    fingerprint = prepared.backbone.fingerprint
    offer = make_offer(config, _run_id(run_dir), fingerprint, center=prepared.center)
    exchange = GridExchange(
        post=Post(grid, run_dir, run_dir / FLOWER / NODES),
        offer=offer,
        config=config,
        federation=resolve_federation(config.federation, config.local),
        guests=Guests(),
        shape=(prepared.positions(config), prepared.feature_dim),
        log=RoundLog(),
    )
    return Server(run_dir, config, prepared, exchange)


def _run_id(run_dir: Path) -> str:
    """Name the run for its sites, the same name after every restart of the server."""
    path = run_dir / FLOWER / _RUN_ID
    try:
        if not path.exists():
            write_atomically(path, secrets.token_hex(8).encode())
        return path.read_text().strip()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _begin(server: Server) -> tuple[SavedState, Record]:
    """Restore the last finished round, or greet the sites and draw the state before round 1."""
    run_dir, config, prepared = server.run_dir, server.config, server.prepared
    exchange = server.exchange
    if has_state(run_dir):
        saved, record = load_state(run_dir), load_record(run_dir)
        check_fingerprint(saved, prepared.backbone, run_dir)
        rewind_record(record, saved.state.round_number, exchange.federation)
        return saved, record
    admitted = len(admitted_nodes(exchange.post.nodes))
    wanted = max(admitted, quorum(config, exchange.post))
    wait_for_sites(exchange.post, exchange.offer, exchange.guests, exchange.shape, wanted)
    hellos = [hello for _, hello in sorted(exchange.guests.hellos.items())]
    fingerprint = prepared.backbone.fingerprint
    plan = agree(hellos, config.local, fingerprint, center=prepared.center)
    num_images = {hello.client_id: hello.num_images for hello in hellos}
    record = new_record(run_dir, config, prepared.backbone, num_images, prepared.center, DEPLOYMENT)
    record["command"] = f"fusseg serve {run_dir / 'config.toml'}"
    record["hello"] = describe_hello(hellos, plan, sent=True)
    record["seconds"]["extract"] = prepared.seconds
    record["skipped_images"] = describe_skipped(prepared.skipped)
    start = start_state(config, plan, fingerprint)
    record["start"] = None if start.origin is None else asdict(start.origin)
    save_record(run_dir, record)
    return SavedState(start.state, {}, fingerprint), record


def _enter_round(
    record: Record, finished: Round, saved: SavedState, server: Server, seconds: float
) -> Record:
    started = time.perf_counter()
    number, federation = finished.state.round_number, server.exchange.federation
    scores: dict[str, Any] = {}
    if is_scored(number, server.config):
        scores = _score(server, saved)
        enter_scores(record, number, scores, federation)
    incidents = server.exchange.log.incidents
    entry = describe_round(finished, scores, seconds, federation, incidents, sent=True)
    enter_traffic(server.exchange.log, entry)
    record["rounds"].append(entry)
    _name_latecomers(record, entry)
    record["seconds"]["train"] += seconds
    record["seconds"]["evaluate"] += time.perf_counter() - started
    return entry


def _name_latecomers(record: Record, entry: Record) -> None:
    """Add sites to the record's list that joined after round 1."""
    known = {client["client_id"] for client in record["clients"]}
    record["clients"] += [
        {"client_id": client["client_id"], "num_images": client["num_images"]}
        for client in entry["clients"]
        if client["client_id"] not in known
    ]
    record["clients"].sort(key=lambda client: str(client["client_id"]))


def _score(server: Server, saved: SavedState) -> Record:
    """Score on the server's held-out images, at the sites, or not at all."""
    state = saved.state
    if server.config.evaluation.at_sites:
        return _score_at_sites(server, state)
    if server.prepared.held_out is None or keeps_own_models(server.exchange.federation):
        # Where a part of the model stays with the sites, the server has none to score.
        return describe_site_scores(None, None)
    models = final_models(saved, server.exchange.federation)
    segmenters = {
        name: build_segmenter(model, state.plan.mean_feature) for name, model in models.items()
    }
    return score_models(segmenters, server.prepared.held_out)


def _score_at_sites(server: Server, state: GlobalState) -> Record:
    """Add up the sites' confusion counts."""
    counts: dict[str, Sequence[Tensor]] = {}
    num_images: dict[str, int] = {}
    names: tuple[str, ...] | None = None
    for reply in _ask_all(server, state, EVALUATE, server.config.federation.round_timeout):
        try:
            found = _read_counts(reply, server, state, names)
        except FederationError as error:
            server.exchange.note(reply.site, EVALUATE, str(error))
            continue
        if found is None:
            continue
        names, confusion, images = found
        counts[reply.site], num_images[reply.site] = [confusion], images
    scores = score_sites(counts)
    if scores is None or names is None:
        return describe_site_scores(None, None)
    scores = replace(scores, num_images={site: num_images[site] for site in scores.num_images})
    return describe_site_scores(scores, Classes(names))


def _read_counts(
    reply: Reply, server: Server, state: GlobalState, known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Tensor, int] | None:
    request = server.exchange.request(EVALUATE, state.round_number, 0)
    packet = server.exchange.accept(reply, request)
    most = server.exchange.guests.hellos[reply.site].num_images
    images = take_int(packet, "num_images", 0, most)
    if images == 0:
        return None
    names = _class_names(take_word(packet, "classes"))
    if known not in (None, names):
        raise FederationError(f"its classes are {names}, another site's {known}")
    shape = (server.config.model.num_clusters, len(names))
    expected = {"confusion": torch.zeros(shape, dtype=torch.int64)}
    check_tensors(f"client {reply.site!r}", packet.tensors, expected)
    confusion = packet.tensors["confusion"]
    if bool((confusion < 0).any()) or bool((confusion > 2**53).any()):
        raise FederationError("its pixel counts are out of bounds")
    return names, confusion, images


def _class_names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FederationError(f"field 'classes' must be a list of names, got {text!r:.80}")
    if not 0 < len(names) <= _MOST_CLASSES:
        raise FederationError(f"it has {len(names)} classes, must be 1 to {_MOST_CLASSES}")
    return tuple(names)


def _finish(server: Server, state: GlobalState) -> None:
    """Give the sites the trained model; one that misses it has all but that."""
    exchange = server.exchange
    for reply in _ask_all(server, state, FINISH, _FINISH_SECONDS):
        try:
            exchange.accept(reply, exchange.request(FINISH, state.round_number, 0))
        except FederationError as error:
            exchange.note(reply.site, FINISH, str(error))


def _ask_all(
    server: Server, state: GlobalState, task: RoundTask, timeout: float
) -> Sequence[Reply]:
    exchange = server.exchange
    request = exchange.request(task, state.round_number, 0)
    packet = pack_state(state, request, exchange.federation)
    there = exchange.guests.are_ready(online_sites(exchange.post))
    replies = list(ask(exchange.post, dict.fromkeys(there, packet), timeout))
    for reply in replies:
        exchange.count(reply)
    return sorted(replies, key=lambda reply: reply.site)
