"""The processes of a server: started once, restarted when they end, and stopped together."""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import httpx

from fusseg.core.errors import FederationError
from fusseg.deployment.processes import last_lines, start_process, stop_process

_START_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_RESTARTS = 5
"""Restarts of one process; if it ends more often, that is no accident."""


@dataclass
class Child:
    """A process that is restarted if it ends."""

    name: str
    command: list[str]
    variables: dict[str, str]
    log: Path
    process: "Popen[bytes]"
    sockets: Sequence[socket.socket] = ()
    restarts: int = 0

    def wait_until_healthy(self, address: str, authority: Path) -> None:
        """Wait until the process answers `https://ADDRESS/health`.

        Raises:
            FederationError: If it ends, or is not healthy after a minute.
        """
        trust = ssl.create_default_context(cafile=str(authority))
        # This is a process of our own: the names in its certificate do not matter here.
        trust.check_hostname = False
        until = time.monotonic() + _START_SECONDS
        # trust_env: no proxy of the environment may intercept the request.
        with httpx.Client(verify=trust, trust_env=False) as client:
            while time.monotonic() < until:
                code = self.process.poll()
                if code is not None:
                    raise FederationError(
                        f"the {self.name} ended with exit code {code}: {last_lines(self.log)}"
                    )
                try:
                    if client.get(f"https://{address}/health").status_code == httpx.codes.OK:
                        return
                except httpx.TransportError as error:
                    failure = str(error)
                else:
                    failure = "it is not healthy"
                time.sleep(_LOOK_SECONDS)
        raise FederationError(
            f"the {self.name} is not there after {_START_SECONDS:.0f} s: {failure}"
        )


@dataclass
class Children:
    """The processes of a server, and the folder of their logs."""

    folder: Path
    place: Path
    """Working directory, to which paths in the configuration are relative."""
    running: list[Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str],
        sockets: Sequence[socket.socket] = (),
    ) -> Child:
        """Start a process that writes to the log `NAME.log`."""
        log = self.folder / f"{name}.log"
        process = start_process(command, variables, log, self.place, sockets)
        child = Child(name, command, variables, log, process, sockets)
        self.running.append(child)
        return child

    def revive(self) -> Iterator[str]:
        """Restart the processes that have ended, and say so.

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
                    f"{last_lines(child.log)}"
                )
            child.restarts += 1
            child.process = start_process(
                child.command, child.variables, child.log, self.place, child.sockets
            )
            yield f"the {child.name} ended with exit code {code}; it was started again"

    def stop(self) -> None:
        """Stop all processes, the last started first."""
        for child in reversed(self.running):
            stop_process(child.process)
        self.running.clear()
