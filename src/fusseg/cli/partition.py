"""The command `fusseg partition`: show a partition and save it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fusseg.cli.output_files import write_output
from fusseg.cli.progress import Display
from fusseg.config.file import load_config
from fusseg.core.colors import palette
from fusseg.core.errors import ConfigError
from fusseg.data.items import Classes, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import partition
from fusseg.data.partitions.dominant import UNLABELED, count_labels, dominant_classes, known_classes
from fusseg.data.partitions.partition_file import dump_partition
from fusseg.data.selection import select_training
from fusseg.report.class_distribution import draw_class_distribution


def run_partition(
    config_path: Path, overrides: Sequence[str], out: Path, figure: Path | None
) -> None:
    """Save which client holds which training image, and print and draw what each client gets.

    Args:
        config_path: Configuration.
        overrides: Values of `--set`.
        out: CSV file of the partition.
        figure: SVG file of the classes of each client; None: draw nothing.

    Raises:
        ConfigError: If the file exists, the partition cannot be made, or there is no mask to draw.
        DataError: If a mask is broken, or a file cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and is not overwritten; choose another --out or delete it")
    config = load_config(config_path, overrides)
    dataset = open_dataset(config.data)
    training = select_training(dataset, config.data)
    items = partition(training, dataset, config.data, config.local.batch_size)
    classes = known_classes(items, dataset)
    if figure is not None and classes is None:
        raise ConfigError("no training image has a mask to draw the classes of; leave --figure out")
    with Display() as display:
        write_output(out, dump_partition(items).encode())
        counts = None if classes is None else _count(items, classes, display)
        for line in describe_partition(items, classes, counts):
            display.line(line)
        display.line(f'partition: {out}; use it with data.partition = "file:{out}"')
        if figure is not None and classes is not None and counts is not None:
            write_output(figure, _draw(items, classes, counts))
            display.line(f"figure: {figure}")


def describe_partition(
    items: Sequence[Item],
    classes: Classes | None,
    counts: Int64[np.ndarray, "images classes"] | None,
) -> Iterator[str]:
    """Write a table: the images of each client and their dominant classes.

    Args:
        items: Training images with their clients.
        classes: Names of the classes; None without masks.
        counts: Pixels of each class in each image; None without masks.

    Yields:
        The lines of the table.
    """
    images = Counter(item.client for item in items)
    width = max(len(client) for client in ("client", *images))
    head = f"{'client':<{width}}  images"
    yield head if counts is None else f"{head}  dominant classes"
    dominant = None if counts is None else dominant_classes(counts)
    for client in sorted(images):
        line = f"{client:<{width}}  {images[client]:>6}"
        if dominant is not None and classes is not None:
            own = [index for index, item in enumerate(items) if item.client == client]
            line += "  " + _shares(Counter(dominant[own].tolist()), classes)
        yield line


def _shares(dominant: Counter[int], classes: Classes) -> str:
    """List the dominant classes with their shares of the images; ties in the order of classes."""
    total = dominant.total()
    parts = []
    for index, count in sorted(dominant.items(), key=lambda pair: (-pair[1], pair[0])):
        name = "(no label)" if index == UNLABELED else classes.names[index]
        parts.append(f"{name} {count / total:.0%}")
    return ", ".join(parts)


def _count(
    items: Sequence[Item], classes: Classes, display: Display
) -> Int64[np.ndarray, "images classes"]:
    counts = []
    for done, item in enumerate(items, 1):
        counts.append(count_labels([item], classes))
        display.advance("reading masks", done, len(items))
    return np.concatenate(counts)


def _draw(
    items: Sequence[Item], classes: Classes, counts: Int64[np.ndarray, "images classes"]
) -> bytes:
    clients = sorted({item.client for item in items})
    place = {client: row for row, client in enumerate(clients)}
    pixels = np.zeros((len(clients), len(classes.names)))
    np.add.at(pixels, [place[item.client] for item in items], counts)
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    colors = classes.colors or [
        (int(red), int(green), int(blue)) for red, green, blue in palette(len(classes.names))
    ]
    return draw_class_distribution(clients, classes.names, colors, shares, "svg")
