"""The rounds of a deployment on the server: the engine, with sites as its participants."""

import secrets
from pathlib import Path

from filelock import FileLock, Timeout
from flwr.serverapp import Grid

from fusseg.core.errors import DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.deployment.server.admission import NODES
from fusseg.deployment.server.asking import Channel
from fusseg.deployment.server.events import DeploymentEvent, write_event
from fusseg.deployment.server.exchange import GridExchange
from fusseg.deployment.server.greeting import Sites, quorum, refuse_far_means, wait_for_sites
from fusseg.deployment.server.secure_exchange import SecureExchange
from fusseg.deployment.server.server_data import PreparedServer, prepare_server
from fusseg.deployment.server.site_scores import score_at_sites
from fusseg.deployment.wire.offer import make_offer
from fusseg.deployment.wire.payloads import FINISH
from fusseg.deployment.wire.refusals import refusing
from fusseg.features.extraction import wait_for
from fusseg.federation.judge import CHOICE
from fusseg.federation.pca_start import START
from fusseg.federation.rounds import Exchange
from fusseg.federation.secure_sums import hides_only_heads
from fusseg.federation.state import GlobalState, Hello, HelloTotal
from fusseg.federation.strategies import resolve
from fusseg.federation.teaching import TEACH
from fusseg.federation.weights import bounded_counts
from fusseg.runs.directory import read_run_config
from fusseg.runs.engine import Federation, Participants, RoundDone, run_federation
from fusseg.runs.record import DEPLOYMENT, describe_command
from fusseg.runs.record_form import Record, RoundEntry
from fusseg.runs.resuming import check_resumable
from fusseg.runs.saved_state import SavedState
from fusseg.segmentation.objectives import spell_out

FLOWER = "flower"
"""Flower's folder in the run directory."""
_RUN_ID = "run-id"
_LOCK_SECONDS = 60.0
"""Time for an orphaned process of an earlier server to notice and end."""
_FINISH_SECONDS = 120.0


