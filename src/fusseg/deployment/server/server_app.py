"""The ServerApp: the server's part of a deployment, as Flower starts it."""

import io
import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fusseg.core.errors import FussegError
from fusseg.core.visible_text import brief
from fusseg.deployment.own_script import import_own_script
from fusseg.deployment.processes import open_private
from fusseg.deployment.server.events import DeploymentEvent, write_event
from fusseg.deployment.server.server_rounds import FLOWER, serve_rounds
from fusseg.deployment.wire.refusals import log_error

RUN_DIR, CACHE = "FUSSEG_SERVE_RUN_DIR", "FUSSEG_SERVE_CACHE"
"""Environment variables of the process. Settings of a run would not do: every site gets them."""
LOG = "rounds.log"
"""File in Flower's folder with the log of the rounds, such as tracebacks."""

app = ServerApp()


@app.main()
def main(grid: Grid, _context: Context) -> None:
    """Run the federation that the run directory describes."""
    run_dir = Path(os.environ[RUN_DIR])
    _log_to(run_dir / FLOWER / LOG)
    try:
        # First, since the script may add entries to the tables.
        import_own_script()
        serve_rounds(grid, run_dir, Path(os.environ[CACHE]))
    except FussegError as error:
        write_event(run_dir, DeploymentEvent("stopped", str(error)))
        raise
    except Exception as error:
        log_error("the rounds ended", error)
        write_event(run_dir, DeploymentEvent("stopped", brief(f"{type(error).__name__}: {error}")))
        raise


def _log_to(path: Path) -> None:
    """Log to a file: Flower copies the output of this process into its database."""
    handler = logging.StreamHandler(io.TextIOWrapper(open_private(path), encoding="utf-8"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger("fusseg").addHandler(handler)
