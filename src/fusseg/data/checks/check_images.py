"""Look at the images of a data set: which can be read, which are copies, how large they are."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.findings import Finding, counted, item_name
from fusseg.data.images import Decoding, raster_of, read_bytes
from fusseg.data.items import Item
from fusseg.data.stored import Stored, look_at


@dataclass(frozen=True)
class ReadImage:
    """What is kept of an image that was read."""

    item: Item
    digest: str
    shape: tuple[int, int]
    stored: Stored


def read_image(item: Item, decoding: Decoding) -> ReadImage | Finding:
    """Read an image, or say why a run would skip it."""
    try:
        data = read_bytes(item)
        raster = raster_of(item, data)
    except DataError as error:
        return Finding("warning", item_name(item), f"{error}; a run skips it")
    height, width, _ = raster.values.shape
    digest = hashlib.sha256(data).hexdigest()
    return ReadImage(item, digest, (height, width), look_at(raster, decoding, item.site))


def find_duplicates(images: Sequence[ReadImage]) -> Iterator[Finding]:
    """Name images with the same bytes."""
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


def describe_sizes(
    images: Sequence[ReadImage], config: DataConfig, subject: str
) -> Iterator[Finding]:
    """Tell the range of sizes, and which images are scaled up."""
    if not images:
        return
    smallest = min(images, key=lambda image: image.shape[0] * image.shape[1])
    largest = max(images, key=lambda image: image.shape[0] * image.shape[1])
    yield Finding(
        "note", subject, f"image sizes from {_size(smallest.shape)} to {_size(largest.shape)}"
    )
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