def serve_rounds(grid: Grid, run_dir: Path, cache: Path) -> None:
    """Run the remaining rounds, from the last finished one.

    Args:
        grid: Flower's connection to the sites.
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
    federation = _open_federation(grid, run_dir, cache)
    for event in run_federation(federation):
        if isinstance(event, RoundDone):
            text = describe_entry(event.entry, federation.protocol.counted_rounds)
            write_event(run_dir, DeploymentEvent("round", text))
    write_event(run_dir, DeploymentEvent("finished", "all rounds are finished"))


def describe_entry(entry: RoundEntry, num_rounds: int) -> str:
    """Summarize a finished round in one line."""
    text = f"round {entry['round']} of {num_rounds}"
    if entry["phase"] in (START, CHOICE, TEACH):
        text = entry["phase"]
    text += "" if entry["loss"] is None else f": loss {entry['loss']:.4f}"
    if entry["mean_iou"] is not None:
        text += f", mIoU {entry['mean_iou']:.4f}"
    sites = len(entry["clients"])
    return f"{text}, {sites} site{'' if sites == 1 else 's'} ({entry['seconds']:.1f} s)"


def _open_federation(grid: Grid, run_dir: Path, cache: Path) -> Federation:
    config = spell_out(read_run_config(run_dir))
    check_resumable(run_dir, config)
    protocol = resolve(config, deployed=True)
    prepared = wait_for(prepare_server(config, cache))
    fingerprint = prepared.backbone.fingerprint
    sites = Sites(
        channel=Channel(grid, run_dir, run_dir / FLOWER / NODES),
        offer=make_offer(config, _run_id(run_dir), fingerprint, center=prepared.center),
        protocol=protocol,
        shape=(prepared.positions(config), prepared.feature_dim),
    )
    return Federation(
        run_dir=run_dir,
        config=config,
        protocol=protocol,
        backbone=prepared.backbone,
        center=prepared.center,
        shown=prepared.held_out,
        skipped=prepared.skipped,
        stored=(),
        seconds=prepared.seconds,
        participants=_participants(GridExchange(sites), prepared),
    )


def _run_id(run_dir: Path) -> str:
    """Read the name of the run for its sites, which survives restarts of the server."""
    path = run_dir / FLOWER / _RUN_ID
    try:
        if not path.exists():
            write_atomically(path, secrets.token_hex(8).encode())
        return path.read_text().strip()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _participants(exchange: GridExchange, prepared: PreparedServer) -> Participants:
    guests = exchange.sites.guests
    secure = SecureExchange(exchange) if exchange.sites.protocol.privacy.secure_sum else None

    def begin(_saved: SavedState, record: Record) -> Exchange:
        # A restarted server has not heard these hellos itself.
        guests.known |= {one["client_id"]: one["num_images"] for one in record["clients"]}
        hello = record["hello"]
        refused = [] if hello is None else hello.get("refused", [])
        guests.refused |= {entry["client_id"]: entry["reason"] for entry in refused}
        differing = {} if hello is None else hello.get("differing_classes", {})
        for name, have in differing.items():
            exchange.sites.tell("site", f"class {name!r} is only at {', '.join(have)}")
        return exchange if secure is None else secure

    def hello() -> list[Hello] | HelloTotal:
        if secure is None:
            return _greet_all(exchange.sites, center=prepared.center)
        _await_all(exchange.sites, center=prepared.center)
        return secure.sum_hellos()

    at_sites = exchange.sites.config.evaluation.at_sites
    return Participants(
        engine=DEPLOYMENT,
        hello=hello,
        begin=begin,
        take_log=exchange.take_log,
        command=describe_command("serve"),
        refused=lambda: guests.refused,
        score=(lambda state: score_at_sites(exchange, state)) if at_sites else None,
        finish=lambda state: _finish(exchange, state),
    )


def _greet_all(sites: Sites, *, center: bool) -> list[Hello]:
    """Wait for the sites' hellos, refuse implausible ones, and tell whose weight is bounded.

    Raises:
        FederationError: If fewer sites than the quorum are left.
    """
    guests, least = sites.guests, quorum(sites)
    wait_for_sites(sites, max(len(sites.admitted()), least))
    if center:
        # Otherwise the mean features are not used.
        refuse_far_means(sites)
    hellos = [one for _, one in sorted(guests.hellos.items()) if isinstance(one, Hello)]
    if len(hellos) < least:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(guests.refused.items()))
        raise FederationError(
            f"{len(hellos)} of {least} sites are left, others were refused ({reasons}); fix or "
            "remove them, or lower federation.min_sites in a new run, then continue with --resume"
        )
    images = [hello.num_images for hello in hellos]
    most = sites.protocol.max_weight_share
    for hello, count in zip(hellos, bounded_counts(images, most), strict=True):
        if count < hello.num_images:
            text = (
                f"{hello.client_id}: says it has {hello.num_images} images and counts with {count}:"
                f" federation.max_weight_share is {most:g}"
            )
            sites.tell("site", text, hello.client_id)
    return hellos


def _await_all(sites: Sites, *, center: bool) -> None:
    """Wait for the sites, and say what cannot be checked because only sums are learned."""
    wait_for_sites(sites, max(len(sites.admitted()), quorum(sites)))
    federation = sites.config.federation
    if center and federation.max_mean_distance > 0:
        text = "federation.max_mean_distance is not checked: privacy.secure_sum hides the means"
        sites.tell("waiting", text)
    if hides_only_heads(sites.protocol):
        text = (
            f"federation.strategy {federation.strategy!r} needs the centroids of each site: "
            "privacy.secure_sum hides all but these"
        )
        sites.tell("waiting", text)


def _finish(exchange: GridExchange, state: GlobalState) -> None:
    """Send the trained model to the sites; a site that misses it is only noted."""
    for reply in exchange.ask_all(state, FINISH, _FINISH_SECONDS):
        try:
            with refusing(f"what {reply.site} says of the result"):
                exchange.accept(reply, exchange.request(FINISH, state.round_number, 0))
        except FederationError as error:
            exchange.note(reply.site, FINISH, str(error))
