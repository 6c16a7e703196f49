"""The command `fusseg name`: a contact sheet of the clusters, and a file to name them in."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fusseg.cli.output_files import write_output
from fusseg.cli.progress import Display
from fusseg.core.errors import ConfigError
from fusseg.core.spread import spread_evenly
from fusseg.data.items import Item
from fusseg.prediction.contact_sheet import draw_sheet
from fusseg.prediction.naming import (
    IMAGES,
    Match,
    Typical,
    count_labels,
    match_names,
    name_by_matches,
    open_labeled,
    run_items,
    typical_crops,
)
from fusseg.prediction.segmenter import Segmenter
from fusseg.prediction.sources import find_images
from fusseg.report.cluster_colors import unnamed_clusters
from fusseg.runs.regions import NamedCluster, join_clusters, read_named, regions_file, write_named


@dataclass(frozen=True)
class NameOptions:
    """Options of `fusseg name`."""

    run_dir: Path
    labels: Path | None
    """Folder of labeled sites to take the names from; None: leave the names empty."""
    images: Path | None
    """Folder of images to cut the crops from; None: the run's data."""
    site: str | None
    again: bool
    """Replace existing names."""


def run_name(options: NameOptions) -> None:
    """Write the contact sheet and the names; existing names are kept unless `again` is set.

    Raises:
        FussegError: If the run, the images or the labels cannot be used, or a file cannot be
            written.
    """
    segmenter = Segmenter.load(options.run_dir, options.site, regions=True)
    file = regions_file(options.run_dir, options.site)
    sheet = file.with_name(file.name.replace("regions", "contact_sheet", 1)).with_suffix(".png")
    kept = file.exists() and not options.again
    if kept and options.labels is not None:
        raise ConfigError(
            f"{file} exists and is not overwritten; give --again to take the names from "
            f"{options.labels}"
        )
    with Display() as display:
        if kept:
            named = list(read_named(file, segmenter.model.num_regions))
        elif options.labels is not None:
            named = _name_by_labels(segmenter, options.labels, display)
        else:
            named = unnamed_clusters(segmenter.model.num_regions)
        typical = _find_typical(segmenter, _items(segmenter, options.images), display)
        for skipped in typical.skipped:
            display.line(f"skipped {skipped.item.image}: {skipped.reason}")
        if not kept:
            write_named(file, named, sheet.name)
        title = f"{segmenter.name}: what the backbone and the model tell apart"
        write_output(sheet, draw_sheet(typical, named, title))
        for line in _summary(file, sheet, named, kept=kept):
            display.line(line)


def _items(segmenter: Segmenter, folder: Path | None) -> tuple[Item, ...]:
    if folder is None:
        return run_items(segmenter.data)
    found = find_images([folder])
    return tuple(Item("", path.stem, "", path) for path, _ in spread_evenly(found, IMAGES))


def _find_typical(segmenter: Segmenter, items: tuple[Item, ...], display: Display) -> Typical:
    steps = typical_crops(segmenter, items)
    while True:
        try:
            display.advance("looking at images", next(steps), len(items))
        except StopIteration as end:
            found: Typical = end.value
            return found


def _name_by_labels(segmenter: Segmenter, folder: Path, display: Display) -> list[NamedCluster]:
    items, classes = open_labeled(folder)
    counts = torch.zeros(segmenter.model.num_regions, len(classes.names), dtype=torch.int64)
    for done, found in enumerate(count_labels(segmenter, items, classes), 1):
        counts += found
        display.advance("matching labels", done, len(items), "images")
    matches = match_names(counts, classes)
    for match in matches:
        display.line(_describe(match))
    missing = sorted(set(classes.names) - {match.name for match in matches})
    if missing:
        display.line(
            f"no cluster is named {', '.join(missing)}: in each, another class has more pixels"
        )
    return name_by_matches(matches, classes)


def _describe(match: Match) -> str:
    if not match.pixels:
        return f"cluster {match.cluster}: no labeled pixel"
    doubt = "" if match.sure else ", unsure"
    return (
        f"cluster {match.cluster}: {match.name}, {match.share:.0%} of {match.pixels} labeled "
        f"pixels{doubt}"
    )


def _summary(file: Path, sheet: Path, named: list[NamedCluster], *, kept: bool) -> list[str]:
    empty = sum(not entry.name for entry in named)
    joined = len(named) - len(join_clusters(named).regions)
    return [
        f"contact sheet: {sheet}",
        f"names: {file}" + (" (kept as it was; --again starts over)" if kept else ""),
        f"{len(named) - empty} of {len(named)} clusters have a name"
        + (f", {joined} joined another of the same name" if joined else ""),
    ]
