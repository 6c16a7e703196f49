"""The command `fusseg suggest-k`: a number of clusters, suggested from unlabeled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusseg.cli.output_files import write_page
from fusseg.cli.progress import Display, follow
from fusseg.config.file import load_config
from fusseg.core.errors import ConfigError
from fusseg.evaluation.cluster_number import Judged, Suggestion, suggest_number
from fusseg.runs.suggest_k import CANDIDATES, Sampled, judge_candidates, sample_training


@dataclass(frozen=True)
class SuggestOptions:
    """Options of `fusseg suggest-k`."""

    out: Path
    """HTML file to write."""
    cache: Path
    command: str
    """Command that writes the page again."""
    numbers: str | None = None
    """Numbers of regions to try, such as 2,4,8; None: a range from 2 to 40."""


def run_suggest(config_path: Path, overrides: Sequence[str], options: SuggestOptions) -> None:
    """Try several numbers of regions, print a table and a suggestion, and write the page.

    Args:
        config_path: Configuration.
        overrides: Values of `--set`.
        options: Other options.

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
        # Imported late, because drawing takes long to import.
        from fusseg.report.suggestion_page import render_suggestion

        page = render_suggestion(judged, suggestion, config_path.stem, notes, options.command)
        write_page(options.out, page)
        display.line(f"page: {options.out}")


def read_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of regions, separated by commas.

    Raises:
        ConfigError: If one is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--k takes whole numbers such as 2,4,8, got {text!r}") from None


def describe_sample(sampled: Sampled) -> list[str]:
    """Describe the sample on which the numbers are judged."""
    images, positions, components = sampled.points.shape
    return [
        f"{images} training images of {sampled.num_sites} sites, {positions} positions in each.",
        f"{components} principal components hold {sampled.explained:.0%} of the variance.",
    ]


def describe_suggestion(suggestion: Suggestion) -> list[str]:
    """Suggest which number to use, and which others to look at."""
    why = (
        "the largest that is stable"
        if suggestion.stable
        else "none is stable; this is the steadiest"
    )
    return [
        f"suggested: model.num_clusters = {suggestion.finest} ({why})",
        f"steadiest: {suggestion.steadiest}, most distinct: {suggestion.most_distinct}",
    ]


def _row(one: Judged) -> str:
    return (
        f"{one.num_clusters:>4}  {one.stability:.3f} ± {one.spread:.3f}  {one.silhouette:>9.3f}  "
        f"{one.mean_cosine:>11.3f}"
    )
