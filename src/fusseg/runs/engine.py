"""The engine of a federation, simulated or deployed: hello, rounds, scores, record.

`experiment.py` runs it over clients in this process, `deployment/` over sites behind a network.
Both give it `Participants`; everything else stands here once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.data.stored import Stored, sum_up
from fusseg.evaluation.held_out import HeldOut, evaluate
from fusseg.features.backbones import Backbone
from fusseg.features.pipeline import Skipped
from fusseg.federation.answer import current_model
from fusseg.federation.hello import agree
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Exchange, Round, num_participants, run_rounds
from fusseg.federation.state import ClientUpdate, GlobalState, Hello
from fusseg.runs.directory import (
    CONFIG,
    RECORD,
    Record,
    SavedState,
    has_state,
    load_record,
    load_state,
    save_record,
)
from fusseg.runs.finished_rounds import (
    check_not_behind,
    enter_scores,
    is_scored,
    keep_round,
    rewind_record,
)
from fusseg.runs.record import (
    GLOBAL,
    RoundLog,
    describe_evaluations,
    describe_hello,
    describe_round,
    describe_settings,
    describe_site_scores,
    describe_skipped,
    new_record,
)
from fusseg.runs.warm_start import start_state
from fusseg.segmentation.assignment import Segmenter, build_segmenter
from fusseg.segmentation.objective import Model


@dataclass(frozen=True)
class Participants:
    """Whoever takes part, in this process or over a network: what the engine asks of them."""

    engine: str
    """How they are reached, as the record says."""
    hello: Callable[[], Sequence[Hello]]
    """Wait for the clients, and list what each says once."""
    begin: Callable[[SavedState, Record], Exchange]
    """Make the exchange of the rounds that are left."""
    take_log: Callable[[], RoundLog]
    """What happened in the exchanges since it was last asked."""
    command: str
    """What repeats the run, in its own directory."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Which images each client has, where this process knows."""
    refused: Callable[[], Mapping[str, str]] = dict
    """Who is no part of the federation, and why."""
    score: Callable[[GlobalState], Record] | None = None
    """Score the model at the clients; None: the server scores it on the images it has."""
    finish: Callable[[GlobalState], None] = lambda _state: None
    """Give them the trained model."""


@dataclass(frozen=True)
class Federation:
    """All that the rounds work on."""

    run_dir: Path
    config: Config
    protocol: Protocol
    backbone: Backbone
    """The server's own."""
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    shown: HeldOut | None
    """What the server scores the model on; None: it has no images."""
    skipped: tuple[Skipped, ...]
    stored: tuple[Stored, ...]
    """What files of training images hold, where this process sees them."""
    seconds: float
    """Of the extraction."""
    participants: Participants


@dataclass(frozen=True)
class TrainingBegun:
    """Features are there and the clients agreed; rounds follow."""

    num_rounds: int
    """Of training, and of the Lloyd finish."""
    updates_done: int
    """Client updates of an interrupted run that goes on."""
    num_updates: int
    """Client updates of the whole run."""


@dataclass(frozen=True)
class RoundDone:
    """A round is finished, saved and entered in the record."""

    entry: Mapping[str, Any]
    """Its entry in the record."""


@dataclass(frozen=True)
class TrainingDone:
    """All rounds are finished."""

    saved: SavedState
    record: Record


def run_federation(
    federation: Federation,
) -> Iterator[TrainingBegun | ClientUpdate | RoundDone | TrainingDone]:
    """Run the rounds that are left, from the last finished one.

    Args:
        federation: With a run directory that holds its configuration.

    Yields:
        What has just happened, down to single client updates.

    Raises:
        FussegError: If the run cannot go on; what is finished is kept.
    """
    set_threads(federation.config.compute)
    protocol, participants = federation.protocol, federation.participants
    saved, record = _open_run(federation)
    exchange = participants.begin(saved, record)
    yield _begun(protocol, len(record["clients"]), saved.state.round_number)
    started = time.perf_counter()
    for event in run_rounds(saved.state, exchange, protocol):
        if isinstance(event, ClientUpdate):
            yield event
            continue
        seconds = time.perf_counter() - started
        saved = replace(saved, state=event.state)
        entry = _enter_round(record, event, saved, federation, seconds)
        keep_round(federation.run_dir, record, event, saved)
        yield RoundDone(entry)
        started = time.perf_counter()
    participants.finish(saved.state)
    yield TrainingDone(saved, record)


