"""Flower's process at a site, and what the operator is told about the connection."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

from fusseg.core.visible_text import brief
from fusseg.deployment import flower
from fusseg.deployment.own_script import own_variables
from fusseg.deployment.processes import free_port, start_process, stop_process
from fusseg.deployment.site.client_app import SITE_DIR
from fusseg.deployment.site.reaching import name_unused_proxies, why_unreachable
from fusseg.deployment.wire.server_address import ServerAddress

_LOOK_SECONDS = 60.0
"""Time between two checks of the connection while Flower's process runs."""
_PAUSES = (1.0, 2.0, 5.0, 10.0, 15.0)
"""Seconds before Flower's process is restarted; the last value repeats."""
_STEADY_SECONDS = 120.0
"""After a process has run this long the pauses start from the beginning."""


class SiteNode:
    """Flower's process at a site: started once the server can be reached, restarted when it ends.

    Args:
        server: Address of the server's edge.
        folder: The site's own folder.
        key: The site's private key.
        authority: Certificate of the authority.
    """

    def __init__(self, server: ServerAddress, folder: Path, key: Path, authority: Path) -> None:
        self._server = server
        self._folder = folder
        self._key = key
        self._authority = authority
        self._process: Popen[bytes] | None = None
        self._started = self._next_start = self._next_look = 0.0
        self._gone = False
        self._failures = 0
        self._log = folder / "supernode.log"
        self._begin = 0
        """Position in the log at which the output of the current process begins."""
        self._read = self._log.stat().st_size if self._log.exists() else 0

    def keep_running(self) -> Iterator[str]:
        """Start the process if there is none and it is time to; yields what happens."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._next_start:
                yield from self._connect()
            return
        code = self._process.poll()
        if code is not None:
            self.stop()
            self._failures = 0 if now - self._started > _STEADY_SECONDS else self._failures + 1
            yield f"the connection ended ({self._why_ended(code)}); {self._wait()}"
        elif self._has_stale_answer():
            self.stop()
            yield "the server was restarted; connecting again"
        elif now >= self._next_look:
            yield from self._look()

    def _connect(self) -> Iterator[str]:
        """Start the process, or say why it could not reach the server."""
        proxies = name_unused_proxies(os.environ)
        if proxies and not self._failures:
            yield f"the proxy in {proxies} is not used: a site connects to its server directly"
        yield f"connecting to {self._server}"
        reason = why_unreachable(self._server, self._authority)
        if reason:
            self._failures += 1
            yield f"cannot connect: {reason}; {self._wait()}"
            return
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        self._process = self._start()
        self._started = time.monotonic()
        self._next_look = self._started + _LOOK_SECONDS

    def _look(self) -> Iterator[str]:
        """Say if the server can no longer be reached: the process retries silently."""
        reason = why_unreachable(self._server, self._authority)
        if reason:
            yield f"the server is gone: {reason}; it is tried again"
        elif self._gone:
            yield "the server is there again"
        self._gone = bool(reason)
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _wait(self) -> str:
        """Set the time of the next try, and describe it."""
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._next_start = time.monotonic() + pause
        return f"next try in {pause:.0f} s"

    def _why_ended(self, code: int) -> str:
        with self._log.open("rb") as file:
            file.seek(self._begin)
            written = file.read()
        if flower.UNKNOWN_KEY in written:
            return (
                f"the server does not know the key {self._key}; ask its operator to put the lines "
                "that fusseg keys site printed in sites.toml, or a later day there"
            )
        if flower.STOPPED in written:
            return (
                f"the server no longer takes messages signed with {self._key}; it was taken out of "
                "sites.toml, its day there is over, or the two machines' clocks are more than five "
                "minutes apart"
            )
        lines = written.decode(errors="replace").splitlines()
        said = " ".join(line for line in lines if line.strip() and "INFO" not in line)
        return f"exit code {code}: {brief(said[-300:])}"

    def _has_stale_answer(self) -> bool:
        """Tell whether the process has logged a stale answer since the last call."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            written = file.read()
        # An incomplete line is read again next time.
        whole = written[: written.rfind(b"\n") + 1]
        self._read += len(whole)
        return flower.STALE_MESSAGE in whole

    def stop(self) -> None:
        """Stop the process and all that it started."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def _start(self) -> "Popen[bytes]":
        programs = self._folder / "programs"
        flower.link_programs(
            programs, flower.CLIENT_APP, "fusseg.deployment.own_app:run_client_app"
        )
        command = flower.supernode_command(
            str(self._server),
            self._authority.resolve(),
            self._key.resolve(),
            f"{SITE_DIR}={flower.quote(self._folder.resolve())}",
            free_port(),
        )
        home = self._folder / "flower"
        home.mkdir(exist_ok=True, mode=0o700)
        variables = flower.environment(home.resolve(), programs.resolve()) | own_variables()
        # The working directory stays: the path of the backbone may be relative to it.
        return start_process(command, variables, self._log, Path.cwd())
