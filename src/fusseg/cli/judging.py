"""Commands that judge without labels: how many regions, and how steady they are."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusseg.cli.progress import Display
from fusseg.cli.running import follow
from fusseg.config.file import load_config, read_toml
from fusseg.config.previous_version import PREVIOUS, moved_keys
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically
from fusseg.evaluation.cluster_number import Judged, Suggestion, suggest_number
from fusseg.evaluation.held_out import HeldOut
from fusseg.evaluation.quality import average_quality
from fusseg.evaluation.stability import ImageQuality, Judgement, check_comparable, judge_regions
from fusseg.runs.directory import CONFIG
from fusseg.runs.load import TrainedRun, load_run, pick_segmenter
from fusseg.runs.prepare import prepare
from fusseg.runs.suggest_k import CANDIDATES, Sampled, judge_candidates, sample_training
from fusseg.segmentation.assignment import Segmenter

if TYPE_CHECKING:
    from fusseg.report.cluster_colors import Colors
    from fusseg.report.quality_page import PicturedImage

NUM_PICTURED = 8
"""Images on the page: those of the lowest agreement or, without a second run, margin."""


@dataclass(frozen=True)
class SuggestOptions:
    """What the command line says, besides the configuration."""

    out: Path
    """HTML file to write."""
    cache: Path
    command: str
    """Writes the page again."""
    numbers: str | None = None
    """Numbers of regions to try, such as 2,4,8; None: a range up to 40."""


def run_suggest(config_path: Path, overrides: Sequence[str], options: SuggestOptions) -> None:
    """Try several numbers of regions, print a table and the suggestion, write the page.

    Raises:
        FussegError: If the configuration, the data or the numbers cannot be used.
    """
    config = load_config(config_path, overrides)
    numbers = CANDIDATES if options.numbers is None else read_numbers(options.numbers)
    with Display() as display:
        sampled = follow(sample_training(config, options.cache), display)
        notes = describe_sample(sampled)
        for note in notes:
            display.line(note)
        display.line(f"{'K':>4}  stability        silhouette  mean cosine")
        judged = []
        for one in judge_candidates(sampled, numbers, config.seed):
            judged.append(one)
            display.line(_row(one))
        suggestion = suggest_number(judged)
        for line in describe_suggestion(suggestion):
            display.line(line)
        # Here and not above: drawing takes long to import.
        from fusseg.report.suggestion_page import render_suggestion

        page = render_suggestion(judged, suggestion, config_path.stem, notes, options.command)
        write_page(options.out, page)
        display.line(f"page: {options.out}")


def read_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of regions, separated by commas.

    Raises:
        ConfigError: If one is no whole number.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--k takes whole numbers such as 2,4,8, got {text!r}") from None


def describe_sample(sampled: Sampled) -> list[str]:
    """Say what the numbers are judged on."""
    images, positions, components = sampled.points.shape
    return [
        f"{images} training images of {sampled.num_sites} sites, {positions} positions of each.",
        f"{components} principal components hold {sampled.explained:.0%} of the variance.",
    ]


def describe_suggestion(suggestion: Suggestion) -> list[str]:
    """Say which number to take, and which others to look at."""
    why = "the largest that is stable" if suggestion.stable else "none is stable: the steadiest"
    return [
        f"suggested: model.num_clusters = {suggestion.finest} ({why})",
        f"steadiest: {suggestion.steadiest}, most distinct: {suggestion.most_distinct}",
    ]


@dataclass(frozen=True)
class QualityOptions:
    """What the command line says, besides the run directories."""

    out: Path
    """HTML file to write."""
    cache: Path
    command: str
    """Writes the page again."""
    site: str | None = None
    """Whose model, where each site has its own."""


def run_quality(run_dir: Path, other_dir: Path | None, options: QualityOptions) -> None:
    """Print the label-free figures of a run, alone or against a second one, and write the page.

    Raises:
        FussegError: If a run or its data cannot be used, or the two see images differently.
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
            display.line("to see how stable that is, train it again with another seed:")
            for line in second:
                display.line(f"  {line}")
        # Here and not above: drawing takes long to import.
        from fusseg.report.cluster_colors import cluster_colors_of, name_regions
        from fusseg.report.quality_page import QualityText, render_quality

        name = None if other_dir is None else other_dir.resolve().name
        text = QualityText(run_dir.resolve().name, name, options.command, "\n".join(second))
        regions = name_regions(run_dir, segmenter.num_clusters, options.site)
        pictured = _picture(judgement, segmenter, other, shown, cluster_colors_of(regions))
        write_page(options.out, render_quality(judgement, pictured, regions, text))
        display.line(f"page: {options.out}")


def second_run_commands(run_dir: Path, seed: int) -> list[str]:
    """Write the commands that train a run again with the next seed, and compare the two."""
    first, second = str(run_dir), f"{run_dir}-seed{seed + 1}"
    config = run_dir / CONFIG
    train = ["fusseg", "run", str(config), "--set", f"seed={seed + 1}", "--out", second]
    commands = [shlex.join(train), shlex.join(["fusseg", "quality", first, second])]
    if moved_keys(read_toml(config)):
        note = (
            f"# {CONFIG} has names of fusseg {PREVIOUS}: first change those that the command names"
        )
        return [note, *commands]
    return commands


def describe_judgement(judgement: Judgement) -> list[str]:
    """Sum up what was found in a few lines."""
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
            f"{other_dir} has another backbone, {other.backbone.name}, than {run_dir}, "
            f"{run.backbone.name}; compare runs of one backbone"
        )
    return other


def _judge(
    segmenter: Segmenter, other: Segmenter | None, shown: HeldOut, display: Display
) -> Judgement:
    for done, found in enumerate(judge_regions(segmenter, other, shown), 1):
        if isinstance(found, Judgement):
            return found
        display.advance("judging", done, len(shown.items))
    raise AssertionError("the judgement comes last")


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
    """What images are ordered by: agreement or, without a second run, margin."""
    if image.agreement is not None:
        return image.agreement
    return average_quality([image.sums]).mean_margin


def write_page(path: Path, page: str) -> None:
    """Write a page, and the folder it lies in.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _row(one: Judged) -> str:
    return (
        f"{one.num_clusters:>4}  {one.stability:.3f} ± {one.spread:.3f}  {one.silhouette:>9.3f}  "
        f"{one.mean_cosine:>11.3f}"
    )
