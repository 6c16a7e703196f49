"""The workers of a Dask cluster; the one module that knows Dask."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path

from distributed import Client, Worker, WorkerPlugin
from distributed.worker import logger

from fusseg.cluster.workers import TOKEN, Surroundings, Workers, describe_surroundings, find_fault
from fusseg.core.atomic import write_atomically
from fusseg.core.errors import ConfigError, DataError

_RESOURCE = "fusseg"
"""What a worker has one of, and every task takes: one task at a time, whatever its threads."""
_CLOSE_SECONDS = 10


class Admission(WorkerPlugin):
    """Gives tasks to workers that can stand in for this process, also to those that come later."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    async def setup(self, worker: Worker) -> None:
        """Let a worker take tasks, or say in its log why not."""
        fault = find_fault(self._surroundings)
        if fault:
            logger.error("takes no tasks of fusseg: %s", fault)
        else:
            await worker.set_resources(**{_RESOURCE: 1})


@contextmanager
def join_cluster(
    address: str, folders: Sequence[Path], inputs: Sequence[Path], patience: float = 10.0
) -> Iterator[Workers]:
    """Use the workers of a Dask cluster.

    Args:
        address: Of its scheduler.
        folders: What the workers write to; made if they are not there.
        inputs: What they read, as far as it is there.
        patience: Seconds to wait for the scheduler, and then for its first worker.

    Raises:
        ConfigError: If there is no such cluster, or a worker lacks version or folders.
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
            f"the Dask scheduler at {address} was lost; what is finished is kept, and the same "
            "command goes on"
        ) from None
    finally:
        # Tasks that still run see that nobody waits for them.
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
    # Whatever the reason for leaving, a lost scheduler must not hide it.
    with suppress(Exception):
        client.unregister_worker_plugin(plugin)
    with suppress(Exception):
        client.close(timeout=_CLOSE_SECONDS)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
