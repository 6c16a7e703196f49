"""The server's half of a deployment, as Flower starts it."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fusseg.deployment.events import DeploymentEvent, write_event
from fusseg.deployment.server_rounds import run_federation
from fusseg.errors import FussegError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run directory describes."""
    run_dir = Path(str(context.run_config["run-dir"]))
    try:
        run_federation(grid, run_dir, Path(str(context.run_config["cache"])))
    except FussegError as error:
        write_event(run_dir, DeploymentEvent("stopped", str(error)))
        raise
    except Exception as error:
        write_event(run_dir, DeploymentEvent("stopped", f"{type(error).__name__}: {error}"))
        raise
