"""The engine of a federation, simulated or deployed: hello, rounds, scores, record.

`train.py` runs it with clients in this process, `deployment/` with sites behind a network. Both
give it `Participants`; everything else is the same.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusseg.config.compute import set_threads
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError
from fusseg.data.class_map import read_class_map
from fusseg.data.stored import Stored, sum_up
from fusseg.evaluation.held_out import HeldOut
from fusseg.features.backbones import Backbone
from fusseg.features.pipeline import Skipped
from fusseg.federation.hello import agree, agree_on_total
from fusseg.federation.judge import TRAINED, kept_candidate
from fusseg.federation.noise import describe_guarantee
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Exchange, Round, num_updates, run_rounds
from fusseg.federation.state import ClientUpdate, GlobalState, Hello, HelloTotal, Total
from fusseg.federation.teaching import differing_classes
from fusseg.runs.directory import load_record, save_record
from fusseg.runs.finished_rounds import (
    check_not_behind,
    enter_scores,
    is_scored,
    keep_round,
    rewind_record,
)
from fusseg.runs.model_scores import describe_site_scores, final_models, score_models
from fusseg.runs.record import (
    RoundLog,
    describe_candidates,
    describe_hello,
    describe_round,
    describe_skipped,
    new_record,
)
from fusseg.runs.record_form import ModelScores, Record, RoundEntry
from fusseg.runs.resuming import (
    check_fingerprint,
    check_not_ended,
    check_resumable,
    check_same_images,
)
from fusseg.runs.saved_state import SavedState, has_state, load_state
from fusseg.runs.taught_classes import describe_taught, write_class_colors
from fusseg.runs.warm_start import start_state
from fusseg.segmentation.assignment import build_segmenter


@dataclass(frozen=True)
class Participants:
    """The clients, in this process or over a network, as the engine talks to them."""

    engine: str
    """How the clients are reached, as in the record."""
    hello: Callable[[], Sequence[Hello] | HelloTotal]
    """Wait for the clients and return the hello of each, or their sum."""
    begin: Callable[[SavedState, Record], Exchange]
    """Create the exchange for the remaining rounds."""
    take_log: Callable[[], RoundLog]
    """Return what happened in the exchanges since the last call."""
    command: str
    """Command that repeats the run, in its own directory."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each client's images, where this process knows them."""
    refused: Callable[[], Mapping[str, str]] = dict
    """Return the clients that were refused, with the reason."""
    score: Callable[[GlobalState], ModelScores] | None = None
    """Score the model at the clients; None: the server scores it on its own images."""
    finish: Callable[[GlobalState], None] = lambda _state: None
    """Send the trained model to the clients."""


@dataclass(frozen=True)
class Federation:
    """All that the engine needs to run the rounds."""

    run_dir: Path
    config: Config
    protocol: Protocol
    backbone: Backbone
    """The server's backbone."""
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    shown: HeldOut | None
    """Images on which the server scores the model; None: it has none."""
    skipped: tuple[Skipped, ...]
    stored: tuple[Stored, ...]
    """Values in the files of training images, where this process can read them."""
    seconds: float
    """Wall time of the extraction."""
    participants: Participants


@dataclass(frozen=True)
class TrainingBegun:
    """Features are extracted and the clients have agreed; the rounds follow."""

    num_rounds: int
    """Rounds of training and of the Lloyd finish together."""
    updates_done: int
    """Client updates that a resumed run has already."""
    start_updates: int
    """Client updates of round 0, which are fast; 0 if there is no round 0."""
    num_updates: int
    """Client updates of the whole run."""


@dataclass(frozen=True)
class RoundDone:
    """A round is finished, saved and entered in the record."""

    entry: RoundEntry
    """Its entry in the record."""


@dataclass(frozen=True)
class TrainingDone:
    """All rounds are finished."""

    saved: SavedState
    record: Record


def run_federation(
    federation: Federation,
) -> Iterator[TrainingBegun | ClientUpdate | Total | RoundDone | TrainingDone]:
    """Run the remaining rounds, after the last finished one.

    Args:
        federation: Its run directory must hold its configuration.

    Yields:
        Each event, down to single client updates.

    Raises:
        FussegError: If the run cannot continue; finished rounds are kept.
    """
    set_threads(federation.config.compute)
    protocol, participants = federation.protocol, federation.participants
    saved, record = _open_run(federation)
    exchange = participants.begin(saved, record)
    yield _begun(protocol, len(record["clients"]), saved.state.round_number)
    started = time.perf_counter()
    for event in run_rounds(saved.state, exchange, protocol):
        if isinstance(event, ClientUpdate | Total):
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