def final_models(saved: SavedState, protocol: Protocol) -> dict[str, Model]:
    """Name the models that are scored: the global one, or each client's own (E or C off).

    Args:
        saved: State after a round.
        protocol: Which parts are shared.
    """
    if not protocol.keeps_own_models:
        return {GLOBAL: saved.state.model}
    return {
        client_id: current_model(saved.state, memory, protocol)
        for client_id, memory in sorted(saved.memories.items())
    }


def score_models(segmenters: Mapping[str, Segmenter], shown: HeldOut) -> dict[str, Any]:
    """Score models on images, as the record describes it."""
    evaluations = {name: evaluate(segmenter, shown) for name, segmenter in segmenters.items()}
    return describe_evaluations(evaluations, shown.classes)


def check_resumable(run_dir: Path, config: Config) -> None:
    """Refuse to go on under other settings than a run was begun with, or in another precision.

    Args:
        run_dir: Run directory; nothing is checked before its first finished round.
        config: Its configuration, as it is now.

    Raises:
        ConfigError: If a setting that decides results was edited, or `auto` stands for another
            precision here.
        DataError: If record or state are damaged, or not of one round.
    """
    if not has_state(run_dir):
        return
    record = load_record(run_dir)
    begun, here = record["settings"], describe_settings(config)
    for name in sorted(begun.keys() | here.keys()):
        if begun.get(name) != here.get(name):
            raise ConfigError(
                f"{run_dir / CONFIG} was edited: {name} is {here.get(name)!r}, but the run was "
                f"begun with {begun.get(name)!r}; set it back, or start a new run"
            )
    _check_precision(record, config, run_dir)


def check_fingerprint(saved: SavedState, backbone: Backbone, run_dir: Path) -> None:
    """Refuse another backbone than the one a run was trained on.

    Raises:
        ConfigError: If the fingerprints differ.
    """
    if backbone.fingerprint != saved.fingerprint:
        raise ConfigError(
            f"{run_dir} was trained on a backbone with fingerprint {saved.fingerprint[:16]}, but "
            f"{backbone.name} has {backbone.fingerprint[:16]}; restore its weights"
        )


def _open_run(federation: Federation) -> tuple[SavedState, Record]:
    """Restore the last finished round, or say hello and draw the state before round 1."""
    run_dir, protocol = federation.run_dir, federation.protocol
    saved, record = _restore(federation) if has_state(run_dir) else _begin(federation)
    rewind_record(record, saved.state.round_number, protocol)
    record["seconds"]["extract"] += federation.seconds
    record["skipped_images"] = describe_skipped(federation.skipped)
    record["stored_values"] = sum_up(federation.stored)
    save_record(run_dir, record)
    return saved, record


def _restore(federation: Federation) -> tuple[SavedState, Record]:
    run_dir, config = federation.run_dir, federation.config
    saved, record = load_state(run_dir), load_record(run_dir)
    check_not_behind(run_dir, record, saved.state.round_number)
    check_fingerprint(saved, federation.backbone, run_dir)
    check_resumable(run_dir, config)
    _check_same_images(saved, federation)
    num_clusters, code_dim = saved.state.model.centroids.shape
    if (num_clusters, code_dim) != (config.model.num_clusters, config.model.code_dim):
        raise ConfigError(
            f"{run_dir} has {num_clusters} centroids of {code_dim} channels, but its "
            f"configuration says {config.model.num_clusters} of {config.model.code_dim}"
        )
    return saved, record


