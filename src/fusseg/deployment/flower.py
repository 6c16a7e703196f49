"""Every command line, variable and file of Flower that fusseg uses, for Flower 1.42.

An upgrade of Flower affects this file, `own_app.py`, `site/warm_apps.py`, the edge and the imports
of the two apps.
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

from fusseg.core.errors import FederationError
from fusseg.core.files import write_atomically
from fusseg.deployment.own_script import MODULE, SCRIPT

APP = Path(__file__).parent / "flower-app"
CONNECTION = "fusseg"
CLIENT_APP, SERVER_APP = "flwr-clientapp", "flwr-serverapp"
"""Programs that SuperExec starts."""
_COMMAND_SECONDS = 180.0

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "NO_PROXY": "*",
}
"""Nothing phones home, nothing is installed at run time, and no proxy is used, neither from the
environment (see below) nor from the system settings. The pause between two looks for work is half
of Flower's; with a shorter pause a dozen sites on one machine use up a core.
"""
STALE_MESSAGE = b"status. Ignoring message"
"""What a SuperNode logs when the run of a message that it was pulling has ended, as after a restart
of the server. From then on it holds one answer too many, and sends each later answer one message
late.
"""
UNKNOWN_KEY = b"Failed to activate SuperNode"
"""What a SuperNode logs when its key is not registered."""
STOPPED = b"SuperNode terminated gracefully"
"""What a SuperNode logs when it stops itself, as it does when a signature is refused."""
_KEPT_VARIABLES = re.compile(
    r"(LANG|LC_\w+|TZ|HOME|TMPDIR|LD_LIBRARY_PATH|PYTHON\w+|\w+_NUM_THREADS|OPENBLAS_\w+|MKL_\w+|"
    r"KMP_\w+|CUDA_\w+|HF_\w+|FUSSEG_\w+|VIRTUAL_ENV)"
)
"""Variables of this process that Flower's processes need. Those that set a proxy are not passed on.
"""


@dataclass(frozen=True)
class LoopbackServer:
    """How commands on the same machine reach a SuperLink."""

    home: Path
    """Flower's folder, with its connection, runs and state."""
    port: int
    authority: Path
    """Certificate of the authority. The server's certificate must be valid for 127.0.0.1."""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


def environment(home: Path, programs: Path) -> dict[str, str]:
    """Return the environment variables of a process of Flower.

    Args:
        home: Its folder, instead of `~/.flwr`.
        programs: The only folder in which it finds programs.
    """
    kept = {name: value for name, value in os.environ.items() if _KEPT_VARIABLES.fullmatch(name)}
    # Only the command that started this process decides which script is imported.
    for name in (SCRIPT, MODULE):
        kept.pop(name, None)
    return kept | QUIET | {"FLWR_HOME": str(home), "PATH": str(programs)}


def link_programs(folder: Path, app_command: str, function: str) -> None:
    """Fill a folder with the programs of a process: Flower's SuperExec and the app it may start.

    SuperExec starts apps by name. The program that it finds here runs the app of the installed
    package and no other (`own_app`). There is no program for its other kinds of tasks. The
    SuperExec of a site forks its apps from a warm process (`site/warm_apps.py`).

    Args:
        folder: Created if it is absent.
        app_command: What SuperExec starts: `CLIENT_APP` or `SERVER_APP`.
        function: What runs in its place, as `MODULE:FUNCTION`.
    """
    module, _, name = function.partition(":")
    superexec = "from flwr.supercore.cli import flower_superexec", "flower_superexec()"
    if app_command == CLIENT_APP:
        warm = "from fusseg.deployment.site.warm_apps import run_site_superexec"
        superexec = warm, f"run_site_superexec({function!r})"
    folder.mkdir(parents=True, exist_ok=True)
    for program, (imported, called) in {
        "flower-superexec": superexec,
        app_command: (f"from {module} import {name}", f"{name}()"),
    }.items():
        path = folder / program
        # Guarded: a process that Python forks reads the program of its parent. Safe path: it would
        # import modules from the working directory first.
        guarded = f'if __name__ == "__main__":\n    {imported}\n\n    {called}\n'
        write_atomically(path, f"#!{sys.executable} -P\n{guarded}".encode())
        path.chmod(0o700)


