"""The command `fusseg evaluate`: score a run on held-out images."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusseg.cli.output_files import write_output
from fusseg.cli.progress import Display, follow
from fusseg.cli.summaries import (
    describe_class_scores,
    describe_scores,
    describe_skipped,
    describe_unfinished,
)
from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import check_names, check_split
from fusseg.evaluation.scores import score_named
from fusseg.runs.linear_probes import probe_run
from fusseg.runs.load import RunScores, TrainedRun, evaluate_run, load_run
from fusseg.runs.model_scores import GLOBAL
from fusseg.runs.record_form import ProtocolEntry
from fusseg.runs.regions import Regions, load_regions


def run_evaluate(
    run_dir: Path, chosen: Mapping[str, str], json_file: Path | None, cache: Path, *, probe: bool
) -> None:
    """Score a run and print the scores.

    Args:
        run_dir: Run directory.
        chosen: Any of `data`, `sites` (comma-separated) and `split`; the rest is the run's own.
        json_file: File to write the scores to as well, or None.
        cache: Feature cache.
        probe: Also fit linear probes; they read the labels of training images.

    Raises:
        FussegError: If the run or the images cannot be used, or the file cannot be written.
    """
    run = load_run(run_dir)
    data = held_out_data(run.config.data, chosen)
    _check_chosen(data, chosen)
    segmenter = run.segmenters.get(GLOBAL)
    regions = None if segmenter is None else load_regions(run_dir, segmenter.num_regions)
    with Display() as display:
        scores = follow(evaluate_run(run, data, cache), display)
        named = None if regions is None else _score_named(scores, regions)
        written: dict[str, Any] = {**scores, "named": named}
        for line in _describe(run, scores, named):
            display.line(line)
        if probe:
            written["probe"] = follow(probe_run(run, data, cache), display)
            for name in ("features", "codes"):
                display.line(_describe_probe(name, written["probe"][name]))
    if json_file is not None:
        write_output(json_file, json.dumps(written, indent=1).encode())


def _check_chosen(data: DataConfig, chosen: Mapping[str, str]) -> None:
    """Refuse an unknown name by the option that gave it, before its setting is read."""
    if "sites" in chosen or "split" in chosen:
        dataset = open_dataset(data)
        check_names(dataset, data.held_out_sites, "--sites")
        check_split(dataset, data.held_out_split, "--split")


def _describe(run: TrainedRun, scores: RunScores, named: Mapping[str, Any] | None) -> Iterator[str]:
    yield from describe_skipped(scores["skipped_images"])
    yield from _caveats(run, scores)
    yield from describe_scores(scores)
    stego = scores.get("mean_iou_stego")
    if stego is not None:
        yield f"mIoU as STEGO defines it, for published figures: {stego:.4f}"
    for name, iou in (scores["per_class_iou"] or {}).items():
        yield f"  {name}: " + ("not in the labels" if iou is None else f"IoU {iou:.4f}")
    if named is not None:
        yield _describe_named(named)
    taught = scores["taught"]
    if taught is not None:
        yield from describe_class_scores(taught)
    yield _describe_protocol(scores["protocol"])


def _score_named(scores: RunScores, regions: Regions) -> dict[str, Any] | None:
    if scores["confusion"] is None or scores["per_class_iou"] is None:
        return None
    return score_named(scores["confusion"], regions.names, list(scores["per_class_iou"]))


def _describe_named(named: Mapping[str, Any]) -> str:
    return (
        f"by the names in regions.toml: mIoU {named['mean_iou']:.4f}, accuracy "
        f"{named['pixel_accuracy']:.4f}"
    )


def _describe_protocol(protocol: ProtocolEntry) -> str:
    height, width = protocol["image_size"]
    cut = "images whole" if protocol["whole"] else f"fit {protocol['fit']}"
    flip, crf = ("with" if used else "without" for used in (protocol["flip"], protocol["crf"]))
    return f"scored at {height} x {width} pixels, {cut}, {flip} flip averaging, {crf} CRF"


def _describe_probe(name: str, scores: Mapping[str, float]) -> str:
    return (
        f"linear probe on {name}, trained on labels: mIoU {scores['mean_iou']:.4f}, accuracy "
        f"{scores['pixel_accuracy']:.4f} of the positions"
    )


def _caveats(run: TrainedRun, scores: RunScores) -> list[str]:
    trained = scores["trained_images"]
    lines = describe_unfinished(run.rounds_done, run.config)
    if trained:
        lines.append(f"not held out: {trained} of the scored images trained this run")
    return lines


def held_out_data(data: DataConfig, chosen: Mapping[str, str]) -> DataConfig:
    """Choose what is scored: the run's held-out images, or other sites, splits or data.

    Args:
        data: Data settings of the run.
        chosen: As in `run_evaluate`.

    Raises:
        ConfigError: If nothing is chosen and the run holds no site out.
    """
    sites = tuple(site.strip() for site in chosen["sites"].split(",")) if "sites" in chosen else ()
    if "data" in chosen:
        # Another folder: all its sites are held out, and none trains.
        return replace(
            data,
            layout="sites",
            root=chosen["data"],
            train_sites=(),
            held_out_sites=sites,
            train_split="",
            held_out_split=chosen.get("split", ""),
            train_list="",
            held_out_list="",
            partition="site",
            num_clients=0,
        )
    if not chosen and not data.held_out_sites:
        raise ConfigError(
            "nothing to evaluate: the run has no held-out site; give --data or --sites"
        )
    return replace(
        data,
        train_sites=(),
        train_split="",
        held_out_sites=sites or data.held_out_sites,
        held_out_split=chosen.get("split", data.held_out_split),
    )
