"""Start, watch and stop child processes that neither outlive their parent nor hang."""

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

from fusseg.core.errors import ConfigError, FederationError

STOP_SECONDS = 10.0
"""Time between the request to stop and the kill."""
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def start_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path,
    sockets: Sequence[socket.socket] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process that writes to a log and dies with this one, however this one dies.

    Args:
        command: Program and arguments.
        environment: All of its variables.
        log: File to which its output is appended.
        cwd: Working directory.
        sockets: Sockets that it inherits, under the same numbers.

    Raises:
        FederationError: If the program cannot be started.
    """
    try:
        with open_private(log) as output:
            return subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                pass_fds=[one.fileno() for one in sockets],
                # A session of its own: Ctrl-C reaches only this process, which then stops its
                # children in order.
                start_new_session=True,
                preexec_fn=partial(_die_with_parent, os.getpid()),
            )
    except OSError as error:
        raise FederationError(f"cannot start {command[0]}: {error.strerror}") from error


def open_private(path: Path) -> BufferedWriter:
    """Open a file to append to that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return BufferedWriter(FileIO(descriptor, "ab"))


def stop_process(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process and all that it started to stop, and kill what is left after a while."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def watch_parent(interval: float = 1.0) -> None:
    """End this process when the one that started it is gone.

    This is for processes that Flower starts: only they themselves can ask for this.
    """
    parent = os.getppid()
    _die_with_parent(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """Find a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on an address, so that no other process can.

    Connections wait until a process that inherits the sockets accepts them.

    Returns:
        A socket for each address of the host: a name may have an IPv4 and an IPv6 address.

    Raises:
        ConfigError: If the port is taken, or the address does not belong to this machine.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot listen on {host!r}: {said}; choose another --host") from error
    sockets, faults = [], []
    for family, _, _, _, address in found:
        try:
            sockets.append(_listen(family, address))
        except OSError as error:
            faults.append(error)
    taken = any(fault.errno == errno.EADDRINUSE for fault in faults)
    # One address of a name is enough: a machine may have no IPv6.
    if sockets and not taken:
        return sockets
    for one in sockets:
        one.close()
    if taken:
        raise ConfigError(f"port {port} of {host} is taken; choose another --port")
    raise ConfigError(
        f"cannot listen on {host}:{port}: {faults[0].strerror}; choose another --host or --port"
    )


def last_lines(log: Path, count: int = 5) -> str:
    """Read the end of a log, for an error message."""
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines[-count:] if line.strip())


def _listen(family: int, address: Any) -> socket.socket:  # noqa: ANN401 - by family
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port is free even while old connections to it are closing.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(address)
        # With this option two processes may bind to one port, but only one may listen.
        found.listen()
    except OSError:
        found.close()
        raise
    return found


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _die_with_parent(parent: int) -> None:
    """Ask Linux for a signal when the parent thread that started this process is gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before the request.
        os._exit(1)
