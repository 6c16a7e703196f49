"""`fusseg serve`: start and watch everything a federation's server consists of."""

import secrets
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import httpx
from filelock import FileLock, Timeout

from fusseg.config.schema import Config
from fusseg.core.atomic import write_atomically
from fusseg.core.errors import ConfigError, FederationError
from fusseg.deployment import flower
from fusseg.deployment.flower import LoopbackServer
from fusseg.deployment.keys.credentials import (
    check_private,
    check_server_files,
    read_certificate_expiry,
)
from fusseg.deployment.keys.keys import AUTHORITY_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY
from fusseg.deployment.own_script import own_variables
from fusseg.deployment.processes import (
    free_port,
    last_lines,
    start_process,
    stop_process,
)
from fusseg.deployment.server.admission import admit_sites, approved_sites, forget_strangers
from fusseg.deployment.server.events import DeploymentEvent, EventReader
from fusseg.deployment.server.post import NODES
from fusseg.deployment.server.server_app import CACHE, RUN_DIR
from fusseg.deployment.server.server_rounds import FLOWER
from fusseg.deployment.wire.server_address import ServerAddress

_START_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_SITES_SECONDS = 5.0
_STATUS_SECONDS = 20.0
"""Between two questions to Flower, each of which is a process of a second; it is asked at once
when the rounds say that they have ended, and only a crash waits for this."""
_RESTARTS = 5
"""Of one process; more are no accident."""
_WARN_DAYS = 14


@dataclass(frozen=True)
class ServeOptions:
    """What the command line says, besides the configuration."""

    run_dir: Path
    cache: Path
    sites: Path
    """`sites.toml`."""
    keys: Path
    """Folder of ca.crt, server.crt and server.key."""
    host: str
    """Address the edge listens on."""
    port: int


@dataclass
class _Child:
    """A process that is started again if it ends."""

    name: str
    command: list[str]
    variables: dict[str, str]
    process: "Popen[bytes]"
    sockets: Sequence[socket.socket] = ()
    restarts: int = 0


@dataclass
class _Children:
    """The server's processes and where they write."""

    folder: Path
    place: Path
    """Working directory: paths of the configuration are relative to it."""
    running: list[_Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str],
        sockets: Sequence[socket.socket] = (),
    ) -> _Child:
        process = start_process(command, variables, self.log(name), self.place, sockets)
        child = _Child(name, command, variables, process, sockets)
        self.running.append(child)
        return child

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def revive(self) -> Iterator[str]:
        """Start again what has ended.

        Raises:
            FederationError: If a process ends again and again.
        """
        for child in self.running:
            code = child.process.poll()
            if code is None:
                continue
            if child.restarts == _RESTARTS:
                raise FederationError(
                    f"the {child.name} ended {_RESTARTS + 1} times, last with exit code {code}: "
                    f"{last_lines(self.log(child.name))}"
                )
            child.restarts += 1
            log = self.log(child.name)
            child.process = start_process(
                child.command, child.variables, log, self.place, child.sockets
            )
            yield f"the {child.name} ended with exit code {code}; it was started again"

    def stop(self) -> None:
        """Stop all, the last started first."""
        for child in reversed(self.running):
            stop_process(child.process)
        self.running.clear()


def serve(
    config: Config, options: ServeOptions, sockets: Sequence[socket.socket]
) -> Iterator[DeploymentEvent]:
    """Run a federation to its end, or to the point where it cannot go on.

    Args:
        config: The run's configuration, which is in the run directory already.
        options: Keys, sites and addresses, which `check_options` has found usable.
        sockets: Of `processes.listen`, for the edge.

    Yields:
        What happens.

    Raises:
        ConfigError: If the list of sites is wrong.
        FederationError: If the federation stopped; what is finished is kept.
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
        children = _Children(folder, Path.cwd())
        stack.callback(children.stop)
        server = LoopbackServer(
            home=folder, port=free_port(), authority=_key(options, AUTHORITY_CERTIFICATE)
        )
        yield from _start(children, server, config, options, sockets)
        run_id = flower.submit_run(server)
        yield from _watch(children, server, config, options, run_id)


def check_options(config: Config, options: ServeOptions) -> Iterator[DeploymentEvent]:
    """Look at keys, certificates and list of sites before anything is written or started.

    Yields:
        What will be wrong soon.

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
    if len(approved) < least:
        yield DeploymentEvent(
            "waiting",
            f"federation.min_sites is {least}, {options.sites} lists {len(approved)} that may "
            f"join: rounds wait for {least} sites; add the others to the file",
        )


