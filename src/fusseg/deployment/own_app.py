"""Run the app of the installed package, and refuse any other that a server sends.

Flower sends an app to every site as a bundle of files and runs what is in it: whoever operates a
server could run any code at the sites. fusseg replaces Flower's programs `flwr-serverapp` and
`flwr-clientapp` with the two functions below. They refuse every bundle but that of the installed
package, which holds no code.
"""

from hashlib import sha256
from importlib import import_module
from types import ModuleType
from typing import Any

from fusseg.core.errors import FederationError
from fusseg.deployment.flower import APP
from fusseg.deployment.processes import watch_parent


def run_server_app() -> None:
    """Run the ServerApp of the installed package, in place of Flower's `flwr-serverapp`."""
    _run("flwr.superlink.cli", "flwr_serverapp", "flwr.superlink.runtime.run_serverapp")


def run_client_app() -> None:
    """Run the ClientApp of the installed package, in place of Flower's `flwr-clientapp`."""
    _run("flwr.supernode.cli", "flwr_clientapp", "flwr.supernode.runtime.run_clientapp")


def _run(programs: str, program: str, runtime: str) -> None:
    # Before Flower is imported, which takes a second.
    watch_parent()
    run = getattr(import_module(programs), program)
    _refuse_other_apps(import_module(runtime))
    run()


def _refuse_other_apps(runtime: ModuleType) -> None:
    """Compare a bundle with that of the installed package before Flower installs it.

    Args:
        runtime: Flower's module that runs an app; its function `install_from_fab` is replaced.

    Raises:
        FederationError: If this version of Flower installs apps in another way.
    """
    from flwr.cli.build import build_fab_from_disk

    install = getattr(runtime, "install_from_fab", None)
    if install is None:
        raise FederationError(
            f"{runtime.__name__} of this Flower has no install_from_fab; fusseg needs flwr 1.42"
        )
    own = sha256(build_fab_from_disk(APP)).hexdigest()

    def install_own(bundle: bytes, *args: Any, **settings: Any) -> Any:  # noqa: ANN401
        found = sha256(bundle).hexdigest()
        if found != own:
            raise FederationError(
                f"the server sent an app (SHA-256 {found[:16]}) that is not the one of the "
                f"installed fusseg (SHA-256 {own[:16]}); it was not run"
            )
        return install(bundle, *args, **settings)

    runtime.install_from_fab = install_own  # type: ignore[attr-defined]
