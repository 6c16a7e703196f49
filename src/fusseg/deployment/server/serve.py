"""`fusseg serve`: start and watch all processes of a federation's server."""

import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, FederationError
from fusseg.core.files import write_atomically
from fusseg.deployment import flower
from fusseg.deployment.flower import LoopbackServer
from fusseg.deployment.keys.credentials import (
    check_private,
    check_server_files,
    read_certificate_expiry,
)
from fusseg.deployment.keys.keys import AUTHORITY_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY
from fusseg.deployment.own_script import own_variables
from fusseg.deployment.processes import free_port
from fusseg.deployment.server.admission import (
    NODES,
    Admission,
    admit_sites,
    approved_sites,
    forget_strangers,
)
from fusseg.deployment.server.children import Children
from fusseg.deployment.server.events import DeploymentEvent, EventReader
from fusseg.deployment.server.server_app import CACHE, RUN_DIR
from fusseg.deployment.server.server_rounds import FLOWER
from fusseg.deployment.wire.server_address import ServerAddress
from fusseg.federation.secure_sums import sites_needed

_LOOK_SECONDS = 0.5
_SITES_SECONDS = 5.0
_STATUS_SECONDS = 20.0
"""Between two questions to Flower, each of which takes a process of about a second. When the rounds
report their end Flower is asked at once, so that only a crash waits this long."""
_WARN_DAYS = 14


@dataclass(frozen=True)
class ServeOptions:
    """Options of the command line, besides the configuration."""

    run_dir: Path
    cache: Path
    sites: Path
    """`sites.toml`."""
    keys: Path
    """Folder of ca.crt, server.crt and server.key."""
    host: str
    """Address that the edge listens on."""
    port: int