def superlink_command(
    server: LoopbackServer, certificate: Path, key: Path, secret: Path
) -> list[str]:
    """Build the command of the SuperLink: on loopback, with TLS, site keys and state on disk."""
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
    """Build the command of the SuperExec, which starts the ServerApp and shares the secret."""
    return [
        *_program("flwr.supercore.cli", "flower_superexec"),
        *("--runtime-api-address", server.address),
        *("--root-certificates", str(server.authority)),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def supernode_command(
    address: str, authority: Path | None, key: Path | None, node_config: str, port: int
) -> list[str]:
    """Build the command of a site's SuperNode.

    Args:
        address: Address of the server's edge, HOST:PORT.
        authority: Certificate of the authority; None: plain HTTP.
        key: Private key of the site; None with plain HTTP, which has no keys.
        node_config: Settings for the ClientApp, which do not leave the site.
        port: Port on the loopback interface for the ClientApp.
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
    """Write Flower's configuration file, which tells its commands where the SuperLink is."""
    connection = {"address": server.address, "root-certificates": str(server.authority)}
    content = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    server.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(server.home / "config.toml", content.encode())


def submit_run(server: LoopbackServer) -> int:
    """Submit the federation's app; returns Flower's id of the run.

    The run has no settings: Flower would send them to every site.
    """
    return int(_flwr(server, ["run", str(APP), CONNECTION])["run-id"])


def run_statuses(server: LoopbackServer) -> dict[int, tuple[str, str]]:
    """Return the status (such as `finished:completed`) and the details of every run, by id."""
    answer = _flwr(server, ["list", CONNECTION])
    return {
        int(run["run-id"]): (run["status"], run.get("status-details", ""))
        for run in answer.get("runs", [])
    }


def stop_run(server: LoopbackServer, run_id: int) -> None:
    """Stop a run, unless it has just ended; its app may go on for a while."""
    try:
        _flwr(server, ["stop", str(run_id), CONNECTION])
    except FederationError:
        status, _ = run_statuses(server).get(run_id, ("", ""))
        if not status.startswith("finished"):
            raise


def register_site(server: LoopbackServer, name: str, public_key: str) -> int:
    """Register a site's key; returns the site's node id."""
    file = server.home / "register.pub"
    write_atomically(file, f"{public_key}\n".encode())
    answer = _flwr(server, ["supernode", "register", str(file), CONNECTION, "--name", name])
    return int(answer["node-id"])


def list_nodes(server: LoopbackServer) -> list[int]:
    """List the node ids of all registered keys."""
    answer = _flwr(server, ["supernode", "list", CONNECTION])
    return [int(node["node-id"]) for node in answer["nodes"]]


def unregister_site(server: LoopbackServer, node_id: int) -> None:
    """Revoke a site's key."""
    _flwr(server, ["supernode", "unregister", str(node_id), CONNECTION])


def _flwr(server: LoopbackServer, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command of `flwr` and read its JSON; its exit code is meaningless."""
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
    # By module, not by path: the scripts may be in another folder than the interpreter. -P keeps
    # Python from importing from the working directory.
    return [sys.executable, "-P", "-c", f"from {module} import {function} as main; main()"]


def quote(path: Path) -> str:
    """Quote a path as a value of Flower's node configuration.

    Raises:
        FederationError: If it contains a character that Flower cannot read.
    """
    text = str(path)
    if '"' in text or "\\" in text or "\n" in text:
        raise FederationError(f"Flower takes no path with quotes or backslashes: {text!r}")
    return f'"{text}"'
