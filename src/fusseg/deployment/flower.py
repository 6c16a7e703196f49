"""Every command line, variable and file of Flower that fusseg uses, for Flower 1.41.

An upgrade of Flower affects this file, `own_app.py`, the edge and the imports of the two apps.
docs/deployment.md describes how this version of Flower behaves.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fusseg.core.atomic import write_atomically
from fusseg.core.errors import FederationError
from fusseg.deployment.own_script import MODULE, SCRIPT

APP = Path(__file__).parent / "flower-app"
CONNECTION = "fusseg"
_COMMAND_SECONDS = 60.0

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "NO_PROXY": "*",
}
"""Nothing phones home, nothing is installed at run time, and no proxy is used: neither one of the
environment (see below) nor one of the system's settings. The pause between looks for work is half
of Flower's; a shorter one takes a core from a dozen sites on one machine.
"""
STALE_MESSAGE = b"status. Ignoring message"
"""What a SuperNode writes when the run of a message it was pulling has ended, as after a restart of
the server. It has an answer too many from then on, and sends every other one a message late.
"""
UNKNOWN_KEY = b"Failed to activate SuperNode"
"""What a SuperNode writes when its key is not registered."""
STOPPED = b"SuperNode terminated gracefully"
"""What a SuperNode writes when it stops itself, as it does when a signature is refused."""
_KEPT_VARIABLES = re.compile(
    r"(LANG|LC_\w+|TZ|HOME|TMPDIR|LD_LIBRARY_PATH|PYTHON\w+|\w+_NUM_THREADS|OPENBLAS_\w+|MKL_\w+|"
    r"KMP_\w+|CUDA_\w+|HF_\w+|FUSSEG_\w+|VIRTUAL_ENV)"
)
"""Of this process, what the processes of Flower need; a proxy of the surroundings is not for them.
"""


@dataclass(frozen=True)
class LoopbackServer:
    """A SuperLink as the commands on its own machine reach it."""

    home: Path
    """Flower's folder: connection, runs, state."""
    port: int
    authority: Path
    """Certificate of the authority; the server's must be valid for 127.0.0.1."""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


def environment(home: Path, programs: Path) -> dict[str, str]:
    """List the variables of a process of Flower.

    Args:
        home: Its folder, instead of `~/.flwr`.
        programs: The one folder it finds programs in.
    """
    kept = {name: value for name, value in os.environ.items() if _KEPT_VARIABLES.fullmatch(name)}
    # Which script is imported says the command that this process was started as, nothing else.
    for name in (SCRIPT, MODULE):
        kept.pop(name, None)
    return kept | QUIET | {"FLWR_HOME": str(home), "PATH": str(programs)}


def link_programs(folder: Path, app_command: str, function: str) -> None:
    """Fill a folder with the programs of a process: Flower's SuperExec and the app it may start.

    SuperExec starts apps by name. The program that it finds here runs the app of the installed
    package and no other (`own_app`). There is no program for its other kinds of tasks.

    Args:
        folder: Created if it is absent.
        app_command: What SuperExec starts: `flwr-clientapp` or `flwr-serverapp`.
        function: What runs in its place, as `MODULE:FUNCTION`.
    """
    module, _, name = function.partition(":")
    folder.mkdir(parents=True, exist_ok=True)
    for program, code in {
        "flower-superexec": "from flwr.supercore.cli import flower_superexec as main",
        app_command: f"from {module} import {name} as main",
    }.items():
        path = folder / program
        write_atomically(path, f"#!{sys.executable}\n{code}\n\nmain()\n".encode())
        path.chmod(0o700)