def serve(
    config: Config, options: ServeOptions, sockets: Sequence[socket.socket]
) -> Iterator[DeploymentEvent]:
    """Run a federation to its end, or until it cannot go on.

    Args:
        config: The run's configuration, which is already in the run directory.
        options: Keys, sites and addresses, already checked by `check_options`.
        sockets: For the edge, from `processes.listen`.

    Yields:
        What happens.

    Raises:
        ConfigError: If the list of sites is wrong.
        FederationError: If the federation stopped; finished rounds are kept.
    """
    folder = options.run_dir.resolve() / FLOWER
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    lock = FileLock(folder / "serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FederationError(f"another fusseg serve runs {options.run_dir}") from error
    with ExitStack() as stack:
        stack.callback(lock.release)
        children = Children(folder, Path.cwd())
        stack.callback(children.stop)
        server = LoopbackServer(
            home=folder, port=free_port(), authority=_key(options, AUTHORITY_CERTIFICATE)
        )
        yield from _start(children, server, config, options, sockets)
        run_id = flower.submit_run(server)
        yield from _watch(children, server, config, options, run_id)


def check_options(config: Config, options: ServeOptions) -> Iterator[DeploymentEvent]:
    """Check keys, certificates and the list of sites before anything is written or started.

    Yields:
        Warnings about what will soon be wrong.

    Raises:
        ConfigError: If something is wrong now.
    """
    check_private(_key(options, SERVER_KEY))
    for name in (AUTHORITY_CERTIFICATE, SERVER_CERTIFICATE):
        expiry = read_certificate_expiry(_key(options, name))
        left = expiry - datetime.now(UTC)
        if left < timedelta(0):
            raise ConfigError(
                f"{_key(options, name)} expired on {expiry:%Y-%m-%d}; make a new one with fusseg "
                "keys"
            )
        if left < timedelta(days=_WARN_DAYS):
            yield DeploymentEvent("waiting", f"{name} expires on {expiry:%Y-%m-%d}")
    names = (SERVER_KEY, SERVER_CERTIFICATE, AUTHORITY_CERTIFICATE)
    check_server_files(*(options.keys / name for name in names))
    approved, least = approved_sites(options.sites, config), config.federation.min_sites
    _check_threshold(config, len(approved), options.sites)
    if len(approved) < least:
        yield DeploymentEvent(
            "waiting",
            f"federation.min_sites is {least}, {options.sites} lists {len(approved)} that may "
            f"join: rounds wait for {least} sites; add the others to the file",
        )


def _check_threshold(config: Config, approved: int, path: Path) -> None:
    """Refuse secure sums of fewer sites than reveal them."""
    needed = sites_needed(config.privacy.threshold, approved)
    counts = {f"{path} lists": approved}
    for key in ("min_sites", "clients_per_round"):
        counts[f"federation.{key} is"] = getattr(config.federation, key) or approved
    for what, count in counts.items():
        if config.privacy.secure_sum and count < needed:
            raise ConfigError(
                f"{what} {count}, but privacy.threshold {config.privacy.threshold:.3g} of "
                f"{approved} sites needs {needed} in every sum; raise the first, or set "
                "privacy.secure_sum to false"
            )


def _start(
    children: Children,
    server: LoopbackServer,
    config: Config,
    options: ServeOptions,
    sockets: Sequence[socket.socket],
) -> Iterator[DeploymentEvent]:
    """Start SuperLink, SuperExec and edge, and admit the sites."""
    folder = children.folder
    programs = folder / "programs"
    flower.link_programs(programs, flower.SERVER_APP, "fusseg.deployment.own_app:run_server_app")
    variables = flower.environment(folder, programs)
    secret = folder / "superexec.secret"
    write_atomically(secret, secrets.token_hex(32).encode())
    secret.chmod(0o600)
    certificate, key = _key(options, SERVER_CERTIFICATE), _key(options, SERVER_KEY)
    command = flower.superlink_command(server, certificate, key, secret)
    superlink = children.start("superlink", command, variables)
    superlink.wait_until_healthy(server.address, server.authority)
    flower.write_connection(server)
    forget_strangers(server, folder / NODES)
    for text in admit_sites(server, folder / NODES, approved_sites(options.sites, config)):
        yield DeploymentEvent("site", text)
    for run_id, (status, _) in flower.run_statuses(server).items():
        if not status.startswith("finished"):
            flower.stop_run(server, run_id)
    command = flower.superexec_command(server, secret)
    place = {RUN_DIR: str(options.run_dir.resolve()), CACHE: str(options.cache.resolve())}
    children.start("superexec", command, variables | place | own_variables())
    edge = children.start("edge", _edge_command(server, options, sockets), variables, sockets)
    edge.wait_until_healthy(_reachable(sockets[0]), server.authority)
    public = ServerAddress(options.host, options.port)
    yield DeploymentEvent("waiting", f"sites can join at {public}")


def _watch(
    children: Children,
    server: LoopbackServer,
    config: Config,
    options: ServeOptions,
    run_id: int,
) -> Iterator[DeploymentEvent]:
    """Yield what happens until Flower says that the run has ended."""
    events = EventReader(options.run_dir)
    reason, ended = "", False
    looked = asked = time.monotonic()
    admission = Admission(server, children.folder / NODES, config, options.sites)
    while True:
        for event in events.read():
            yield event
            reason = event.text if event.kind == "stopped" else reason
            ended = ended or event.kind in ("finished", "stopped")
        for text in children.revive():
            yield DeploymentEvent("waiting", text)
        if time.monotonic() - looked > _SITES_SECONDS:
            looked = time.monotonic()
            yield from admission.renew()
        if time.monotonic() - asked > (_LOOK_SECONDS if ended else _STATUS_SECONDS):
            status, details = _status(server, run_id)
            asked = time.monotonic()
            if status.startswith("finished"):
                yield from events.read()
                _check_completed(status, reason or details)
                return
        time.sleep(_LOOK_SECONDS)


def _check_completed(status: str, reason: str) -> None:
    if status != "finished:completed":
        raise FederationError(
            f"the run ended as {status}: {reason}; continue with fusseg serve --resume"
        )


def _status(server: LoopbackServer, run_id: int) -> tuple[str, str]:
    try:
        return flower.run_statuses(server).get(run_id, ("unknown", ""))
    except FederationError:
        # The SuperLink may be restarting, which `Children.revive` checks.
        return "unknown", ""


def _edge_command(
    server: LoopbackServer, options: ServeOptions, sockets: Sequence[socket.socket]
) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "fusseg.deployment.server.edge_process"),
        *(part for one in sockets for part in ("--socket", str(one.fileno()))),
        *("--certificate", str(_key(options, SERVER_CERTIFICATE))),
        *("--key", str(_key(options, SERVER_KEY))),
        *("--upstream", f"https://{server.address}", "--ca", str(server.authority)),
    ]


def _reachable(listening: socket.socket) -> str:
    """Return an address of this machine at which a listening socket can be reached."""
    host, port = listening.getsockname()[:2]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return str(ServerAddress(loopback.get(host, host), port))


def _key(options: ServeOptions, name: str) -> Path:
    return (options.keys / name).resolve()
