"""The command `fusseg adapt`: fit a trained run to new images."""

from pathlib import Path

from fusseg.cli.output_files import write_page
from fusseg.cli.progress import Display, follow
from fusseg.cli.summaries import describe_skipped
from fusseg.core.spread import spread_evenly
from fusseg.federation.lloyd_steps import Adaptation
from fusseg.runs.adapt import AdaptedRun, adapt_run
from fusseg.runs.record import count_images

PAGE = "adaptation.html"
NUM_PICTURED = 8


def run_adapt(
    run_dir: Path, folder: Path, out: Path, adaptation: Adaptation, cache: Path, command: str
) -> None:
    """Adapt a run, print what changed, and write the page.

    Args:
        run_dir: Run directory to adapt.
        folder: Folder of sites, or of images.
        out: New run directory.
        adaptation: How far the centroids may move.
        cache: Feature cache.
        command: Command that repeats the adaptation.

    Raises:
        FussegError: If the run, the images or the new run directory cannot be used.
    """
    with Display() as display:
        stages = adapt_run(run_dir, folder, out, adaptation, cache, command)
        adapted = follow(stages, display)
        for line in (
            *describe_skipped(adapted.record["skipped_images"]),
            *describe_adaptation(adapted),
        ):
            display.line(line)
        write_page(out / PAGE, _draw_page(adapted, out))
        display.line(f"run: {out}")
        display.line(f"page: {out / PAGE}")


def describe_adaptation(adapted: AdaptedRun) -> list[str]:
    """Compare the run before and after in a few lines."""
    record = adapted.record
    before, after = adapted.adapted["before"], adapted.final
    states = [region["state"] for region in adapted.adapted["regions"]]
    num_images = count_images(record)
    turned = min(region["cosine"] for region in adapted.adapted["regions"])
    lines = [
        f"{adapted.adapted['steps']} steps over {num_images} images; cosine of new to old "
        f"centroids at least {turned:.3f}, {states.count('held')} held at the bound, "
        f"{states.count('kept')} kept because they have too few positions"
    ]
    if after["mean_iou"] is None:
        lines.append("no labels: look at the page to see whether it is better")
    else:
        lines.append(
            f"mIoU before {before['mean_iou']:.4f}, after {after['mean_iou']:.4f}, after with "
            f"the regions' old classes {adapted.adapted['names_kept_mean_iou']:.4f}"
        )
    left, right = before["quality"], after["quality"]
    if left is not None and right is not None:
        lines += [
            f"mean cosine before {left['mean_cosine']:.3f}, after {right['mean_cosine']:.3f}",
            f"mean margin before {left['mean_margin']:.3f}, after {right['mean_margin']:.3f}",
        ]
    return lines


def _draw_page(adapted: AdaptedRun, out: Path) -> str:
    # Imported late, because drawing takes long to import.
    from fusseg.report.adaptation_page import render_adaptation
    from fusseg.report.cluster_colors import cluster_colors_of, name_regions
    from fusseg.report.quality_page import PicturedImage
    from fusseg.report.side_by_side import picture_regions

    regions = name_regions(out, len(adapted.adapted["regions"]))
    colors = cluster_colors_of(regions)
    places = spread_evenly(range(len(adapted.shown.items)), NUM_PICTURED)
    pictured = [
        PicturedImage(
            site=adapted.shown.items[place].client,
            stem=adapted.shown.items[place].stem,
            value="",
            layers=picture_regions(adapted.segmenters, adapted.shown, place, colors),
        )
        for place in places
    ]
    return render_adaptation(adapted.record, regions, pictured)
