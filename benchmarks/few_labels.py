"""What a few labels are worth: scores by class over the number of labeled images, on one machine.

    python benchmarks/few_labels.py benchmarks/camvid.toml runs/few-labels-camvid.csv \
        --set backbone.name=efficientnet-lite2

Class statistics need only features, so nothing is trained and the seed of training does not matter.
Labeled images are drawn from the training images of all clients, or of one, another one per draw.
`clicks` are 16 labeled positions per class, drawn from all training images. Each classifier is
scored on all held-out images, by the names of the classes. `probe` is a softmax regression on the
labels of all training images, scored position by position: the ceiling.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.core.visible_text import say
from fusseg.evaluation.held_out import HeldOut, read_labels
from fusseg.evaluation.probe import linear_probe, majority_labels
from fusseg.evaluation.scores import Scores, count_pixels, score
from fusseg.features.extraction import wait_for
from fusseg.features.labeled_features import pool_labeled
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.strategies import resolve
from fusseg.runs.prepare import prepare
from fusseg.segmentation.assignment import assign
from fusseg.segmentation.classifier import (
    ClassSums,
    add_trials,
    choose_numbers,
    fit_classifier,
    lacking_classes,
    no_trials,
    sum_classes,
    try_without,
)

NUMBERS = (1, 3, 10, 30, 100)
DRAWS = 6
CLICKS = 16
HEADER = ("labels", "from", "draw", "classes", "shrinkage", "mean_iou", "pixel_accuracy")
MOST_LEFT_OUT = 64
"""As in a federation."""
Image = tuple[Tensor, Tensor]
"""Centered features of the labeled positions, and their classes."""


@dataclass(frozen=True)
class Bench:
    """Labeled images of all clients, and the held-out images."""

    clients: dict[str, list[int]]
    """Places of each client's images."""
    images: list[Image]
    names: tuple[str, ...]
    """Names of the classes."""
    shown: HeldOut
    mean_feature: Tensor


def main() -> None:
    """Read the command line, measure, and write a row per classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path, help="CSV file")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args()
    overrides = ["federation.teach=true", *arguments.overrides]
    bench = open_bench(load_config(arguments.config, overrides), arguments.cache)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for row in measure(bench):
            writer.writerow(row)
            file.flush()
            say(" ".join(map(str, row)))


def open_bench(config: Config, cache: Path) -> Bench:
    """Extract features, and read all labels."""
    protocol, prepared = resolve(config), wait_for(prepare(config, cache))
    hellos = [say_hello(one, protocol, center=prepared.center) for one in prepared.clients]
    plan = agree(hellos, protocol, prepared.backbone.fingerprint, center=prepared.center)
    labeled = {one.client_id: one.labeled for one in prepared.clients if one.labeled is not None}
    pooled = pool_labeled(list(labeled.values()))
    numbers = list(range(len(pooled.classes)))
    clients, first = {}, 0
    for name, own in labeled.items():
        clients[name] = list(range(first, first + len(own.features)))
        first += len(own.features)
    images = list(pooled.images(plan.mean_feature, numbers))
    return Bench(clients, images, pooled.classes, prepared.shown, plan.mean_feature)


def measure(bench: Bench) -> Iterator[list[object]]:
    """Give the rows of the table, as in `HEADER`."""
    everywhere = sorted(place for places in bench.clients.values() for place in places)
    for number in NUMBERS:
        for draw in range(DRAWS):
            generator = torch.Generator().manual_seed(1000 * number + draw)
            name = sorted(bench.clients)[draw % len(bench.clients)]
            for source, places in (("all clients", everywhere), (name, bench.clients[name])):
                order = torch.randperm(len(places), generator=generator)
                if len(places) >= number:
                    drawn = [bench.images[places[at]] for at in order[:number].tolist()]
                    yield [number, source, draw, *teach(bench, drawn)]
    for draw in range(DRAWS):
        yield [f"{CLICKS} clicks per class", "all clients", draw, *teach(bench, click(bench, draw))]
    probed = probe(bench)
    yield ["probe", "all clients", 0, len(bench.names), "", probed.mean_iou, probed.pixel_accuracy]


def click(bench: Bench, draw: int) -> list[Image]:
    """Keep 16 labeled positions of each class, drawn from all images."""
    generator = torch.Generator().manual_seed(draw)
    kept: list[list[int]] = [[] for _ in bench.images]
    for number in range(len(bench.names)):
        places = [
            (image, at)
            for image, (_, labels) in enumerate(bench.images)
            for at in (labels == number).nonzero().flatten().tolist()
        ]
        for spot in torch.randperm(len(places), generator=generator)[:CLICKS].tolist():
            image, at = places[spot]
            kept[image].append(at)
    return [
        (features[own], labels[own])
        for (features, labels), own in zip(bench.images, kept, strict=True)
        if own
    ]


def teach(bench: Bench, images: Sequence[Image]) -> list[object]:
    """Fit a classifier as a federation does, and score it on all held-out images."""
    num_classes = len(bench.names)
    each = [sum_classes(*image, num_classes) for image in images]
    total = ClassSums(
        torch.stack([one.counts for one in each]).sum(dim=0),
        torch.stack([one.first for one in each]).sum(dim=0),
        torch.stack([one.second for one in each]).sum(dim=0),
    )
    trials = no_trials(num_classes)
    for (features, labels), own in list(zip(images, each, strict=True))[:MOST_LEFT_OUT]:
        trials = add_trials(trials, try_without(total.without(own), features, labels))
    chosen = choose_numbers(trials)
    lacking = lacking_classes(total.counts.tolist())
    kept = [place for place in range(num_classes) if place not in lacking]
    if len(kept) < 2:
        return [len(kept), "", "", ""]
    sums = ClassSums(total.counts[kept], total.first[kept], total.second)
    classifier = fit_classifier(sums, chosen.shrinkage, chosen.temperature)
    found = score_on(bench, classifier.logits, kept)
    return [len(kept), chosen.shrinkage, found.mean_iou, found.pixel_accuracy]


def score_on(bench: Bench, logits, kept: Sequence[int]) -> Scores:  # noqa: ANN001
    """Score a classifier of some of the classes on the held-out images."""
    confusion = torch.zeros(len(kept), len(bench.names), dtype=torch.int64)
    for index in range(len(bench.shown.views)):
        labels = read_labels(bench.shown, index)
        assert labels is not None
        maps = bench.shown.features.feature_map(index) - bench.mean_feature
        size = (labels.shape[0], labels.shape[1])
        found = assign(logits(maps).permute(2, 0, 1).contiguous(), size)
        confusion += count_pixels(found, labels, len(kept), len(bench.names))
    return score(confusion, torch.tensor(kept))


def probe(bench: Bench) -> Scores:
    """Fit the linear probe on all labeled positions, and score it on the held-out ones."""
    train = (
        [features.T[:, None].numpy() for features, _ in bench.images],
        [labels[None].numpy() for _, labels in bench.images],
    )
    maps, truths = [], []
    for index in range(len(bench.shown.views)):
        labels = read_labels(bench.shown, index)
        assert labels is not None
        features = bench.shown.features.feature_map(index) - bench.mean_feature
        stride = labels.shape[0] // features.shape[0]
        maps.append(features.permute(2, 0, 1).numpy())
        truths.append(majority_labels(labels.numpy(), stride))
    return linear_probe(train, (maps, truths), len(bench.names))


if __name__ == "__main__":
    main()
