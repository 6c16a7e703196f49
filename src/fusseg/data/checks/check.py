"""Check everything that a run would read: what is there, what is wrong, what to do about it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError, FussegError
from fusseg.data.checks.check_masks import describe_faults, find_fault, name_classes
from fusseg.data.checks.unused import find_unused
from fusseg.data.checks.unused_masks import find_unused_masks
from fusseg.data.crops import cut_up
from fusseg.data.findings import Finding, counted, item_name
from fusseg.data.images import Decoding, decoding_of, raster_of, read_bytes
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.mask_turns import find_turned
from fusseg.data.partitions import partition
from fusseg.data.partitions.small_clients import (
    MIN_IMAGES,
    check_held_out,
    small_clients,
    small_sites,
)
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.splits import read_splits
from fusseg.data.stored import Stored, judge_stored, look_at


@dataclass(frozen=True)
class _ReadImage:
    """Facts about an image that was read."""

    item: Item
    digest: str
    shape: tuple[int, int]
    stored: Stored


def check_sites(
    config: DataConfig,
    track: Callable[[Sequence[Item]], Iterable[Item]] = iter,
    min_images: int = MIN_IMAGES,
    *,
    at_sites: bool = False,
) -> Iterator[Finding]:
    """Open every image and mask of a data set and yield findings; errors are findings, too.

    Args:
        config: The data set, and which of its images train and are held out.
        track: Wraps the sequence of images, for a progress bar.
        min_images: As in `training_images`.
        at_sites: Whether training images are scored on their masks.
    """
    subject = config.scenes if config.layout == "synthetic" else config.root
    yield from find_unused(config)
    try:
        dataset = open_dataset(config)
    except FussegError as error:
        yield Finding("error", subject, str(error))
        return
    yield from _overview(dataset, subject)
    yield from find_unused_masks(dataset, config)
    if config.layout == "sites":
        yield from _stray_rows(dataset, config)
    training, held_out, problems = _selection(dataset, config, min_images)
    yield from problems
    # A run reads only the masks of the images that it scores.
    trains = {(item.site, item.stem) for item in training if at_sites}
    scored = held_out or frozenset(
        item for item in dataset.items if (item.site, item.stem) in trains
    )
    images: list[_ReadImage] = []
    faults: dict[Item, str] = {}
    decoding = decoding_of(config)
    for item in track(dataset.items):
        read = _read_image(item, decoding)
        if isinstance(read, Finding):
            yield read
            continue
        images.append(read)
        if dataset.classes is not None:
            faults[item] = find_fault(item, dataset.classes)
    items = [image.item for image in images]
    usable = frozenset(items)
    if dataset.classes is None:
        classes = yield from name_classes(items, scored & usable, subject)
        faults = {item: find_fault(item, classes) for item in items}
    yield from describe_faults(faults, scored)
    yield from find_turned(items)
    try:
        check_held_out(len(held_out & usable), len(held_out))
    except DataError as error:
        yield Finding("error", "selection", str(error))
    yield from _too_few(training, usable, config)
    yield from _find_duplicates(images)
    yield from judge_stored([image.stored for image in images], decoding)
    yield from _describe_sizes(images, config, subject)


def _overview(dataset: Dataset, subject: str) -> Iterator[Finding]:
    """Count images, masks and splits per site, and name the classes."""
    for site in dataset.sites:
        items = [item for item in dataset.items if item.client == site]
        masks = sum(item.mask is not None for item in items)
        splits = Counter(item.split for item in items if item.split)
        text = f"{counted(len(items), 'image')}, {counted(masks, 'mask')}"
        if splits:
            text += "; splits: " + ", ".join(f"{name} {splits[name]}" for name in sorted(splits))
        yield Finding("note", site, text)
        if 0 < masks < len(items):
            first = next(item.stem for item in items if item.mask is None)
            yield Finding(
                "note",
                site,
                f"{counted(len(items) - masks, 'image')} without a mask, the first: {first!r}; "
                "evaluation leaves them out",
            )
    if dataset.classes is not None:
        names = dataset.classes.names
        text = f"{len(names)} classes: {', '.join(names)}"
        if dataset.classes.index_of is not None:
            used = sum(0 <= index < len(names) for index in dataset.classes.index_of)
            text += f"; merged from {used} pixel values"
        elif dataset.classes.ignore_index is not None:
            text += f"; {dataset.classes.ignore_index} ignored"
        yield Finding("note", subject, text)


def _stray_rows(dataset: Dataset, config: DataConfig) -> Iterator[Finding]:
    """Find rows in the table of splits that belong to no image."""
    stems = {(item.site, item.stem) for item in dataset.items}
    table = Path(config.root) / config.splits
    if not table.is_file():
        return
    rows = [row for row in read_splits(table) if (row.site, row.stem) not in stems]
    if rows:
        yield Finding(
            "warning",
            str(table),
            f"{counted(len(rows), 'row')} without an image, the first: line {rows[0].line} (stem "
            f"{rows[0].stem!r} of site {rows[0].site!r}); stems are written without a suffix",
        )


def _selection(
    dataset: Dataset, config: DataConfig, min_images: int
) -> tuple[tuple[Item, ...], frozenset[Item], list[Finding]]:
    """Pick training images with their clients, and held-out ones; errors become findings."""
    training: tuple[Item, ...] = ()
    held_out: frozenset[Item] = frozenset()
    try:
        held_out = frozenset(select_held_out(dataset, config))
        training = partition(select_training(dataset, config), dataset, config, min_images)
        too_small = small_sites(dataset, config)
    except FussegError as error:
        return training, held_out, [Finding("error", "selection", str(error))]
    text = f"{counted(len(training), 'image')} train, {len(held_out)} held out"
    findings = [Finding("note", "selection", text)]
    for site, count in too_small.items():
        text = (
            f"{counted(count, 'training image')}, but a site needs {MIN_IMAGES} to train; "
            "it does not train; add images or hold it out"
        )
        findings.append(Finding("warning", site, text))
    if config.crops != "none":
        text = f"{len(cut_up(training, config.crops))} crops replace the training images"
        findings.append(Finding("note", "crops", text))
    if config.partition != "site" or config.num_clients:
        counts = Counter(item.client for item in training).values()
        text = f"{counted(len(counts), 'client')} of {min(counts)} to {max(counts)} images"
        findings.append(Finding("note", "partition", text))
    return training, held_out, findings


def _too_few(training: Sequence[Item], usable: Set[Item], config: DataConfig) -> Iterator[Finding]:
    """Find clients that have too few images once some are skipped."""
    readable = {(item.site, item.stem) for item in usable}
    counts = Counter({item.client: 0 for item in training})
    read = [item for item in training if (item.site, item.stem) in readable]
    counts.update(item.client for item in cut_up(read, config.crops))
    for client, message in small_clients(counts, config, usable=True).items():
        yield Finding("error", client, message)


def _read_image(item: Item, decoding: Decoding) -> _ReadImage | Finding:
    """Read an image, or say why a run would skip it."""
    try:
        data = read_bytes(item)
        raster = raster_of(item, data)
    except DataError as error:
        return Finding("warning", item_name(item), f"{error}; a run skips it")
    height, width, _ = raster.values.shape
    digest = hashlib.sha256(data).hexdigest()
    return _ReadImage(item, digest, (height, width), look_at(raster, decoding, item.site))


def _find_duplicates(images: Sequence[_ReadImage]) -> Iterator[Finding]:
    """Report images with the same bytes."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for image in images:
        groups[image.digest].append(image.item)
    for items in groups.values():
        if len(items) > 1:
            others = ", ".join(item_name(item) for item in items[1:4])
            more = f" and {len(items) - 4} more" if len(items) > 4 else ""
            yield Finding(
                "warning", item_name(items[0]), f"same bytes as {others}{more}; remove the copies"
            )


def _describe_sizes(
    images: Sequence[_ReadImage], config: DataConfig, subject: str
) -> Iterator[Finding]:
    """Report the range of image sizes, and which images are scaled up."""
    if not images:
        return
    smallest = min(images, key=lambda image: image.shape[0] * image.shape[1])
    largest = max(images, key=lambda image: image.shape[0] * image.shape[1])
    sizes = f"image sizes from {_size(smallest.shape)} to {_size(largest.shape)}"
    if len({image.shape[:2] for image in images}) == 1:
        sizes = f"all images are {_size(largest.shape)}"
    yield Finding("note", subject, sizes)
    height, width = config.image_size
    small = [image for image in images if image.shape[0] < height or image.shape[1] < width]
    if small:
        yield Finding(
            "note",
            item_name(small[0].item),
            f"{counted(len(small), 'image')} smaller than data.image_size "
            f"{_size(config.image_size)}, this one {_size(small[0].shape)}; scaled up",
        )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
