"""The command `fusseg quality`: how clear and how stable a run's regions are, without labels."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusseg.cli.output_files import write_page
from fusseg.cli.progress import Display, follow
from fusseg.config.file import read_toml
from fusseg.config.previous_version import PREVIOUS, moved_keys
from fusseg.core.errors import ConfigError
from fusseg.evaluation.held_out import HeldOut
from fusseg.evaluation.quality import average_quality
from fusseg.evaluation.stability import ImageQuality, Judgement, check_comparable, judge_regions
from fusseg.runs.directory import CONFIG
from fusseg.runs.load import TrainedRun, load_run, pick_segmenter
from fusseg.runs.prepare import prepare
from fusseg.segmentation.assignment import Segmenter

if TYPE_CHECKING:
    from fusseg.report.cluster_colors import Colors
    from fusseg.report.quality_page import PicturedImage

NUM_PICTURED = 8
"""Number of images on the page: those of the lowest agreement or, without a second run, margin."""


@dataclass(frozen=True)
class QualityOptions:
    """Options of `fusseg quality`."""

    out: Path
    """HTML file to write."""
    cache: Path
    command: str
    """Command that writes the page again."""
    site: str | None = None
    """Site that the model belongs to, if each site has its own."""


def run_quality(run_dir: Path, other_dir: Path | None, options: QualityOptions) -> None:
    """Print the label-free figures of a run, alone or with a second one, and write the page.

    Args:
        run_dir: Run directory.
        other_dir: Run with the same settings and another seed, or None.
        options: Other options.

    Raises:
        FussegError: If a run or its data cannot be used, or the two read images differently.
    """
    run = load_run(run_dir)
    segmenter, other = pick_segmenter(run, options.site), None
    if other_dir is not None:
        other = pick_segmenter(_load_second(run, run_dir, other_dir), options.site)
    with Display() as display:
        shown = follow(prepare(run.config, options.cache), display).shown
        judgement = _judge(segmenter, other, shown, display)
        for line in describe_judgement(judgement):
            display.line(line)
        second = second_run_commands(run_dir, run.config.seed)
        if other_dir is None:
            display.line(
                "to see how stable the regions are, train the run again with another seed:"
            )
            for line in second:
                display.line(f"  {line}")
        # Imported late, because drawing takes long to import.
        from fusseg.report.cluster_colors import cluster_colors_of, name_regions
        from fusseg.report.quality_page import QualityText, render_quality

        name = None if other_dir is None else other_dir.resolve().name
        text = QualityText(run_dir.resolve().name, name, options.command, "\n".join(second))
        regions = name_regions(run_dir, segmenter.num_regions, options.site)
        pictured = _picture(judgement, segmenter, other, shown, cluster_colors_of(regions))
        write_page(options.out, render_quality(judgement, pictured, regions, text))
        display.line(f"page: {options.out}")


def second_run_commands(run_dir: Path, seed: int) -> list[str]:
    """Write the commands that train a run again with the next seed and compare the two runs."""
    first, second = str(run_dir), f"{run_dir}-seed{seed + 1}"
    config = run_dir / CONFIG
    train = ["fusseg", "run", str(config), "--set", f"seed={seed + 1}", "--out", second]
    commands = [shlex.join(train), shlex.join(["fusseg", "quality", first, second])]
    if moved_keys(read_toml(config)):
        note = (
            f"# {CONFIG} has names of fusseg {PREVIOUS}: first change those that the command lists"
        )
        return [note, *commands]
    return commands


def describe_judgement(judgement: Judgement) -> list[str]:
    """Sum up the judgement in a few lines."""
    overall = judgement.overall
    lines = [
        f"{len(judgement.images)} images: mean cosine {overall.mean_cosine:.3f}, margin "
        f"{overall.mean_margin:.3f}, largest region {float(overall.cluster_share.max()):.0%}"
    ]
    lines += [
        f"  {site}: mean cosine {quality.mean_cosine:.3f}, margin {quality.mean_margin:.3f}"
        for site, quality in judgement.sites.items()
    ]
    if judgement.agreement is not None:
        steady = sum(region.iou >= 0.5 for region in judgement.agreement.regions)
        lines.append(
            f"stability: adjusted Rand index {judgement.agreement.adjusted_rand:.3f}; {steady} of "
            f"{len(judgement.agreement.regions)} regions have a match of IoU 0.5 or more"
        )
    return lines


def _load_second(run: TrainedRun, run_dir: Path, other_dir: Path) -> TrainedRun:
    if run_dir.resolve() == other_dir.resolve():
        raise ConfigError(f"{other_dir} is given twice; give a run of another seed")
    other = load_run(other_dir)
    check_comparable(run.config, other.config)
    if run.backbone.fingerprint != other.backbone.fingerprint:
        raise ConfigError(
            f"{other_dir} has the backbone {other.backbone.name}, but {run_dir} has "
            f"{run.backbone.name}; compare runs with the same backbone"
        )
    return other


def _judge(
    segmenter: Segmenter, other: Segmenter | None, shown: HeldOut, display: Display
) -> Judgement:
    for done, found in enumerate(judge_regions(segmenter, other, shown), 1):
        if isinstance(found, Judgement):
            return found
        display.advance("judging", done, len(shown.items), "images")
    raise AssertionError("judge_regions ends with the judgement")


def _picture(
    judgement: Judgement,
    segmenter: Segmenter,
    other: Segmenter | None,
    shown: HeldOut,
    colors: "Colors",
) -> list["PicturedImage"]:
    from fusseg.report.quality_page import PicturedImage
    from fusseg.report.side_by_side import picture_regions

    models = {"Regions": segmenter} | ({} if other is None else {"Second run": other})
    matches = None
    if judgement.agreement is not None:
        matches = [region.other for region in judgement.agreement.regions]
    ordered = sorted(
        range(len(judgement.images)), key=lambda place: _value(judgement.images[place])
    )
    name = "margin" if other is None else "adjusted Rand index"
    return [
        PicturedImage(
            site=judgement.images[place].site,
            stem=judgement.images[place].stem,
            value=f"{name} {_value(judgement.images[place]):.3f}",
            layers=picture_regions(models, shown, place, colors, matches),
        )
        for place in ordered[:NUM_PICTURED]
    ]


def _value(image: ImageQuality) -> float:
    """Value that orders the images: agreement or, without a second run, margin."""
    if image.agreement is not None:
        return image.agreement
    return average_quality([image.sums]).mean_margin
