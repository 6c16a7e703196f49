"""Teaching a finished run classes on one machine, from a folder of labels or a table of clicks."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.schema import Config, TeachConfig, seen_alike
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.randomness import SERVER, round_generator
from fusseg.data.checks.survey import find_layout
from fusseg.data.clicks import classes_of_clicks, read_clicks
from fusseg.data.findings import Finding
from fusseg.data.items import Classes, Dataset
from fusseg.data.layouts import open_dataset
from fusseg.data.layouts.site_folder import open_site
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.stored import doubt_stored
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Progress, SiteFeatures, extract_features
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.features.views import View, held_out_views, training_views, with_mirrored
from fusseg.federation.gathering import aggregate
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Work
from fusseg.federation.state import Client, ClientUpdate, GlobalState, Taught
from fusseg.federation.strategies import resolve
from fusseg.federation.teaching import agree_on_classes, check_classes, teaching_tasks
from fusseg.runs.directory import load_record, read_run_config, save_record
from fusseg.runs.finished_rounds import check_same_round
from fusseg.runs.label_reading import (
    PixelReader,
    click_reader,
    clicked_views,
    label_features,
    labeled_views,
    mask_reader,
)
from fusseg.runs.record_form import Record, TaughtEntry
from fusseg.runs.resuming import check_fingerprint
from fusseg.runs.saved_state import load_state, save_state
from fusseg.runs.taught_classes import describe_taught, write_class_colors

_TEACHER = "labels"
"""Name of the one client that has the labels."""


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from; at least one of the two is given."""

    folder: Path | None = None
    """Folder of a site, or of sites; with clicks, only its images are used. None: the training
    images of the run."""
    clicks: Path | None = None
    """Table of clicks; None: the masks in the folder."""


@dataclass(frozen=True)
class TaughtRun:
    """What `teach_run` did."""

    entry: TaughtEntry
    """What was taught, as in the record."""
    record: Record
    """The whole record."""
    labeled_held_out: int
    """Held-out images that are among the labeled ones, and therefore not scored."""


@dataclass(frozen=True)
class _Labels:
    """Labeled images, before their features are extracted."""

    views: tuple[View, ...]
    names: tuple[str, ...]
    """Names of the classes."""
    read_pixels: PixelReader
    known: Classes | None
    """Classes with their colors, where there is a file that says them."""


def teach_run(
    run_dir: Path, source: LabelSource, settings: TeachConfig, cache: Path
) -> Generator[Progress | Finding, None, TaughtRun]:
    """Teach a run classes from labels, and score them on the run's held-out images.

    It is a generator: nothing happens before its values are taken. The run's state, record and
    `classes.toml` are written anew; its regions stay as they are.

    Args:
        run_dir: A run with a finished round.
        source: Where the labels are.
        settings: Shrinkage, smallest posterior, and list of images.
        cache: Folder of the feature cache.

    Yields:
        Findings about the images, and progress of the extraction.

    Raises:
        ConfigError: If the run or a setting cannot be used, or its backbone has changed.
        DataError: If the labels or the held-out images cannot be used, or fewer than two classes
            have enough labeled positions.
    """
    if source.folder is None and source.clicks is None:
        raise ConfigError("nothing to teach from; give a folder with --labels, or --clicks FILE")
    config, saved, record = read_run_config(run_dir), load_state(run_dir), load_record(run_dir)
    check_same_round(run_dir, record, saved.state.round_number)
    if settings.class_map:
        raise ConfigError(
            f"teach.class_map is {settings.class_map!r}, but there is one folder of labels, whose "
            "names need no joining; leave it out"
        )
    set_threads(config.compute)
    backbone = load_backbone(
        config.backbone.name, choose_compute(config.compute), config.backbone.grid
    )
    check_fingerprint(saved, backbone, run_dir)
    labels = _find_labels(source, settings, backbone, config)
    held_out = _held_out_views(backbone, config)
    yield from doubt_stored([view.item for view in labels.views], config.data)
    wanted = (*labels.views, *with_mirrored(held_out.views, config.evaluation))
    features = yield from extract_features(wanted, backbone, config.backbone.batch_size, cache)
    labeled = label_features(labels.views, features, labels.names, labels.read_pixels)
    if labeled is None:
        raise DataError("no labeled image can be used, all were skipped; fusseg check says why")
    state = _teach(saved.state, labeled, settings, config, cache)
    _check_taught(state.taught)
    shown, left_out = _scored(held_out, features, labeled, config)
    entry = describe_taught(state, shown)
    assert entry is not None
    assert state.taught is not None
    record["taught"] = entry
    save_record(run_dir, record)
    known = None if held_out.dataset is None else held_out.dataset.classes
    write_class_colors(run_dir, state.taught, [labels.known, known])
    save_state(run_dir, replace(saved, state=state))
    return TaughtRun(entry, record, left_out)


