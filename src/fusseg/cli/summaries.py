"""Lines that several commands print: what is doubtful, what was skipped, how good a model is."""

from collections.abc import Iterator, Sequence

from fusseg.config.schema import Config
from fusseg.data.findings import Finding
from fusseg.federation.strategies import resolve
from fusseg.runs.choice import describe_choice
from fusseg.runs.record_form import ModelScores, Record, SkippedImage, TaughtEntry, TaughtScores


def describe_finding(finding: Finding) -> str:
    """Describe one finding about images or settings in a line."""
    return f"{finding.severity}: {finding.subject}: {finding.message}"


def describe_skipped(images: Sequence[SkippedImage]) -> Iterator[str]:
    """Name the images that a run or an evaluation skipped, with the reasons."""
    for skipped in images:
        yield f"skipped {skipped['site']}/{skipped['image']}: {skipped['reason']}"


def describe_run(record: Record) -> list[str]:
    """Sum up a finished run in a few lines."""
    seconds, final = record["seconds"], record["final"]
    clusters = record["num_clusters"]
    regions = record.get("num_regions", clusters)
    choice = describe_choice(record)
    return [
        *describe_skipped(record["skipped_images"]),
        *([f"{regions} regions, merged from {clusters} clusters"] if regions < clusters else []),
        *([] if final is None else describe_scores(final)),
        *([] if choice is None else [choice]),
        *_describe_teaching(record),
        f"seconds: extraction {seconds['extract']:.1f}, training {seconds['train']:.1f}, "
        f"evaluation {seconds['evaluate']:.1f}",
    ]


def _describe_teaching(record: Record) -> Iterator[str]:
    hello = record["hello"]
    differing = {} if hello is None else hello.get("differing_classes", {})
    for name, clients in differing.items():
        yield f"class {name!r} is only at {', '.join(clients)}; teach.class_map can join names"
    entry = record.get("taught")
    if entry is not None:
        yield from describe_taught(entry)


def describe_taught(entry: TaughtEntry) -> Iterator[str]:
    """Describe taught classes and their scores in a few lines."""
    positions = entry["positions_per_class"]
    if len(positions) < 2:
        yield f"no classes taught: too few labeled positions of {', '.join(entry['lacking'])}"
        return
    yield (
        f"{len(positions)} classes taught from {entry['num_labeled_images']} labeled images, "
        f"{sum(positions.values()):,} positions; shrinkage {entry['shrinkage']:g}"
    )
    if entry["lacking"]:
        yield f"left to the regions, with too few labeled positions: {', '.join(entry['lacking'])}"
    yield from describe_class_scores(entry)


def describe_class_scores(entry: TaughtScores) -> Iterator[str]:
    """Describe scores by taught class."""
    if entry["mean_iou"] is None or entry["pixel_accuracy"] is None:
        yield "no labeled held-out images: scores of the classes are null"
        return
    yield f"by class: mIoU {entry['mean_iou']:.4f}, accuracy {entry['pixel_accuracy']:.4f}"
    if entry["unknown_share"]:
        yield f"unknown: {entry['unknown_share']:.1%} of the labeled pixels"


def describe_unfinished(rounds_done: int, config: Config) -> list[str]:
    """Say that rounds of a run are missing; nothing if it is finished."""
    protocol = resolve(config)
    if rounds_done >= protocol.num_rounds:
        return []
    missing = f"round {rounds_done} of {protocol.counted_rounds}"
    if rounds_done == protocol.counted_rounds:
        missing = "the choice between start and trained model is missing"
    return [f"the run is not finished: {missing}"]


def describe_scores(scores: ModelScores) -> list[str]:
    """Describe how good a model is: its scores if there are labels, and its label-free figures."""
    if scores["mean_iou"] is None:
        lines = ["no labels: scores are null"]
    else:
        lines = [f"mIoU {scores['mean_iou']:.4f}, accuracy {scores['pixel_accuracy']:.4f}"]
        for site, own in scores["sites"].items():
            lines.append(f"  {site}: mIoU {own['mean_iou']:.4f} ({own['num_images']} images)")
    quality = scores["quality"]
    if quality is not None:
        lines.append(
            f"label-free: mean cosine to own centroid {quality['mean_cosine']:.3f}, margin to the "
            f"second {quality['mean_margin']:.3f}, largest cluster "
            f"{max(quality['cluster_share']):.0%} of the positions"
        )
    return lines
