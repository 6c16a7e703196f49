"""Flower's SuperExec at a site, with ClientApps that start in a fraction of a second.

Flower starts a process for every message, and importing torch, Flower and fusseg in it takes two to
four seconds of a core. Here one process imports them once, and each ClientApp is a fork of it. The
process has computed nothing before a fork; its only other threads are idle ones of OpenBLAS, which
is made for forks.
"""

import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec as superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

LOG = logging.getLogger(__name__)
SOCKETS = "warm"
"""Folder in Flower's folder for the socket of the warm process."""
_LONGEST_FOLDER = 70
"""Bytes; the path of a socket has at most 107."""
_PRELOADED = ("fusseg.deployment.site.client_app", "flwr.supernode.cli")


def run_site_superexec(function: str) -> None:
    """Run Flower's SuperExec, whose ClientApps run a function in a warm process.

    Outside of Linux a fork may break system libraries, and in Python 3.11.0 any user of the machine
    could reach the warm process (CVE-2022-42919): there Flower starts each app itself.

    Args:
        function: What runs in place of `flwr-clientapp`, as `MODULE:FUNCTION`.
    """
    from flwr.supercore.cli import flower_superexec

    if sys.platform == "linux" and sys.version_info >= (3, 11, 1):
        _choose_socket_folder(Path(os.environ["FLWR_HOME"]) / SOCKETS)
        executor = WarmExecutor(function)
        superexec.get_executor = lambda *_args, **_settings: executor  # type: ignore[attr-defined]
    flower_superexec()


def _choose_socket_folder(folder: Path) -> None:
    """Let the socket lie in the site's own folder, where a restart removes what a kill has left."""
    shutil.rmtree(folder, ignore_errors=True)
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        return
    folder.mkdir(mode=0o700)
    tempfile.tempdir = str(folder)


class WarmExecutor(SubprocessExecutor):
    """Starts ClientApps as forks of one process that has imported everything."""

    def __init__(self, function: str) -> None:
        """Prepare the process; it starts with the first app."""
        self._function = function
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*_PRELOADED, function.partition(":")[0]])
        self._running: list[ForkServerProcess] = []

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a ClientApp; other kinds of tasks have no program here, and fail as before."""
        launched: LaunchResult
        if spec.task_type != TaskType.CLIENT_APP:
            launched = super().launch(spec)
            return launched
        self.reconcile()
        arguments = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token]
        if spec.insecure:
            arguments.append("--insecure")
        elif spec.root_certificates_path is not None:
            arguments += ["--root-certificates", spec.root_certificates_path]
        if spec.parent_pid is not None:
            arguments += ["--parent-pid", str(spec.parent_pid)]
        process = self._context.Process(target=_run, args=(self._function, arguments))
        try:
            process.start()
        except (OSError, EOFError) as error:
            LOG.warning("no warm process (%r): the app starts as a program of its own", error)
            launched = super().launch(spec)
            return launched
        self._running.append(process)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Release what belongs to apps that have ended."""
        ended = [process for process in self._running if process.exitcode is not None]
        for process in ended:
            self._running.remove(process)
            process.close()

    def close(self) -> None:
        """Stop the apps that are running."""
        for process in self._running:
            process.terminate()


def _run(function: str, arguments: Sequence[str]) -> None:
    """Run a ClientApp in this process, as the program `flwr-clientapp` would."""
    sys.argv = ["flwr-clientapp", *arguments]
    module, _, name = function.partition(":")
    getattr(import_module(module), name)()