def _start(
    children: _Children,
    server: LoopbackServer,
    config: Config,
    options: ServeOptions,
    sockets: Sequence[socket.socket],
) -> Iterator[DeploymentEvent]:
    """Start SuperLink, SuperExec and edge, and admit the sites."""
    folder = children.folder
    programs = folder / "programs"
    flower.link_programs(programs, "flwr-serverapp", "fusseg.deployment.own_app:run_server_app")
    variables = flower.environment(folder, programs)
    secret = folder / "superexec.secret"
    write_atomically(secret, secrets.token_hex(32).encode())
    secret.chmod(0o600)
    certificate, key = _key(options, SERVER_CERTIFICATE), _key(options, SERVER_KEY)
    command = flower.superlink_command(server, certificate, key, secret)
    superlink = children.start("superlink", command, variables)
    _wait_until_healthy(server.address, server.authority, superlink, children)
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
    _wait_until_healthy(_reachable(sockets[0]), server.authority, edge, children)
    public = ServerAddress(options.host, options.port)
    yield DeploymentEvent("waiting", f"sites can join at {public}")


def _watch(
    children: _Children,
    server: LoopbackServer,
    config: Config,
    options: ServeOptions,
    run_id: int,
) -> Iterator[DeploymentEvent]:
    """Tell what happens until Flower says that the run has ended."""
    events = EventReader(options.run_dir)
    reason, ended = "", False
    looked = asked = time.monotonic()
    admission = _Admission(server, children.folder / NODES, config, options)
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


@dataclass
class _Admission:
    """Keeps Flower's list in line with the file of sites while the rounds go on."""

    server: LoopbackServer
    nodes: Path
    config: Config
    options: ServeOptions
    told: str = ""

    def renew(self) -> Iterator[DeploymentEvent]:
        """Admit and revoke as the file says now."""
        try:
            approved = approved_sites(self.options.sites, self.config)
        except ConfigError as error:
            # A file that is being edited must not end the federation.
            if str(error) != self.told:
                self.told = str(error)
                yield DeploymentEvent("waiting", f"{error}; the sites stay as they were")
            return
        self.told = ""
        for text in admit_sites(self.server, self.nodes, approved):
            yield DeploymentEvent("site", text)


def _check_completed(status: str, reason: str) -> None:
    if status != "finished:completed":
        raise FederationError(
            f"the run ended as {status}: {reason}; go on with fusseg serve --resume"
        )


def _status(server: LoopbackServer, run_id: int) -> tuple[str, str]:
    try:
        return flower.run_statuses(server).get(run_id, ("unknown", ""))
    except FederationError:
        # The SuperLink may be starting again; whether it does is looked at elsewhere.
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


def _wait_until_healthy(address: str, authority: Path, child: _Child, children: _Children) -> None:
    trust = ssl.create_default_context(cafile=str(authority))
    # A process of this one's own: which names its certificate has is of no account here.
    trust.check_hostname = False
    until = time.monotonic() + _START_SECONDS
    # Bare: no proxy of the surroundings may stand between.
    with httpx.Client(verify=trust, trust_env=False) as client:
        while time.monotonic() < until:
            code = child.process.poll()
            if code is not None:
                raise FederationError(
                    f"the {child.name} ended with exit code {code}: "
                    f"{last_lines(children.log(child.name))}"
                )
            try:
                if client.get(f"https://{address}/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError as error:
                failure = str(error)
            else:
                failure = "it is not healthy"
            time.sleep(_LOOK_SECONDS)
    raise FederationError(f"the {child.name} is not there after {_START_SECONDS:.0f} s: {failure}")


def _reachable(listening: socket.socket) -> str:
    """Name an address of this machine at which a socket can be reached."""
    host, port = listening.getsockname()[:2]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return str(ServerAddress(loopback.get(host, host), port))


def _key(options: ServeOptions, name: str) -> Path:
    return (options.keys / name).resolve()
