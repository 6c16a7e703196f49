"""Write a run's report from its record and example images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from fusseg.config.file import dump_portable_config
from fusseg.config.schema import Config
from fusseg.core.colors import colorize
from fusseg.core.files import write_atomically
from fusseg.core.spread import spread_evenly
from fusseg.data.images import fit_image, load_image
from fusseg.evaluation.held_out import HeldOut, read_labels, segment_held_out
from fusseg.evaluation.scores import count_pixels, score
from fusseg.federation.strategies import resolve
from fusseg.report import numbers
from fusseg.report.centroid_map import map_centroids
from fusseg.report.cluster_colors import Coloring, choose_coloring
from fusseg.report.embedding import shrink_photo, shrink_regions
from fusseg.report.page import GalleryEntry, PageContent, render_report
from fusseg.runs.directory import REPORT
from fusseg.runs.model_scores import GLOBAL, final_models
from fusseg.runs.record_form import Record
from fusseg.runs.regions import load_regions
from fusseg.runs.saved_state import SavedState
from fusseg.runs.taught_classes import NamedClassifier, name_classifier
from fusseg.segmentation.assignment import Segmenter, build_segmenter, with_classes

NUM_EXAMPLES, NUM_WORST, NUM_TRIED = 12, 12, 48
"""Images in the gallery: some spread evenly over the sites, and the worst of the tried ones."""


def write_report(
    run_dir: Path,
    config: Config,
    record: Record,
    saved: SavedState | None = None,
    shown: HeldOut | None = None,
) -> None:
    """Write a run's report.html.

    Args:
        run_dir: Run directory.
        config: The run's configuration.
        record: Its record, finished or not.
        saved: State after its last finished round, for the gallery.
        shown: Images of the gallery; None: no gallery.
    """
    models = {}
    if saved is not None:
        # Empty if every site of a deployment has its own model.
        models = final_models(saved, resolve(config))
    name, model = next(iter(models.items()), (GLOBAL, None))
    num_regions = numbers.num_regions(record) if model is None else model.num_regions
    regions = load_regions(run_dir, num_regions, None if name == GLOBAL else name)
    content = PageContent(
        cluster_names=None if regions is None else regions.names,
        centroids=map_centroids(run_dir),
        held_out=bool(config.data.held_out_sites),
    )
    if saved is not None and model is not None and shown is not None:
        segmenter = build_segmenter(model, saved.state.plan.mean_feature)
        matching = _matching(record, shown)
        coloring = choose_coloring(shown.classes, matching, num_regions, regions)
        classes = name_classifier(run_dir, saved.state.taught)
        entries = _examples(segmenter, shown, matching, coloring, classes)
        legend = coloring.legend
        if classes is not None:
            legend = dict(zip(classes.names, classes.colors, strict=True)) | legend
        content = replace(content, gallery=entries, legend=legend)
    page = render_report(record, dump_portable_config(config), content)
    write_atomically(run_dir / REPORT, page.encode())


def _matching(record: Record, shown: HeldOut) -> list[int] | None:
    """Return the class of each region; None if nothing is scored or the labels have changed."""
    final = record["final"]
    if final is None or final["matching"] is None or shown.classes is None:
        return None
    if tuple(final["per_class_iou"] or ()) != shown.classes.names:
        return None
    return final["matching"]


def _examples(
    segmenter: Segmenter,
    shown: HeldOut,
    matching: list[int] | None,
    coloring: Coloring,
    classes: NamedClassifier | None,
) -> list[GalleryEntry]:
    """Segment images of all sites; keep some of each site, and the worst of the others."""
    # Without scores there is no worst image, and a CRF takes seconds per image.
    few = matching is None or shown.crf
    sites = [item.site for item in shown.items]
    tried = spread_over_sites(sites, NUM_EXAMPLES if few else NUM_TRIED)
    entries = {index: _example(segmenter, shown, matching, coloring, index) for index in tried}
    even = spread_over_sites([sites[index] for index in tried], NUM_EXAMPLES)
    kept = {tried[place] for place in even}
    scored = sorted(
        (entry.mean_iou, index) for index, entry in entries.items() if entry.mean_iou is not None
    )
    kept |= {index for _, index in scored[:NUM_WORST]}
    if classes is None:
        return [entries[index] for index in sorted(kept)]
    return [
        replace(entries[index], classes=_color_classes(segmenter, shown, classes, coloring, index))
        for index in sorted(kept)
    ]


def _color_classes(
    segmenter: Segmenter,
    shown: HeldOut,
    classes: NamedClassifier,
    coloring: Coloring,
    index: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """Color an image by class; unknown pixels have the colors of their regions."""
    found = segment_held_out(with_classes(segmenter, classes.classifier), shown, index)
    colors = np.concatenate([np.array(classes.colors, np.uint8), coloring.clusters])
    return shrink_regions(colorize(found.numpy(), colors))


def spread_over_sites(sites: Sequence[str], most: int) -> list[int]:
    """Choose about the same number of images from each site, spread evenly within it.

    >>> spread_over_sites(["a", "a", "a", "a", "b"], most=3)
    [0, 3, 4]

    Args:
        sites: Site of each image.
        most: Most images to choose.

    Returns:
        Indices into `sites`, ascending.
    """
    by_site: dict[str, list[int]] = {}
    for place, site in enumerate(sites):
        by_site.setdefault(site, []).append(place)
    # Small sites first: the images they lack are taken from the others.
    groups = sorted(spread_evenly(list(by_site.values()), most), key=len)
    chosen: list[int] = []
    for number, places in enumerate(groups):
        left = most - len(chosen)
        chosen += spread_evenly(places, -(-left // (len(groups) - number)))
    return sorted(chosen)


def _example(
    segmenter: Segmenter,
    shown: HeldOut,
    matching: list[int] | None,
    coloring: Coloring,
    index: int,
) -> GalleryEntry:
    item, seen = shown.views[index].item, shown.views[index].settings
    image = fit_image(
        load_image(item, seen.decoding), seen.image_size, seen.fit, seen.interpolation
    )
    regions = segment_held_out(segmenter, shown, index)
    labels = read_labels(shown, index)
    mean_iou = None
    if labels is not None and matching is not None:
        counts = count_pixels(regions, labels, segmenter.num_regions, len(coloring.classes))
        if counts.sum() > 0:
            mean_iou = score(counts, torch.tensor(matching)).mean_iou
    label = None
    if labels is not None:
        label = shrink_regions(colorize(labels.numpy(), coloring.classes))
    return GalleryEntry(
        site=item.site,
        stem=item.stem,
        # Scaled down here because the arrays of all tried images are in memory at once.
        image=shrink_photo(image),
        regions=shrink_regions(colorize(regions.numpy(), coloring.clusters)),
        label=label,
        mean_iou=mean_iou,
    )
