"""The server's half of a deployment, as Flower starts it."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fusseg.deployment.events import DeploymentEvent, write_event
from fusseg.deployment.server_rounds import run_federation
from fusseg.errors import FussegError

RUN_DIR, CACHE = "FUSSEG_SERVE_RUN_DIR", "FUSSEG_SERVE_CACHE"
"""Variables of the process: what a run's own settings hold, Flower tells every site."""

app = ServerApp()


@app.main()
def main(grid: Grid, _context: Context) -> None:
    """Run the federation that the run directory describes."""
    run_dir = Path(os.environ[RUN_DIR])
    try:
        run_federation(grid, run_dir, Path(os.environ[CACHE]))
    except FussegError as error:
        write_event(run_dir, DeploymentEvent("stopped", str(error)))
        raise
    except Exception as error:
        write_event(run_dir, DeploymentEvent("stopped", f"{type(error).__name__}: {error}"))
        raise