def _find_labels(
    source: LabelSource, settings: TeachConfig, backbone: Backbone, config: Config
) -> _Labels:
    """List the labeled images, by their masks or by clicks."""
    if source.folder is not None:
        dataset = _open_labels(source.folder, config)
        views = training_views(dataset.items, backbone, config)
    else:
        dataset = open_dataset(config.data)
        views = training_views(select_training(dataset, config.data), backbone, config)
    if source.clicks is not None:
        clicks = read_clicks(source.clicks)
        chosen = clicked_views(views, clicks, source.clicks)
        reader = click_reader(clicks, source.clicks)
        return _Labels(chosen, classes_of_clicks(clicks), reader, dataset.classes)
    masked, classes = labeled_views(views, dataset, settings.label_list)
    if classes is None:
        raise DataError(
            f"{source.folder} has no masks; put one for each labeled image in its folder 'masks', "
            "under the image's name, or give a table of clicks"
        )
    return _Labels(masked, classes.names, mask_reader(classes), classes)


def _open_labels(folder: Path, config: Config) -> Dataset:
    """List the images of a site, or of a folder of sites."""
    if (folder / "images").is_dir():
        return open_site(folder, _TEACHER)
    return open_dataset(seen_alike(find_layout(folder), config.data))


def _teach(
    state: GlobalState,
    labeled: LabeledFeatures,
    settings: TeachConfig,
    config: Config,
    cache: Path,
) -> GlobalState:
    """Run the exchanges of teaching with one client."""
    asked = replace(config, federation=replace(config.federation, teach=True), teach=settings)
    protocol = replace(resolve(config), teaching=teaching_tasks(asked), teach=settings)
    classes = agree_on_classes({_TEACHER: labeled.classes}, {})
    check_classes(classes, settings, protocol.num_clusters)
    state = replace(state, plan=replace(state.plan, classes=classes))
    client = Client(_TEACHER, labeled.features, cache, labeled=labeled)
    for task in protocol.teaching:
        work = Work(client, state.model, state, protocol, KeptCodes(0, protocol.seed))
        update = ClientUpdate(_TEACHER, len(labeled.features), parts=task.measure(work))
        generator = round_generator(protocol.seed, state.round_number + 1, SERVER)
        state = aggregate(state, [update], _summing(protocol), task, generator)
    return state


def _summing(protocol: Protocol) -> Protocol:
    """Let sums be made also of a run in which each client keeps its own model."""
    return replace(protocol, aggregate_heads=True, aggregate_centroids=True)


def _check_taught(taught: Taught | None) -> None:
    if taught is None or taught.classifier is not None:
        return
    enough = ", ".join(taught.names) or "none"
    raise DataError(
        f"fewer than 2 classes have enough labeled positions (with enough: {enough}; with too few: "
        f"{', '.join(taught.lacking)}); label more pixels of them, and nothing was changed"
    )


@dataclass(frozen=True)
class _HeldOutViews:
    views: tuple[View, ...]
    dataset: Dataset | None


def _held_out_views(backbone: Backbone, config: Config) -> _HeldOutViews:
    """List the run's held-out images; none if it has none."""
    if not config.data.held_out_sites:
        return _HeldOutViews((), None)
    dataset = open_dataset(config.data)
    items = select_held_out(dataset, config.data)
    return _HeldOutViews(held_out_views(items, backbone, config), dataset)


def _scored(
    held_out: _HeldOutViews, features: SiteFeatures, labeled: LabeledFeatures, config: Config
) -> tuple[HeldOut | None, int]:
    """Gather the held-out images that did not teach, and count those that did."""
    if held_out.dataset is None:
        return None, 0
    known = set(labeled.features.digests)
    present = [view for view in held_out.views if features.has(view)]
    apart: Sequence[View] = [
        view for view in present if features.of_views([view]).digests[0] not in known
    ]
    if not apart:
        return None, len(present)
    shown = gather_held_out(apart, features, held_out.dataset.classes, config.evaluation)
    return shown, len(present) - len(apart)
