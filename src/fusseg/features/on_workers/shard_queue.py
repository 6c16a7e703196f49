"""Handing shards out to workers, and appending their features in the order of a local run."""

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fusseg.cluster.workers import Workers, result_of, wait_until_seen
from fusseg.core.errors import DataError
from fusseg.features.cache.store import Store
from fusseg.features.cache.writer import StoreWriter, writing
from fusseg.features.on_workers.shards import (
    OUTCOMES,
    SHARDS,
    BackboneSource,
    Outcome,
    Shard,
    cut_shards,
    leftover,
    read_outcomes,
    write_shard,
)
from fusseg.features.pipeline import (
    DigestedItem,
    Extracted,
    Skipped,
    check_space,
    missing_items,
)


@dataclass
class ShardQueue:
    """Shards in order; the first of them are handed out to workers."""

    workers: Workers
    waiting: deque[Shard]
    running: deque[tuple[Shard, Future[None]]] = field(default_factory=deque)

    def hand_out(self) -> None:
        """Hand out shards until all workers are busy."""
        while self.waiting and len(self.running) < self.workers.ahead:
            shard = self.waiting.popleft()
            self.running.append((shard, self.workers.submit(write_shard, shard)))

    def has_more(self, target: Store) -> bool:
        """Tell whether shards of a store are left."""
        first = self.running[0][0] if self.running else next(iter(self.waiting), None)
        return first is not None and first.target == target

    def take(self) -> tuple[Shard, list[Outcome]]:
        """Wait for the first shard, and read its outcomes."""
        shard, future = self.running.popleft()
        result_of(future)
        wait_until_seen(shard.store.path / OUTCOMES)
        return shard, read_outcomes(shard)

    def cut_again(self, shard: Shard, entries: Sequence[DigestedItem]) -> None:
        """Put images before the remaining ones of a shard's store, and cut all into new shards."""
        self.stop()
        rest = list(entries)
        while self.waiting and self.waiting[0].target == shard.target:
            rest += self.waiting.popleft().entries
        shards = cut_shards(shard.target, rest, shard.backbone, shard.batch_size)
        self.waiting.extendleft(reversed(shards))

    def stop(self) -> None:
        """Take back the shards that are handed out."""
        while self.running:
            shard, future = self.running.pop()
            future.cancel()
            self.waiting.appendleft(shard)


def extract_on(
    workers: Workers,
    wanted: Sequence[tuple[Store, Sequence[DigestedItem]]],
    backbone: BackboneSource,
    batch_size: int,
) -> Iterator[tuple[Store, Extracted | Skipped]]:
    """Extract missing features on workers; the stores become the same as with `extract_site`.

    Args:
        workers: Workers, which must have access to stores and images.
        wanted: The images of each store.
        backbone: How workers load the backbone.
        batch_size: Images per forward pass.

    Yields:
        Each missing image once its features are written, or why it was skipped.

    Raises:
        FussegError: If a worker cannot do its part, or the disk is too small, full or read-only.
    """
    waiting: deque[Shard] = deque()
    for store, entries in wanted:
        missing = missing_items(store, entries)
        check_space(store, len(missing))
        waiting.extend(cut_shards(store, missing, backbone, batch_size))
    queue = ShardQueue(workers, waiting)
    try:
        queue.hand_out()
        for store, _ in wanted:
            if queue.has_more(store):
                for outcome in _fill(store, queue):
                    yield store, outcome
    except OSError as error:
        raise DataError(
            f"cannot write features to the cache: {error.strerror}; free disk space or "
            "choose another cache folder with --cache or FUSSEG_CACHE"
        ) from error
    finally:
        queue.stop()


def _fill(store: Store, queue: ShardQueue) -> Iterator[Extracted | Skipped]:
    """Append the shards of one store, holding its lock all the time."""
    with writing(store) as writer:
        # Another process may have extracted some images since the shards were cut.
        present = set(store.digests())
        appended: list[Shard] = []
        while queue.has_more(store):
            shard, outcomes = queue.take()
            again = leftover(shard, outcomes) if queue.has_more(store) else ()
            if again:
                queue.cut_again(shard, again)
            queue.hand_out()
            apart = {entry.digest for entry in again}
            _append(writer, shard, present | apart)
            appended.append(shard)
            if not writer.waits:
                # Committed rows need no shard, so that nothing is on the disk twice.
                writer.commit()
                while appended:
                    shutil.rmtree(appended.pop().store.path)
            for outcome in outcomes:
                if outcome.entry.digest not in apart:
                    yield _describe(outcome)
    shutil.rmtree(store.path / SHARDS, ignore_errors=True)


def _append(writer: StoreWriter, shard: Shard, without: set[str]) -> None:
    store = shard.store
    for digest, features, pooled in zip(store.digests(), store.maps(), store.pooled(), strict=True):
        if digest not in without:
            writer.append(digest, features, pooled)


def _describe(outcome: Outcome) -> Extracted | Skipped:
    item = outcome.entry.item
    return Skipped(item, outcome.reason) if outcome.reason else Extracted(item)
