"""Using a trained run: loading its models, and scoring them on other data."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusseg.config.compute import Compute, choose_compute
from fusseg.config.schema import Config, DataConfig, seen_alike
from fusseg.core.errors import ConfigError, DataError, nearest_name
from fusseg.data.findings import Finding
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import select, select_held_out, select_training
from fusseg.data.stored import doubt_stored
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Progress, extract_features
from fusseg.features.views import held_out_views, with_mirrored
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import load_record, read_run_config
from fusseg.runs.model_scores import GLOBAL, final_models, score_models
from fusseg.runs.record import describe_protocol, describe_skipped
from fusseg.runs.record_form import ModelScores, ProtocolEntry, SkippedImage, TaughtScores
from fusseg.runs.resuming import check_fingerprint
from fusseg.runs.saved_state import digest_state, load_state
from fusseg.runs.taught_classes import NamedClassifier, name_classifier, score_classes
from fusseg.segmentation.assignment import Segmenter, build_segmenter, with_classes


@dataclass(frozen=True)
class TrainedRun:
    """A run's models, ready to segment."""

    config: Config
    backbone: Backbone
    segmenters: dict[str, Segmenter]
    """The global model under `GLOBAL`, or one per client (E or C off)."""
    rounds_done: int
    """Number of finished rounds; fewer than configured if the run was interrupted."""
    name: str
    """Name of the run directory."""
    digest: str
    """SHA-256 of the state file, hex; it identifies the models."""
    stored_values: tuple[Mapping[str, Any], ...] = ()
    """Values in the files of training images, as in the record; empty: unknown."""
    classes: NamedClassifier | None = None
    """Classes that labels taught; None: there are none."""


class RunScores(ModelScores):
    """Scores of a trained run on other data, as in a record's `final`, and how they were made."""

    protocol: ProtocolEntry
    """How the images were seen and scored."""
    skipped_images: list[SkippedImage]
    """Images that could not be used."""
    trained_images: int
    """Number of scored images that the run was trained on."""
    taught: TaughtScores | None
    """Scores by the classes that labels taught; None: there are none."""


def load_run(run_dir: Path | str, compute: Compute | None = None) -> TrainedRun:
    """Load the models of a run after its last finished round.

    Args:
        run_dir: Run directory.
        compute: Device and precision of the backbone; None: as configured in the run.

    Raises:
        ConfigError: If the folder is no run, or its backbone has changed since training.
        DataError: If no round is finished, or the state is damaged.
    """
    run_dir = Path(run_dir)
    config = read_run_config(run_dir)
    saved = load_state(run_dir)
    compute = compute or choose_compute(config.compute)
    backbone = load_backbone(config.backbone.name, compute, config.backbone.grid)
    check_fingerprint(saved, backbone, run_dir)
    models = final_models(saved, resolve(config))
    mean_feature = saved.state.plan.mean_feature
    segmenters = {name: build_segmenter(model, mean_feature) for name, model in models.items()}
    return TrainedRun(
        config,
        backbone,
        segmenters,
        saved.state.round_number,
        name=run_dir.resolve().name,
        digest=digest_state(run_dir),
        stored_values=_stored_values(run_dir),
        classes=name_classifier(run_dir, saved.state.taught),
    )


def _stored_values(run_dir: Path) -> tuple[Mapping[str, Any], ...]:
    # A site's own copy of a run has no record, and a model can be used without one.
    with suppress(DataError):
        return tuple(load_record(run_dir).get("stored_values", []))
    return ()


def pick_segmenter(run: TrainedRun, site: str | None) -> Segmenter:
    """Choose the global model, or the model of one site if there is no global one.

    Raises:
        ConfigError: If a site must be named and is not, is named in vain, or is unknown.
    """
    names = sorted(run.segmenters)
    if GLOBAL in run.segmenters:
        if site is not None:
            raise ConfigError(f"this run has one global model; drop --site {site}")
        return run.segmenters[GLOBAL]
    if site is None:
        raise ConfigError(
            f"each site of this run has its own model; choose one with --site: {', '.join(names)}"
        )
    if site not in run.segmenters:
        raise ConfigError(f"unknown site {site!r}; {nearest_name(site, names)}")
    return run.segmenters[site]


def pick_answering(run: TrainedRun, site: str | None, *, regions: bool = False) -> Segmenter:
    """Choose a model as `pick_segmenter`, and let it answer with classes if it was taught some.

    Args:
        run: A trained run.
        site: As for `pick_segmenter`.
        regions: Whether it answers with label-free regions all the same.

    Raises:
        ConfigError: As for `pick_segmenter`.
    """
    segmenter = pick_segmenter(run, site)
    if regions or run.classes is None:
        return segmenter
    return with_classes(segmenter, run.classes.classifier)


def evaluate_run(
    run: TrainedRun, data: DataConfig, cache: Path
) -> Generator[Progress | Finding, None, RunScores]:
    """Score a trained run on held-out data, with the run's backbone and image size.

    Args:
        run: A trained run.
        data: Held-out images: those of the named sites, or of all sites if none is named. Image
            size and fit are replaced by the run's.
        cache: Folder of the feature cache.

    Yields:
        Findings about the images, and progress of the extraction.

    Raises:
        ConfigError: If a site or split is unknown.
        DataError: If the data cannot be used.
    """
    config, dataset, items = choose_scored(run, data)
    yield from doubt_stored(items, config.data)
    views = held_out_views(items, run.backbone, config)
    wanted = with_mirrored(views, config.evaluation)
    batch_size = config.backbone.batch_size
    features = yield from extract_features(wanted, run.backbone, batch_size, cache)
    held_out = gather_held_out(views, features, dataset.classes, config.evaluation)
    scores = score_models(run.segmenters, held_out)
    return {
        **scores,
        "protocol": describe_protocol(config),
        "skipped_images": describe_skipped(features.skipped),
        "trained_images": _count_trained(run.config.data, config.data, items),
        "taught": _score_classes(run, held_out),
    }


def _score_classes(run: TrainedRun, held_out: HeldOut) -> TaughtScores | None:
    if run.classes is None or held_out.classes is None:
        return None
    # Regions matter for unknown pixels alone, which need one model for all sites.
    segmenter = with_classes(next(iter(run.segmenters.values())), run.classes.classifier)
    return score_classes(segmenter, run.classes.names, held_out)


def choose_scored(run: TrainedRun, data: DataConfig) -> tuple[Config, Dataset, tuple[Item, ...]]:
    """Choose what `evaluate_run` scores: the settings, the data set, and its images.

    Raises:
        ConfigError: If a site or split is unknown.
        DataError: If the data cannot be used.
    """
    used = run.config.data
    data = seen_alike(data, used)
    dataset = open_dataset(data)
    if not data.held_out_sites:
        data = replace(data, held_out_sites=_sites_with(dataset, data.held_out_split))
    return replace(run.config, data=data), dataset, select_held_out(dataset, data)


def _count_trained(used: DataConfig, data: DataConfig, items: Sequence[Item]) -> int:
    """Count the images that were used in training; those of another folder were not."""
    if (used.layout, used.root) != (data.layout, data.root):
        return 0
    trained = {(item.site, item.stem) for item in select_training(open_dataset(used), used)}
    return sum((item.site, item.stem) in trained for item in items)


def _sites_with(dataset: Dataset, split: str) -> tuple[str, ...]:
    known = tuple(site for site in dataset.sites if select(dataset, [site], split))
    # An unknown split is left to `select_held_out`, which names the known ones.
    return known or dataset.sites
