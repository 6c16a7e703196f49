"""Connect to the workers of a Dask cluster; the only module that imports Dask."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path

from distributed import Client, Worker, WorkerPlugin
from distributed.worker import logger

from fusseg.cluster.workers import TOKEN, Surroundings, Workers, describe_surroundings, find_fault
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically

_RESOURCE = "fusseg"
"""A Dask resource. Each worker has one and each task takes one: a worker runs a task at a time."""
_CLOSE_SECONDS = 10


class Admission(WorkerPlugin):
    """Admits workers that have what this process has, including workers that join later."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    async def setup(self, worker: Worker) -> None:
        """Let a worker take tasks, or write to its log why it gets none."""
        fault = find_fault(self._surroundings)
        if fault:
            logger.error("this worker gets no tasks of fusseg: %s", fault)
        else:
            await worker.set_resources(**{_RESOURCE: 1})


@contextmanager
def join_cluster(
    address: str, folders: Sequence[Path], inputs: Sequence[Path], patience: float = 10.0
) -> Iterator[Workers]:
    """Use the workers of a Dask cluster.

    Args:
        address: Address of the scheduler.
        folders: Folders that the workers write to; created if needed.
        inputs: Folders that they read, as far as they exist.
        patience: Seconds to wait for the scheduler, and then for its first worker.

    Raises:
        ConfigError: If there is no such cluster, or a worker lacks a version or a folder.
        DataError: If the scheduler is lost.
    """
    client = _connect(address, patience)
    plugin = f"fusseg-{secrets.token_hex(4)}"
    tokens: list[Path] = []
    try:
        tokens.extend(_write_token(folder, plugin) for folder in folders)
        surroundings = describe_surroundings(tokens, inputs)
        _check_workers(client, address, surroundings)
        client.register_plugin(Admission(surroundings), name=plugin)
        executor = client.get_executor(pure=False, resources={_RESOURCE: 1})
        yield Workers(executor, surroundings, len(client.nthreads()))
    except CancelledError:
        raise DataError(
            f"lost the connection to the Dask scheduler at {address}; finished work is kept: run "
            "the same command again to continue"
        ) from None
    finally:
        # Running tasks look for the tokens, and stop without them.
        for token in tokens:
            token.unlink(missing_ok=True)
        _leave(client, plugin)


def _connect(address: str, patience: float) -> Client:
    try:
        client = Client(address, timeout=patience, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address!r} within {patience:.0f} s "
            f"({_first_line(error)}); start one with `dask scheduler` and give --dask "
            "the address it prints, such as tcp://host:8786"
        ) from error
    try:
        client.wait_for_workers(1, timeout=patience)
    except TimeoutError:
        client.close()
        raise ConfigError(
            f"the Dask scheduler at {address} has no workers after {patience:.0f} s; start some: "
            f"dask worker {address}"
        ) from None
    return client


def _write_token(folder: Path, name: str) -> Path:
    token = folder / f"{TOKEN}{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(token, b"")
    except OSError as error:
        raise ConfigError(f"cannot write the folder {folder}: {error.strerror}") from error
    return token


def _check_workers(client: Client, address: str, surroundings: Surroundings) -> None:
    answers: Mapping[str, str | BaseException] = client.run(
        find_fault, surroundings, on_error="return"
    )
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, BaseException):
            raise ConfigError(
                f"worker {worker} of the Dask cluster {address} cannot run fusseg "
                f"({_first_line(answer)}); install fusseg[cluster] {surroundings.version} there"
            )
        if answer:
            raise ConfigError(f"worker {worker} of the Dask cluster {address}: {answer}")


def _leave(client: Client, plugin: str) -> None:
    # A lost scheduler must not hide the error that ended the work.
    with suppress(Exception):
        client.unregister_worker_plugin(plugin)
    with suppress(Exception):
        client.close(timeout=_CLOSE_SECONDS)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
