"""Running the frozen backbone on the images of one site that its store lacks.

Threads decode images ahead of the backbone, and another thread writes features after it. Eight
decoded images and three groups of `batch_size` are in memory at once, for any number of images.
"""

import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8

from fusseg.core.errors import DataError
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone
from fusseg.features.cache.store import Store
from fusseg.features.cache.writer import StoreWriter, writing
from fusseg.features.zoom import zoom_in

_DECODE_THREADS = 2
_DECODED_AHEAD = 8
"""Decoded images that wait for the backbone."""
_COMMIT_SECONDS = 2.0
"""Work that is lost at most if the process is killed."""


@dataclass(frozen=True)
class Extracted:
    """One image whose features are in the store."""

    item: Item


@dataclass(frozen=True)
class Skipped:
    """One image without features, and the reason."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True)
class DigestedItem:
    """An item and the SHA-256 of its image's bytes."""

    item: Item
    digest: str


def extract_site(
    store: Store, items: Sequence[DigestedItem], backbone: Backbone, batch_size: int
) -> Iterator[Extracted | Skipped]:
    """Extract the features that the store lacks, image by image.

    Groups are `batch_size` consecutive readable images of the missing ones. Rows are committed in
    whole groups, so that an interrupted extraction continues with the same groups: features do not
    depend on interruptions.

    Args:
        store: Store that the features are written to.
        items: The site's images.
        backbone: Frozen backbone.
        batch_size: Images per forward pass.

    Yields:
        Each missing image once its features are written, or why it was skipped.

    Raises:
        DataError: If images are missing and the disk is too small, full or read-only.
    """
    if not missing_items(store, items):  # a complete store may be read-only
        return
    try:
        with writing(store) as writer, ThreadPoolExecutor(_DECODE_THREADS) as decoders:
            # Again: another process may have extracted some while this one waited for the lock.
            missing = missing_items(store, items)
            check_space(store, len(missing))
            decoded = _decode_ahead(decoders, missing, store)
            yield from _write_behind(writer, decoded, backbone, batch_size)
    except OSError as error:
        raise DataError(
            f"cannot write features to {store.path}: {error.strerror}; free disk space or "
            "choose another cache folder with --cache or FUSSEG_CACHE"
        ) from error


def missing_items(store: Store, items: Sequence[DigestedItem]) -> list[DigestedItem]:
    """List the items without a row, one per digest."""
    present = set(store.digests())
    return list({entry.digest: entry for entry in items if entry.digest not in present}.values())


_Decoded = tuple[DigestedItem, "UInt8[np.ndarray, 'height width 3'] | DataError"]


def _decode_ahead(
    decoders: ThreadPoolExecutor, items: Sequence[DigestedItem], store: Store
) -> Iterator[_Decoded]:
    settings = store.settings

    def decode(entry: DigestedItem) -> _Decoded:
        try:
            image = load_image(entry.item, settings.decoding)
            fitted = fit_image(image, settings.image_size, settings.fit, settings.interpolation)
            if settings.zoomed:
                fitted = zoom_in(fitted, store.shape[:2], settings.interpolation)
            return entry, fitted[:, ::-1] if settings.mirrored else fitted
        except DataError as error:
            return entry, error

    remaining = iter(items)
    waiting: deque[Future[_Decoded]] = deque(
        decoders.submit(decode, entry) for entry in islice(remaining, _DECODED_AHEAD)
    )
    while waiting:
        decoded = waiting.popleft().result()
        waiting.extend(decoders.submit(decode, entry) for entry in islice(remaining, 1))
        yield decoded


def _write_behind(
    writer: StoreWriter, decoded: Iterator[_Decoded], backbone: Backbone, batch_size: int
) -> Iterator[Extracted | Skipped]:
    """Run the backbone on groups of images while the previous group is being written.

    Another thread commits rows, so that the backbone does not wait for the disk.
    """
    with ThreadPoolExecutor(1) as pen, ThreadPoolExecutor(1) as committer:
        writing_group: Future[list[Extracted | Skipped]] | None = None
        committing: Future[None] | None = None
        last_commit = time.monotonic()
        for group, broken in _groups(decoded, batch_size):
            yield from broken
            if not group:
                continue
            batch = torch.from_numpy(np.stack([image for _, image in group]))
            with torch.inference_mode(), _room_for_decoders(backbone):
                features = backbone.extract(batch)
            if writing_group is not None:
                yield from writing_group.result()
                if time.monotonic() - last_commit > _COMMIT_SECONDS and _is_done(committing):
                    committing = committer.submit(writer.commit)
                    last_commit = time.monotonic()
            entries = [entry for entry, _ in group]
            writing_group = pen.submit(_write_group, writer, entries, features)
        if writing_group is not None:
            yield from writing_group.result()
        if committing is not None:
            committing.result()


def _is_done(committing: Future[None] | None) -> bool:
    """Tell whether no commit is running; a failed commit raises its error."""
    if committing is None or not committing.done():
        return committing is None
    committing.result()
    return True


@contextmanager
def _room_for_decoders(backbone: Backbone) -> Iterator[None]:
    """Leave one thread to decoding and writing, if that does not change features.

    A light backbone on all cores waits in every operation for the thread that decoding has
    preempted, which takes longer than computing with one thread less.
    """
    threads = torch.get_num_threads()
    if not backbone.same_on_any_threads or threads == 1:
        yield
        return
    torch.set_num_threads(threads - 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _groups(
    decoded: Iterator[_Decoded], batch_size: int
) -> Iterator[tuple[list[tuple[DigestedItem, np.ndarray]], list[Skipped]]]:
    group: list[tuple[DigestedItem, np.ndarray]] = []
    broken: list[Skipped] = []
    for entry, image in decoded:
        if isinstance(image, DataError):
            broken.append(Skipped(entry.item, str(image)))
        else:
            group.append((entry, image))
        if len(group) == batch_size:
            yield group, broken
            group, broken = [], []
    if group or broken:
        yield group, broken


def _write_group(
    writer: StoreWriter,
    entries: Sequence[DigestedItem],
    features: Float[torch.Tensor, "images dim h w"],
) -> list[Extracted | Skipped]:
    # Rounded before transposing: half the bytes to move.
    half = features.half()
    pooled = half.float().mean(dim=(2, 3)).numpy()
    outcomes: list[Extracted | Skipped] = []
    for entry, image_features, mean in zip(entries, half, pooled, strict=True):
        # A value that float16 cannot hold makes the mean infinite or not a number.
        if np.isfinite(mean).all():
            writer.append(entry.digest, _channels_last(image_features), mean)
            outcomes.append(Extracted(entry.item))
        else:
            outcomes.append(
                Skipped(entry.item, "the backbone's features are not finite in float16")
            )
    return outcomes


def _channels_last(features: Float[torch.Tensor, "dim h w"]) -> Float16[np.ndarray, "h w dim"]:
    # As integers, which torch transposes in half the time.
    turned = features.view(torch.int16).flatten(1).T.contiguous().view(torch.float16)
    return turned.reshape(*features.shape[1:], len(features)).numpy()


def check_space(store: Store, num_images: int) -> None:
    """Refuse to start an extraction that does not fit on the disk.

    Raises:
        DataError: If the features of this many images do not fit.
    """
    needed = num_images * store.row_bytes
    free = shutil.disk_usage(store.path).free
    if needed > free:
        raise DataError(
            f"the features of {num_images} images of site {store.site!r} need "
            f"{needed / 1e9:.2f} GB, but {store.path} has {free / 1e9:.2f} GB free; choose another "
            "cache folder with --cache or FUSSEG_CACHE, or lower data.image_size"
        )