def _begin(federation: Federation) -> tuple[SavedState, Record]:
    run_dir, config, protocol = federation.run_dir, federation.config, federation.protocol
    participants, backbone, center = federation.participants, federation.backbone, federation.center
    hellos = sorted(participants.hello(), key=lambda hello: hello.client_id)
    plan = agree(hellos, protocol, backbone.fingerprint, center=center)
    if protocol.strategy.pools_images:
        # One model gets the steps that the whole federation would take.
        plan = replace(plan, num_steps=plan.num_steps * len(hellos))
    num_images = {hello.client_id: hello.num_images for hello in hellos}
    record = new_record(run_dir, config, backbone, num_images, center, participants.engine)
    record["command"] = participants.command
    sent = not protocol.strategy.pools_images
    record["hello"] = describe_hello(hellos, plan, participants.refused(), sent=sent)
    start = start_state(config, protocol, plan, backbone.fingerprint)
    record["start"] = None if start.origin is None else asdict(start.origin)
    digests = dict(participants.digests)
    return SavedState(start.state, {}, backbone.fingerprint, digests), record


def _check_same_images(saved: SavedState, federation: Federation) -> None:
    """Refuse to go on with other images, where this process sees those of the clients."""
    found = federation.participants.digests
    if not found:
        return
    for client_id in sorted(saved.client_digests.keys() | found.keys()):
        if saved.client_digests.get(client_id) != found.get(client_id):
            raise ConfigError(
                f"site {client_id!r} has other training images than when {federation.run_dir} was "
                "started; restore them, or start a new run"
            )


def _check_precision(record: Record, config: Config, run_dir: Path) -> None:
    begun = record.get("compute", {}).get("precision", "float32")
    found = choose_compute(config.compute).precision_name
    if begun != found:
        raise ConfigError(
            f"{run_dir} was begun in {begun} ({RECORD}), but compute.precision "
            f"{config.compute.precision!r} is {found} on this machine; go on where it was begun, "
            "or start a new run"
        )


def _begun(protocol: Protocol, num_clients: int, rounds_done: int) -> TrainingBegun:
    clients = 1 if protocol.strategy.pools_images else num_clients
    asked = num_participants(clients, protocol)
    return TrainingBegun(
        num_rounds=protocol.num_rounds,
        updates_done=asked * protocol.num_exchanges(1, rounds_done),
        num_updates=asked * protocol.num_exchanges(1, protocol.num_rounds),
    )


def _enter_round(
    record: Record, finished: Round, saved: SavedState, federation: Federation, seconds: float
) -> Record:
    """Score the round where the configuration asks for it, and enter it in the record."""
    started = time.perf_counter()
    number, protocol = finished.state.round_number, federation.protocol
    scores: dict[str, Any] = {}
    if is_scored(number, federation.config, protocol):
        scores = _score(saved, federation)
        enter_scores(record, number, scores, protocol)
    log = federation.participants.take_log()
    entry = describe_round(finished, scores, seconds, protocol, log)
    record["rounds"].append(entry)
    if not protocol.strategy.pools_images:
        _name_latecomers(record, finished)
    record["seconds"]["train"] += seconds
    record["seconds"]["evaluate"] += time.perf_counter() - started
    return entry


def _score(saved: SavedState, federation: Federation) -> Record:
    """Score at the clients, on the server's images, or not at all."""
    state, ask = saved.state, federation.participants.score
    if ask is not None:
        return ask(state)
    models = final_models(saved, federation.protocol)
    if federation.shown is None or not models:
        return describe_site_scores(None, None)
    segmenters = {
        name: build_segmenter(model, state.plan.mean_feature) for name, model in models.items()
    }
    return score_models(segmenters, federation.shown)


def _name_latecomers(record: Record, finished: Round) -> None:
    """Add clients to the record's list that joined after round 1."""
    found = {
        update.client_id: update.num_images
        for exchange in finished.exchanges
        for update in exchange.updates
    }
    for client in record["clients"]:
        found.pop(client["client_id"], None)
    record["clients"] += [
        {"client_id": client_id, "num_images": count} for client_id, count in found.items()
    ]
    record["clients"].sort(key=lambda client: str(client["client_id"]))
