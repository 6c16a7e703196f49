"""Run the app of the installed package, and no other that a server may send.

Flower carries an app as a bundle of files to every site and runs what is in it: who operates a
server could run any code at the sites. The programs that fusseg puts in the place of Flower's
`flwr-clientapp` and `flwr-serverapp` refuse a bundle that is not the one of the installed package,
which holds no code.
"""

from hashlib import sha256
from typing import Any

from flwr.cli.build import build_fab_from_disk

from fusseg.core.errors import FederationError
from fusseg.deployment.flower import APP


def refuse_other_code(runtime: Any) -> None:  # noqa: ANN401 - a module
    """Check the bundle before Flower installs it.

    Args:
        runtime: Flower's module that runs an app; its name `install_from_fab` is replaced.

    Raises:
        FederationError: If this Flower installs apps in another way.
    """
    install = getattr(runtime, "install_from_fab", None)
    if install is None:
        raise FederationError(
            f"{runtime.__name__} of this Flower has no install_from_fab; fusseg needs flwr 1.41"
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

    runtime.install_from_fab = install_own
