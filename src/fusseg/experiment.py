"""The recipe, read top to bottom: data, features, clients, rounds, record."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fusseg.bookkeeping import enter_scores, is_scored, keep_round, rewind_record
from fusseg.compute import choose_compute
from fusseg.config import Config, FederationConfig
from fusseg.errors import ConfigError, FussegError
from fusseg.evaluation.held_out import HeldOut, evaluate
from fusseg.features.backbones import Backbone
from fusseg.features.extraction import Progress
from fusseg.features.feature_set import pool_features
from fusseg.federation.client import Client, current_model
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.participation import num_participants
from fusseg.federation.rounds import Round, run_rounds
from fusseg.federation.schedule import num_exchanges, num_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import CENTRALIZED, keeps_own_models, resolve_federation
from fusseg.preparation import Prepared, load_fingerprint, prepare
from fusseg.record import (
    GLOBAL,
    describe_evaluations,
    describe_hello,
    describe_protocol,
    describe_round,
    describe_skipped,
    new_record,
)
from fusseg.runs import (
    CONFIG,
    Record,
    SavedState,
    create_run,
    discard_run,
    has_state,
    load_record,
    load_state,
    resume_run,
    save_record,
)
from fusseg.segmentation.segmenter import Segmenter, build_segmenter
from fusseg.segmentation.shifts import balance_quantiles
from fusseg.segmentation.training import Model, TrainingPlan
from fusseg.warm_start import carry_names, check_start, start_state


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
class Finished:
    """The run is complete."""

    config: Config
    prepared: Prepared
    saved: SavedState
    record: Record


Event = Progress | TrainingBegun | ClientUpdate | RoundDone | Finished


def run_experiment(
    config: Config | None, run_dir: Path | str, cache: Path | str, *, resume: bool = False
) -> Iterator[Event]:
    """Train a federation on the sites of a configuration and score it.

    Args:
        config: All settings; None with `resume`: those of the run.
        run_dir: Where the run is kept; new, unless it is resumed.
        cache: Folder of the feature cache.
        resume: Go on after the last finished round, to the same bits as without the interruption.

    Yields:
        What has just happened, down to single images and client updates.

    Raises:
        FussegError: If the configuration, the data or the run directory cannot be used.
    """
    run_dir, cache = Path(run_dir), Path(cache)
    if resume:
        config = resume_run(run_dir, config)
    if config is None:
        raise ConfigError("a run needs a configuration unless it is resumed, got None")
    federation = resolve_federation(config.federation, config.local)
    prepared, saved, record = yield from _open_run(config, run_dir, cache, resume=resume)
    clients = _participants(config, prepared)
    at_once = config.compute.clients_at_once
    exchange = simulate(clients, saved.own_models, config.local, federation, config.seed, at_once)
    done, total = saved.state.round_number, num_rounds(federation)
    asked = num_participants(len(clients), federation)
    yield TrainingBegun(
        num_rounds=total,
        updates_done=asked * num_exchanges(1, done, federation),
        num_updates=asked * num_exchanges(1, total, federation),
    )
    started = time.perf_counter()
    for event in run_rounds(saved.state, exchange, federation, config.seed):
        if isinstance(event, ClientUpdate):
            yield event
            continue
        seconds = time.perf_counter() - started
        saved = replace(saved, state=event.state)
        entry = _enter_round(record, event, saved, config, prepared, seconds)
        keep_round(run_dir, record, event, saved)
        yield RoundDone(entry)
        started = time.perf_counter()
    yield Finished(config, prepared, saved, record)


def final_models(saved: SavedState, federation: FederationConfig) -> dict[str, Model]:
    """Name the models that are scored: the global one, or each client's own (E or C off).

    Args:
        saved: State after a round.
        federation: The switches, with baselines resolved.
    """
    if not keeps_own_models(federation):
        return {GLOBAL: saved.state.model}
    return {
        client_id: current_model(saved.state, own, federation)
        for client_id, own in sorted(saved.own_models.items())
    }


def score_models(segmenters: Mapping[str, Segmenter], shown: HeldOut) -> dict[str, Any]:
    """Score models on images, as the record describes it."""
    evaluations = {name: evaluate(segmenter, shown) for name, segmenter in segmenters.items()}
    return describe_evaluations(evaluations, shown.classes)


def _open_run(
    config: Config, run_dir: Path, cache: Path, *, resume: bool
) -> Generator[Progress, None, tuple[Prepared, SavedState, Record]]:
    """Make the run directory unless it is there, extract features, and say where rounds start."""
    stages = prepare(config, cache)
    # All that the settings name is looked up before anything is written.
    first = next(stages)
    if not resume:
        if config.model.start:
            check_start(config, load_fingerprint(config))
        create_run(run_dir, config)
        if config.model.start:
            carry_names(Path(config.model.start), run_dir)
    yield first
    try:
        prepared = yield from stages
        return prepared, *_begin(config, prepared, run_dir)
    except FussegError:
        if not resume:
            # The same command must go once what was wrong is mended.
            discard_run(run_dir)
        raise


def _begin(config: Config, prepared: Prepared, run_dir: Path) -> tuple[SavedState, Record]:
    """Restore the last finished round, or say hello and draw the state before round 1."""
    fingerprint = prepared.backbone.fingerprint
    if has_state(run_dir):
        saved, record = load_state(run_dir), load_record(run_dir)
        _check_resumed(saved, config, prepared, run_dir)
        check_precision(record, config, run_dir)
        _check_same_settings(record, config, run_dir)
        rewind_record(record, saved.state.round_number, resolve_federation(config.federation))
    else:
        record = new_record(
            run_dir, config, prepared.backbone, count_images(prepared.clients), prepared.center
        )
        plan = _make_plan(config, prepared, record)
        start = start_state(config, plan, fingerprint)
        record["start"] = None if start.origin is None else asdict(start.origin)
        saved = SavedState(start.state, {}, fingerprint, _digests(prepared))
    record["seconds"]["extract"] += prepared.seconds
    record["skipped_images"] = describe_skipped(prepared.skipped)
    save_record(run_dir, record)
    return saved, record


def _check_resumed(saved: SavedState, config: Config, prepared: Prepared, run_dir: Path) -> None:
    """Refuse to go on with another backbone, other images or another size of model."""
    check_fingerprint(saved, prepared.backbone, run_dir)
    found = _digests(prepared)
    for client_id in sorted(saved.client_digests.keys() | found.keys()):
        if saved.client_digests.get(client_id) != found.get(client_id):
            raise ConfigError(
                f"site {client_id!r} has other training images than when {run_dir} was started; "
                "restore them, or start a new run"
            )
    num_clusters, code_dim = saved.state.model.centroids.shape
    if (num_clusters, code_dim) != (config.model.num_clusters, config.model.code_dim):
        raise ConfigError(
            f"{run_dir} has {num_clusters} centroids of {code_dim} channels, but its "
            f"configuration says {config.model.num_clusters} of {config.model.code_dim}"
        )


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


def check_precision(record: Record, config: Config, run_dir: Path) -> None:
    """Refuse to go on in another precision than a run was begun in.

    Raises:
        ConfigError: If `auto` stands for another one here.
    """
    begun = record.get("compute", {}).get("precision", "float32")
    found = choose_compute(config.compute).precision_name
    if begun != found:
        raise ConfigError(
            f"{run_dir} was begun in {begun}, but compute.precision {config.compute.precision!r} "
            f"is {found} on this machine; go on where it was begun, or start a new run"
        )


def _check_same_settings(record: Record, config: Config, run_dir: Path) -> None:
    """Refuse a configuration that was edited after the record was begun."""
    here = describe_protocol(config) | {
        "seed": config.seed,
        "strategy": config.federation.strategy,
        "num_clusters": config.model.num_clusters,
    }
    there = record | record["protocol"]
    for name, value in here.items():
        if there.get(name) != value:
            raise ConfigError(
                f"{run_dir / CONFIG} was edited: {name} is {value!r}, but the run was begun with "
                f"{there.get(name)!r}; set it back, or start a new run"
            )


def count_images(clients: Sequence[Client]) -> dict[str, int]:
    """Training images by client."""
    return {client.client_id: len(client.features) for client in clients}


def _digests(prepared: Prepared) -> dict[str, str]:
    return {client.client_id: client.features.digest for client in prepared.clients}


def _make_plan(config: Config, prepared: Prepared, record: Record) -> TrainingPlan:
    center = prepared.center
    local = balance_quantiles(config.local, config.model.num_clusters)
    hellos = [say_hello(client, local, config.seed, center=center) for client in prepared.clients]
    plan = agree(hellos, config.local, prepared.backbone.fingerprint, center=center)
    if config.federation.strategy == CENTRALIZED:
        # One model gets the steps that the whole federation would take.
        plan = replace(plan, num_steps=plan.num_steps * len(prepared.clients))
    sent = config.federation.strategy != CENTRALIZED
    record["hello"] = describe_hello(hellos, plan, sent=sent)
    return plan


def _participants(config: Config, prepared: Prepared) -> tuple[Client, ...]:
    if config.federation.strategy != CENTRALIZED:
        return prepared.clients
    pooled = pool_features([client.features for client in prepared.clients])
    first = prepared.clients[0]
    return (Client(CENTRALIZED, pooled, first.cache, first.compute),)


def _enter_round(
    record: Record,
    finished: Round,
    saved: SavedState,
    config: Config,
    prepared: Prepared,
    seconds: float,
) -> Record:
    """Score the round where the configuration asks for it, and enter it in the record."""
    started = time.perf_counter()
    federation = resolve_federation(config.federation)
    number = finished.state.round_number
    scores: dict[str, Any] = {}
    if is_scored(number, config):
        mean_feature = finished.state.plan.mean_feature
        models = final_models(saved, federation)
        segmenters = {name: build_segmenter(model, mean_feature) for name, model in models.items()}
        scores = score_models(segmenters, prepared.shown)
        enter_scores(record, number, scores, federation)
    sent = config.federation.strategy != CENTRALIZED
    entry = describe_round(finished, scores, seconds, federation, sent=sent)
    record["rounds"].append(entry)
    record["seconds"]["train"] += seconds
    record["seconds"]["evaluate"] += time.perf_counter() - started
    return entry
