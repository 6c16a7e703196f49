"""The option `--dask`: work spread over a Dask cluster."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusseg.cli.extras import require
from fusseg.cluster.workers import Workers
from fusseg.config.schema import Config


def check_dask(address: str | None) -> None:
    """Refuse a cluster if Dask is not installed, before anything is written.

    Raises:
        ConfigError: If an address is given and Dask is not installed.
    """
    if address is not None:
        require("distributed", "--dask")


@contextmanager
def workers_at(
    address: str | None, folders: Sequence[Path], configs: Iterable[Config]
) -> Iterator[Workers | None]:
    """Use the workers of a Dask cluster.

    Args:
        address: Address of the scheduler, or None to spread nothing.
        folders: Folders that the workers write to.
        configs: Configurations; the workers read their data.

    Raises:
        ConfigError: If Dask is not installed, or the cluster cannot be used.
        DataError: If the cluster is lost during the work.
    """
    if address is None:
        yield None
        return
    check_dask(address)
    from fusseg.cluster.dask_workers import join_cluster

    roots = sorted({config.data.root for config in configs} - {""})
    with join_cluster(address, folders, [Path(root) for root in roots]) as workers:
        yield workers
