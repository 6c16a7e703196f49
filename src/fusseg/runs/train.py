"""Training a simulated federation: data, features, clients in this process, engine."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, FussegError
from fusseg.data.findings import Finding
from fusseg.features.extraction import Progress
from fusseg.features.feature_set import pool_features
from fusseg.features.labeled_features import pool_labeled
from fusseg.federation.hello import say_hello
from fusseg.federation.preparation import prepare_images
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Exchange
from fusseg.federation.secure_sums import sum_hellos
from fusseg.federation.simulation import Simulation, simulate
from fusseg.federation.state import Client, ClientUpdate, Hello, HelloTotal, Total
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import create_run, discard_run
from fusseg.runs.engine import (
    Federation,
    Participants,
    RoundDone,
    TrainingBegun,
    TrainingDone,
    run_federation,
)
from fusseg.runs.prepare import Prepared, extract, look_up, look_up_new
from fusseg.runs.record import SIMULATION, RoundLog, describe_command
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import check_resumable, resume_run
from fusseg.runs.saved_state import SavedState
from fusseg.runs.warm_start import carry_names
from fusseg.segmentation.objectives import spell_out


@dataclass(frozen=True)
class Finished:
    """The run is complete."""

    config: Config
    prepared: Prepared
    saved: SavedState
    record: Record


Event = Progress | Finding | TrainingBegun | ClientUpdate | Total | RoundDone | Finished


def run_experiment(
    config: Config | None, run_dir: Path | str, cache: Path | str, *, resume: bool = False
) -> Iterator[Event]:
    """Train a federation on the sites of a configuration and score it.

    Args:
        config: All settings; with `resume`, None stands for those of the run.
        run_dir: Run directory; it must not exist unless the run is resumed.
        cache: Folder of the feature cache.
        resume: Whether to continue after the last finished round, with the same bits as without
            the interruption.

    Yields:
        Each event, down to single images and client updates.

    Raises:
        FussegError: If the configuration, the data or the run directory cannot be used.
    """
    run_dir, cache = Path(run_dir), Path(cache)
    config = None if config is None else spell_out(config)
    if resume:
        config = resume_run(run_dir, config)
        check_resumable(run_dir, config)
    if config is None:
        raise ConfigError("a run needs a configuration unless it is resumed, got None")
    protocol = resolve(config)
    prepared = yield from _prepare(config, run_dir, cache, resume=resume)
    federation = Federation(
        run_dir=run_dir,
        config=config,
        protocol=protocol,
        backbone=prepared.backbone,
        center=prepared.center,
        shown=prepared.shown,
        skipped=prepared.skipped,
        stored=prepared.stored,
        seconds=prepared.seconds,
        participants=_participants(config, protocol, prepared),
    )
    try:
        yield from prepare_images(_trained(protocol, prepared), protocol, center=prepared.center)
        for event in run_federation(federation):
            if isinstance(event, TrainingDone):
                yield Finished(config, prepared, event.saved, event.record)
            else:
                yield event
    except FussegError:
        if not resume:
            # The same command must work once the cause is fixed.
            discard_run(run_dir)
        raise


def _prepare(
    config: Config, run_dir: Path, cache: Path, *, resume: bool
) -> Generator[Progress | Finding, None, Prepared]:
    """Extract features, and create the run directory of a new run."""
    # Data and backbone are looked up before anything is written.
    lookup = look_up(config) if resume else look_up_new(config)
    stages = extract(lookup, config, cache)
    first = next(stages)
    if not resume:
        create_run(run_dir, config)
        if config.model.start:
            carry_names(Path(config.model.start), run_dir)
    yield first
    try:
        return (yield from stages)
    except FussegError:
        if not resume:
            discard_run(run_dir)
        raise


def _participants(config: Config, protocol: Protocol, prepared: Prepared) -> Participants:
    """Make participants of the clients in this process, or of one client with all images."""
    simulations: list[Simulation] = []

    def hello() -> list[Hello] | HelloTotal:
        said = [say_hello(one, protocol, center=prepared.center) for one in prepared.clients]
        return sum_hellos(said, protocol) if protocol.privacy.secure_sum else said

    def begin(saved: SavedState, _record: Record) -> Exchange:
        clients = _trained(protocol, prepared)
        at_once = config.compute.clients_at_once
        simulations.append(simulate(clients, saved.memories, protocol, at_once, saved.held))
        return simulations[-1]

    def take_log() -> RoundLog:
        return RoundLog(simulations[-1].traffic.take())

    return Participants(
        engine=SIMULATION,
        hello=hello,
        begin=begin,
        take_log=take_log,
        command=describe_command("run"),
        digests={client.client_id: client.features.digest for client in prepared.clients},
    )


def _trained(protocol: Protocol, prepared: Prepared) -> tuple[Client, ...]:
    """Return the clients that train: those of the sites, or one with the images of all."""
    if protocol.strategy.pools_images:
        return (_pool(prepared.clients, protocol.strategy_name),)
    return prepared.clients


def _pool(clients: tuple[Client, ...], name: str) -> Client:
    first = clients[0]
    zoomed = [client.zoomed for client in clients if client.zoomed is not None]
    labeled = [client.labeled for client in clients if client.labeled is not None]
    return Client(
        name,
        pool_features([client.features for client in clients]),
        first.cache,
        first.compute,
        pool_features(zoomed) if zoomed else None,
        pool_labeled(labeled) if labeled else None,
    )
