"""The figures of a grid, drawn from its finished cells."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from jaxtyping import UInt8

from fusseg.bench.cell_results import PHASES, read_results
from fusseg.bench.cells import Cell, cell_progress, folder_name
from fusseg.bench.grid import Grid
from fusseg.bench.projection import (
    Projector,
    RoundCentroids,
    project_history,
    project_pca,
    project_tsne,
    read_history,
)
from fusseg.bench.table import PHASE_NAMES
from fusseg.core.colors import UNASSIGNED, colorize
from fusseg.data.images import fit_image, load_image
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import training_images
from fusseg.data.partitions.dominant import count_labels
from fusseg.evaluation.held_out import HeldOut, read_labels, segment_held_out
from fusseg.features.extraction import wait_for
from fusseg.federation.strategies import resolve
from fusseg.report.bench_page import PageFigure
from fusseg.report.class_distribution import draw_class_distribution
from fusseg.report.cluster_colors import choose_coloring, class_colors
from fusseg.report.drawings import Color, clouds_png, ladder_png, panels_png, seed_curves_png
from fusseg.report.numbers import is_choice
from fusseg.runs.choice import keeps_start
from fusseg.runs.directory import load_record
from fusseg.runs.model_scores import final_models
from fusseg.runs.prepare import prepare
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state
from fusseg.segmentation.assignment import Segmenter, build_segmenter

NUM_IMAGES = 4
"""Held-out images in the panels, evenly spaced among all of them."""
NUM_CLOUDS = 4
"""Most methods in one figure of centroids, side by side."""


def draw_figures(
    grid: Grid, cells: Sequence[Cell], cache: Path
) -> Iterator[tuple[str, PageFigure]]:
    """Draw the finished cells of each column; figures of one run show the first seed.

    Yields:
        File name and figure.

    Raises:
        FussegError: If data or records cannot be read.
    """
    finished = [cell for cell in cells if cell_progress(cell) == "finished"]
    if grid.distances:
        yield "ladder.png", PageFigure("mIoU of each column", _draw_ladder(grid, finished))
    for column in grid.column_names:
        of_column = [cell for cell in finished if cell.column == column]
        if not of_column:
            continue
        first = of_column[0]
        alike = [
            cell for cell in of_column if (cell.seed, cell.held_out) == (first.seed, first.held_out)
        ]
        name = folder_name(column)
        where = f"{column}, seed {first.seed}"
        if first.held_out:
            where += f", {first.held_out} held out"
        shown = wait_for(prepare(first.config, cache)).shown
        legend = _legend(shown)
        yield (
            f"{name}-panels.png",
            PageFigure(f"Held-out images: {where}", panels_png(_panels(alike, shown), legend)),
        )
        yield from _draw_clouds(name, where, alike, shown)
        distribution = _draw_distribution(first, shown)
        if distribution is not None:
            caption = f"Classes of each client's training images: {column}"
            if first.held_out:
                caption += f", {first.held_out} held out"
            yield f"{name}-class-distribution.png", PageFigure(caption, distribution)
        curves = _curves(of_column)
        if curves:
            trained = max(resolve(cell.config).rounds for cell in of_column)
            caption = f"mIoU per round, mean and standard deviation over seeds: {column}"
            yield f"{name}-rounds.png", PageFigure(caption, seed_curves_png(curves, trained))


def _draw_ladder(grid: Grid, finished: Sequence[Cell]) -> bytes:
    """Draw the scores of all methods over the columns, in their order, after each phase."""
    _, results = read_results(finished)
    series = {}
    for method in grid.method_names:
        of_columns = [
            list(results.get((method, column), {}).values()) for column in grid.column_names
        ]
        phases = [
            phase
            for phase in PHASES
            if any(phase in result.scores for found in of_columns for result in found)
        ]
        for phase in phases:
            series[method if len(phases) == 1 else f"{method}, {PHASE_NAMES[phase]}"] = [
                [result.scores[phase].mean_iou for result in found if phase in result.scores]
                for found in of_columns
            ]
    return ladder_png(series, grid.column_names)


def _panels(
    cells: Sequence[Cell], shown: HeldOut
) -> dict[str, list[UInt8[np.ndarray, "height width 3"]]]:
    """Stack photos, labels and each cell's regions in the colors of their matched classes."""
    count = min(NUM_IMAGES, len(shown.items))
    indices = np.linspace(0, len(shown.items) - 1, count).round().astype(int).tolist()
    rows: dict[str, list[UInt8[np.ndarray, "height width 3"]]] = {"image": [], "label": []}
    for index in indices:
        seen = shown.views[index].settings
        image = load_image(shown.views[index].item, seen.decoding)
        rows["image"].append(fit_image(image, seen.image_size, seen.fit, seen.interpolation))
        labels = read_labels(shown, index)
        rows["label"].append(
            np.full((*seen.image_size, 3), UNASSIGNED, np.uint8)
            if labels is None
            else colorize(labels.numpy(), class_colors(shown.classes))
        )
    for cell in cells:
        segmenter = _load_segmenter(cell)
        final = load_record(cell.path)["final"]
        matching = None if final is None else final["matching"]
        colors = choose_coloring(shown.classes, matching, segmenter.num_regions).clusters
        rows[cell.method] = [
            colorize(segment_held_out(segmenter, shown, index).numpy(), colors) for index in indices
        ]
    return rows


