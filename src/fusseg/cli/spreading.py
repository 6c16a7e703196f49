"""The option `--dask`: work spread over a Dask cluster."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fusseg.cluster.workers import Workers
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError


def check_dask(address: str | None) -> None:
    """Refuse a cluster where Dask is not installed, before anything is written.

    Raises:
        ConfigError: If an address is given and the package is missing.
    """
    if address is not None and find_spec("distributed") is None:
        raise ConfigError(
            "--dask needs dask.distributed, which is not installed: pip install 'fusseg[cluster]'"
        )


@contextmanager
def workers_at(
    address: str | None, folders: Sequence[Path], configs: Iterable[Config]
) -> Iterator[Workers | None]:
    """Use the workers of a Dask cluster.

    Args:
        address: Of its scheduler; None: nothing is spread.
        folders: What the workers write to.
        configs: Whose data they read.

    Raises:
        ConfigError: If Dask is not installed, or the cluster cannot be used.
        DataError: If it is lost on the way.
    """
    if address is None:
        yield None
        return
    check_dask(address)
    from fusseg.cluster.dask_workers import join_cluster

    roots = sorted({config.data.root for config in configs} - {""})
    with join_cluster(address, folders, [Path(root) for root in roots]) as workers:
        yield workers