def superlink_command(
    server: LoopbackServer, certificate: Path, key: Path, secret: Path
) -> list[str]:
    """Start the SuperLink: loopback, TLS, keys of sites, state on disk, apps in processes."""
    return [
        *_program("flwr.superlink.cli", "flower_superlink"),
        *("--host", "127.0.0.1", "--port", str(server.port)),
        *("--ssl-ca-certfile", str(server.authority)),
        *("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)),
        "--enable-supernode-auth",
        *("--database", str(server.home / "superlink.db")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(server: LoopbackServer, secret: Path) -> list[str]:
    """Start the process that starts the ServerApp; it shares a secret with the SuperLink."""
    return [
        *_program("flwr.supercore.cli", "flower_superexec"),
        *("--runtime-api-address", server.address),
        *("--root-certificates", str(server.authority)),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def supernode_command(
    address: str, authority: Path | None, key: Path | None, node_config: str, port: int
) -> list[str]:
    """Start a site's SuperNode.

    Args:
        address: Of the server's edge, HOST:PORT.
        authority: Certificate of the authority; None: plain HTTP.
        key: Private key of the site; None with plain HTTP, which knows no keys.
        node_config: What the ClientApp is told, and nobody else.
        port: Of the loopback interface, for the ClientApp's own traffic.
    """
    secured = ["--insecure"] if authority is None else ["--root-certificates", str(authority)]
    if key is not None:
        secured += ["--auth-supernode-private-key", str(key)]
    return [
        *_program("flwr.supernode.cli", "flower_supernode"),
        *("--superlink", address, *secured),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", node_config),
    ]


def write_connection(server: LoopbackServer) -> None:
    """Write Flower's configuration file, through which its commands find the SuperLink."""
    connection = {"address": server.address, "root-certificates": str(server.authority)}
    content = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    server.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(server.home / "config.toml", content.encode())


def submit_run(server: LoopbackServer) -> int:
    """Submit the federation's app; returns Flower's id of the run.

    Nothing is said of the run but its app: Flower tells every site what a run was submitted with.
    """
    return int(_flwr(server, ["run", str(APP), CONNECTION])["run-id"])


def run_statuses(server: LoopbackServer) -> dict[int, tuple[str, str]]:
    """Status (such as `finished:completed`) and details of every run, by id."""
    answer = _flwr(server, ["list", CONNECTION])
    return {
        int(run["run-id"]): (run["status"], run.get("status-details", ""))
        for run in answer.get("runs", [])
    }


def stop_run(server: LoopbackServer, run_id: int) -> None:
    """Stop a run; its app may live on for a while."""
    _flwr(server, ["stop", str(run_id), CONNECTION])


def register_site(server: LoopbackServer, name: str, public_key: str) -> int:
    """Admit a site's key; returns the site's node id."""
    file = server.home / "register.pub"
    write_atomically(file, f"{public_key}\n".encode())
    answer = _flwr(server, ["supernode", "register", str(file), CONNECTION, "--name", name])
    return int(answer["node-id"])


def list_nodes(server: LoopbackServer) -> list[int]:
    """List the node ids of all registered keys."""
    answer = _flwr(server, ["supernode", "list", CONNECTION])
    return [int(node["node-id"]) for node in answer["nodes"]]


def unregister_site(server: LoopbackServer, node_id: int) -> None:
    """Take a site's admission back."""
    _flwr(server, ["supernode", "unregister", str(node_id), CONNECTION])


def _flwr(server: LoopbackServer, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command of `flwr` and read its JSON; its exit code says nothing."""
    command = [*_program("flwr.cli.app", "app"), *arguments, "--format", "json"]
    variables = environment(server.home, Path(sys.executable).parent)
    try:
        done = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            cwd=server.home,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except (subprocess.TimeoutExpired, ValueError) as error:
        text = "" if isinstance(error, subprocess.TimeoutExpired) else done.stdout + done.stderr
        raise FederationError(f"flwr {arguments[0]} gave no answer: {text.strip()!r}") from error
    if not answer.get("success"):
        reason = answer.get("error-message", done.stderr.strip())
        raise FederationError(f"flwr {' '.join(arguments[:2])} failed: {reason}")
    return answer


def _program(module: str, function: str) -> list[str]:
    # By module, not by path: the scripts may lie elsewhere than the interpreter. And nothing is
    # imported from the working directory (-P).
    return [sys.executable, "-P", "-c", f"from {module} import {function} as main; main()"]


def quote(path: Path) -> str:
    """Write a path as a value that Flower reads back.

    Raises:
        FederationError: If it has a character that Flower cannot read.
    """
    text = str(path)
    if '"' in text or "\\" in text or "\n" in text:
        raise FederationError(f"Flower takes no path with quotes or backslashes: {text!r}")
    return f'"{text}"'