def _load_segmenter(cell: Cell) -> Segmenter:
    """Load the model that the record's matching belongs to: the global or the first client's."""
    saved = load_state(cell.path)
    model = saved.state.model
    if cell.anchor is None:
        models = final_models(saved, resolve(cell.config))
        model = next(iter(models.values()))
    return build_segmenter(model, saved.state.plan.mean_feature)


def _draw_clouds(
    name: str, where: str, cells: Sequence[Cell], shown: HeldOut
) -> Iterator[tuple[str, PageFigure]]:
    histories: dict[str, tuple[dict[int, RoundCentroids], list[int]]] = {}
    # Plain strategies before the regularized ones, so that FedAvg stands beside FedCC.
    for cell in sorted(cells, key=_is_regularized):
        history = {
            number: found
            for number, found in read_history(cell.path).items()
            if len(found.clients) > 1
        }
        record = load_record(cell.path)
        matching = _class_of_clusters(record, cell)
        rounds = resolve(cell.config).rounds
        training = {number: found for number, found in history.items() if number <= rounds}
        if rounds in training and matching is not None and len(histories) < NUM_CLOUDS:
            histories[cell.method] = training, matching
    if not histories:
        return
    colors = np.concatenate([class_colors(shown.classes), np.array([UNASSIGNED], np.uint8)])
    projectors: Mapping[str, Projector] = {"PCA": project_pca, "t-SNE": project_tsne}
    for kind, project in projectors.items():
        clouds = {
            method: project_history(history, matching, colors, project)
            for method, (history, matching) in histories.items()
        }
        png = clouds_png(clouds, _legend(shown), kind)
        file = f"{name}-centroids-{folder_name(kind)}.png"
        yield file, PageFigure(f"Centroids, {kind}: {where}", png)


def _class_of_clusters(record: Record, cell: Cell) -> list[int] | None:
    """Give each cluster of the trained model, and so each centroid, the class of its region."""
    trained = record["trained"] or record["final"]
    matching = None if trained is None else trained["matching"]
    region_of = load_state(cell.path).state.model.region_of
    if matching is None or region_of is None or len(matching) == len(region_of):
        return matching
    if keeps_start(record.get("candidates") or ()):
        # The state has the start's regions; those of the trained model are not saved.
        return None
    return [matching[region] for region in region_of.tolist()]


def _draw_distribution(cell: Cell, shown: HeldOut) -> bytes | None:
    """Draw the classes of each client's training images; None if they have no labels."""
    data = cell.config.data
    items = training_images(open_dataset(data), data, cell.config.local.batch_size)
    if shown.classes is None or all(item.mask is None for item in items):
        return None
    counts = count_labels(items, shown.classes)
    clients = sorted({item.client for item in items})
    totals = np.stack(
        [
            counts[[item.client == client for item in items]].sum(axis=0).astype(np.float64)
            for client in clients
        ]
    )
    shares = totals / np.maximum(totals.sum(axis=1, keepdims=True), 1)
    legend = _legend(shown)
    return draw_class_distribution(clients, list(legend), list(legend.values()), shares, "png")


def _is_regularized(cell: Cell) -> bool:
    return cell.config.local.fedprox_weight > 0 or cell.config.local.fedmoon_weight > 0


def _curves(cells: Sequence[Cell]) -> dict[str, dict[int, list[float]]]:
    """Collect mIoU by method and round, one value per seed: the mean over held-out sites."""
    runs: dict[tuple[str, int, int], list[float]] = {}
    for cell in cells:
        for entry in load_record(cell.path)["rounds"]:
            if entry["mean_iou"] is not None and not is_choice(entry):
                key = cell.method, entry["round"], cell.seed
                runs.setdefault(key, []).append(entry["mean_iou"])
    series: dict[str, dict[int, list[float]]] = {}
    for (method, number, _), values in runs.items():
        series.setdefault(method, {}).setdefault(number, []).append(fmean(values))
    # Without scores between the rounds there is no curve.
    return series if any(len(by_round) > 2 for by_round in series.values()) else {}


def _legend(shown: HeldOut) -> dict[str, Color]:
    assert shown.classes is not None
    named = zip(shown.classes.names, class_colors(shown.classes).tolist(), strict=True)
    return {name: (color[0], color[1], color[2]) for name, color in named}
