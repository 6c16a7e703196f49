"""Commands that use a trained run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fusseg.atomic import write_atomically
from fusseg.cli.progress import Display
from fusseg.cli.running import describe_final, follow
from fusseg.config import DataConfig
from fusseg.errors import ConfigError, DataError
from fusseg.probing import probe_run
from fusseg.runs import Record
from fusseg.trained_run import TrainedRun, evaluate_run, load_run


def run_evaluate(
    run_dir: Path, chosen: Mapping[str, str], json_file: Path | None, cache: Path, *, probe: bool
) -> None:
    """Score a run and print the scores.

    Args:
        run_dir: Run directory.
        chosen: Any of `data`, `sites` (comma-separated) and `split`; the rest is the run's own.
        json_file: Where the scores are written too.
        cache: Feature cache.
        probe: Whether linear probes are fitted as well; they read the labels of training images.
    """
    run = load_run(run_dir)
    data = held_out_data(run.config.data, chosen)
    with Display() as display:
        scores = follow(evaluate_run(run, data, cache), display)
        for skipped in scores["skipped_images"]:
            display.line(f"skipped {skipped['site']}/{skipped['image']}: {skipped['reason']}")
        for line in (*_caveats(run, scores), *describe_final(scores)):
            display.line(line)
        for name, iou in (scores["per_class_iou"] or {}).items():
            display.line(f"  {name}: " + ("not in the labels" if iou is None else f"IoU {iou:.4f}"))
        display.line(_describe_protocol(scores["protocol"]))
        if probe:
            scores["probe"] = follow(probe_run(run, data, cache), display)
            for name in ("features", "codes"):
                display.line(_describe_probe(name, scores["probe"][name]))
    if json_file is not None:
        try:
            write_atomically(json_file, json.dumps(scores, indent=1).encode())
        except OSError as error:
            raise DataError(f"cannot write {json_file}: {error.strerror}") from error


def _describe_protocol(protocol: Record) -> str:
    height, width = protocol["image_size"]
    cut = "images whole" if protocol["whole"] else f"fit {protocol['fit']}"
    flip, crf = ("with" if protocol[name] else "without" for name in ("flip", "crf"))
    return f"scored at {height} x {width} pixels, {cut}, {flip} flip averaging, {crf} CRF"


def _describe_probe(name: str, scores: Record) -> str:
    return (
        f"linear probe on {name}, taught with labels: mIoU {scores['mean_iou']:.4f}, accuracy "
        f"{scores['pixel_accuracy']:.4f} of the positions"
    )


def _caveats(run: TrainedRun, scores: Record) -> list[str]:
    rounds, trained = run.config.federation.rounds, scores["trained_images"]
    lines = []
    if run.rounds_done < rounds:
        lines.append(f"the run is not finished: round {run.rounds_done} of {rounds}")
    if trained:
        lines.append(f"not held out: {trained} of the scored images trained this run")
    return lines


def held_out_data(data: DataConfig, chosen: Mapping[str, str]) -> DataConfig:
    """Say what is scored: the run's held-out images, or other sites, splits or data."""
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
        raise ConfigError("nothing to evaluate: the run holds no site out; give --data or --sites")
    return replace(
        data,
        train_sites=(),
        train_split="",
        held_out_sites=sites or data.held_out_sites,
        held_out_split=chosen.get("split", data.held_out_split),
    )