def _open_run(federation: Federation) -> tuple[SavedState, Record]:
    """Restore the last finished round, or agree with the clients on the state before round 1."""
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
    check_not_ended(saved, federation.protocol, run_dir)
    check_same_images(saved, federation.participants.digests, run_dir)
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
    said = participants.hello()
    joined = read_class_map(Path(config.teach.class_map)) if config.teach.class_map else None
    num_images: dict[str, int | None]
    if isinstance(said, HelloTotal):
        plan = agree_on_total(said, protocol, center=center, joined=joined)
        classes_of, num_images = dict(said.classes_of), dict.fromkeys(said.classes_of)
    else:
        said = sorted(said, key=lambda hello: hello.client_id)
        plan = agree(said, protocol, backbone.fingerprint, center=center, joined=joined)
        classes_of = {hello.client_id: hello.classes for hello in said}
        num_images = {hello.client_id: hello.num_images for hello in said}
    if protocol.strategy.pools_images:
        # The one model takes as many steps as the whole federation would.
        plan = replace(plan, num_steps=plan.num_steps * len(num_images))
    record = new_record(run_dir, config, backbone, num_images, center, participants.engine)
    record["command"] = participants.command
    sent = not protocol.strategy.pools_images
    agreed = describe_hello(said, plan, participants.refused(), sent=sent)
    if isinstance(said, HelloTotal):
        record["num_images"] = said.num_images
    guarantee = describe_guarantee(protocol)
    if guarantee is not None:
        record["noise"] = {
            "protects": guarantee.protects,
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
            "noise_multiplier": guarantee.noise_multiplier,
            "exchanges": guarantee.exchanges,
            "assumes": guarantee.assumes,
        }
    if protocol.teaching:
        agreed["differing_classes"] = differing_classes(classes_of, joined or {})
    record["hello"] = agreed
    start = start_state(config, protocol, plan, backbone.fingerprint)
    record["start"] = start.origin
    digests = dict(participants.digests)
    return SavedState(start.state, {}, backbone.fingerprint, digests), record


def _begun(protocol: Protocol, num_clients: int, rounds_done: int) -> TrainingBegun:
    clients = 1 if protocol.strategy.pools_images else num_clients
    first = protocol.first_round
    return TrainingBegun(
        num_rounds=protocol.counted_rounds,
        updates_done=num_updates(first, rounds_done, clients, protocol),
        start_updates=num_updates(first, 0, clients, protocol),
        num_updates=num_updates(first, protocol.num_rounds, clients, protocol),
    )


def _enter_round(
    record: Record, finished: Round, saved: SavedState, federation: Federation, seconds: float
) -> RoundEntry:
    """Score the round if the configuration asks for it, and enter it in the record."""
    started = time.perf_counter()
    number, protocol = finished.state.round_number, federation.protocol
    scores = None
    if is_scored(number, federation.config, protocol):
        scores = _known_scores(record, saved.state, protocol) or _score(saved, federation)
        enter_scores(record, number, scores, protocol)
    if number == 0 and record["hello"] is not None:
        # Estimates that depend on the start replace those of the hello.
        record["hello"]["agreed"] = dict(finished.state.plan.agreed)
    record["candidates"] = describe_candidates(saved.state.candidates)
    if protocol.is_teaching(number):
        _enter_taught(record, saved.state, federation)
    log = federation.participants.take_log()
    entry = describe_round(finished, scores, seconds, protocol, log)
    record["rounds"].append(entry)
    if not protocol.strategy.pools_images:
        _name_latecomers(record, finished)
    record["seconds"]["train"] += seconds
    record["seconds"]["evaluate"] += time.perf_counter() - started
    return entry


def _enter_taught(record: Record, state: GlobalState, federation: Federation) -> None:
    """Score the taught classes on the server's held-out images, and save their colors."""
    # Without held-out sites, the images that are shown are those that taught.
    shown = federation.shown if federation.config.data.held_out_sites else None
    record["taught"] = describe_taught(state, shown)
    if state.taught is not None and state.taught.classifier is not None:
        known = None if federation.shown is None else federation.shown.classes
        write_class_colors(federation.run_dir, state.taught, [known])


def _score(saved: SavedState, federation: Federation) -> ModelScores:
    """Score at the clients or on the server's images; without images all scores are None."""
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


def _known_scores(record: Record, state: GlobalState, protocol: Protocol) -> ModelScores | None:
    """Return the scores after training if the choice keeps that model, without a finish."""
    kept = kept_candidate(state.candidates)
    if protocol.lloyd_rounds or not protocol.is_choice(state.round_number):
        return None
    return record["trained"] if kept is not None and kept.name == TRAINED else None


def _name_latecomers(record: Record, finished: Round) -> None:
    """Add clients that joined after round 1 to the record's list."""
    found: dict[str, int | None] = {}
    for exchange in finished.exchanges:
        found |= {update.client_id: update.num_images for update in exchange.updates}
        found |= dict.fromkeys(() if exchange.total is None else exchange.total.client_ids)
    for client in record["clients"]:
        found.pop(client["client_id"], None)
    record["clients"] += [
        {"client_id": client_id, "num_images": count} for client_id, count in found.items()
    ]
    record["clients"].sort(key=lambda client: str(client["client_id"]))
