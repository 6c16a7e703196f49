"""A site's images, backbone and features under the settings that a server offers."""

import base64
import json
import zlib
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.data.crops import cut_up
from fusseg.data.findings import Finding
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.site_folder import open_site
from fusseg.data.partitions.small_clients import MIN_IMAGES
from fusseg.data.selection import select
from fusseg.data.stored import doubt_stored
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.deployment.wire.offer import Offer, differing_settings, shared_settings
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.backbones.efficientnet import EFFICIENTNET, INSTALL
from fusseg.features.cache.store import FeatureSettings, open_store
from fusseg.features.extraction import Progress, SiteFeatures, extract_features
from fusseg.features.feature_set import FeatureSet, read_features
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.features.pipeline import Skipped
from fusseg.features.views import (
    View,
    held_out_views,
    training_views,
    with_mirrored,
    zoomed_views,
)
from fusseg.federation.noise import describe_guarantee
from fusseg.federation.preparation import prepare_images
from fusseg.federation.state import Client
from fusseg.federation.strategies import resolve
from fusseg.runs.label_reading import label_features, labeled_views, mask_reader

FILTERBANK = "filterbank"
"""The backbone without weights."""
_FEATURES = "features.json"


@dataclass(frozen=True)
class PreparedSite:
    """The data that a site trains and scores on."""

    client: Client
    labeled: HeldOut | None
    """Its labeled images, if the federation is scored at the sites."""
    settings: FeatureSettings
    """Settings of the training features."""
    skipped: tuple[Skipped, ...]


def choose_backbone(site: SiteSettings, offer: Offer) -> Backbone:
    """Load the site's own copy of the server's backbone.

    A backbone is never loaded or downloaded because a server names it. Only the filter bank, which
    has no weights, is used without the operator's consent.

    Raises:
        FederationError: If the operator has not named it, or named another one; its text may be
            sent to the server.
        ConfigError: If it cannot be loaded.
    """
    name = site.backbone
    if name is None:
        wanted = offer.config.backbone.name
        if wanted != FILTERBANK:
            how = f" {EFFICIENTNET} ({INSTALL})" if wanted == EFFICIENTNET else ""
            raise FederationError(
                f"the server's backbone has the fingerprint {offer.fingerprint[:16]}; name this "
                f"site's copy with fusseg join --backbone{how}"
            )
        name = FILTERBANK
    compute = choose_compute(offer.config.compute)
    backbone = load_backbone(name, compute, offer.config.backbone.grid)
    if backbone.fingerprint != offer.fingerprint:
        raise FederationError(
            f"this site's backbone has the fingerprint {backbone.fingerprint[:16]}, the server's "
            f"{offer.fingerprint[:16]}; use the same weights"
        )
    return backbone


def check_pinned(site: SiteSettings, offer: Offer) -> None:
    """Refuse settings other than those that the operator agreed to.

    Raises:
        FederationError: If a setting differs; its text may be sent to the server.
        ConfigError: If the operator's configuration cannot be read.
    """
    if site.pinned is None:
        return
    keys = differing_settings(shared_settings(load_config(Path(site.pinned))), offer.config)
    if keys:
        raise FederationError(
            f"this site agreed to another configuration (differs in {', '.join(keys)})"
        )


def check_hidden(site: SiteSettings, offer: Offer) -> None:
    """Refuse secure sums without a roster, and sums that are not secure with one.

    Raises:
        FederationError: If settings and roster do not go together; its text may be sent to the
            server.
    """
    if offer.config.privacy.secure_sum and site.roster is None:
        raise FederationError(
            "privacy.secure_sum is set, for which this site needs a list of all sites and their "
            "public keys; start fusseg join with --roster FILE"
        )
    if site.roster is not None and not offer.config.privacy.secure_sum:
        raise FederationError(
            "this site was started with --roster and sends nothing but terms of secure sums, but "
            "privacy.secure_sum is false"
        )


def check_promise(offer: Offer) -> None:
    """Refuse noise that is too weak for the budget that the settings name.

    Raises:
        FederationError: If it is, or this site cannot tell; its text may be sent to the server.
    """
    try:
        describe_guarantee(resolve(offer.config))
    except ConfigError as error:
        raise FederationError(f"the server's settings cannot be run: {error}") from error


def select_site(dataset: Dataset, site: SiteSettings, config: Config) -> tuple[Item, ...]:
    """Select the training images of a site.

    Raises:
        DataError: If there are fewer than two images, or a split is asked for but there is none.
    """
    split = config.data.train_split
    items = select(dataset, [site.name], split)
    if split and not any(item.split for item in dataset.items):
        raise DataError(
            f"{site.data} has no splits.csv, but data.train_split is {split!r}; write one with the "
            "columns stem, site and split, or have the server set data.train_split to ''"
        )
    if len(items) < MIN_IMAGES:
        raise DataError(
            f"{site.data} has {len(items)} training images"
            + (f" in split {split!r} of its splits.csv" if split else "")
            + f", at least {MIN_IMAGES} are needed"
        )
    return items


def prepare_site(
    site: SiteSettings, offer: Offer
) -> Generator[Progress | Finding, None, PreparedSite]:
    """Check the settings, open the data, extract missing features, and prepare the images.

    Yields:
        Findings about the images, and progress, image by image.

    Raises:
        FederationError: If the site refuses the offer; its text may be sent to the server.
        ConfigError: If the backbone or the size of the images cannot be used.
        DataError: If the data cannot be used.
    """
    check_pinned(site, offer)
    check_hidden(site, offer)
    check_promise(offer)
    set_threads(offer.config.compute)
    backbone = choose_backbone(site, offer)
    config, cache = offer.config, Path(site.cache)
    dataset = open_site(Path(site.data), site.name)
    items = select_site(dataset, site, config)
    yield from doubt_stored(items, config.data)
    training = training_views(cut_up(items, config.data.crops), backbone, config)
    scored = held_out_views(_labeled(items, config), backbone, config)
    protocol = resolve(config)
    zoomed = zoomed_views(training, backbone) if protocol.judges else ()
    wanted = (*training, *zoomed, *with_mirrored(scored, config.evaluation))
    features = yield from extract_features(wanted, backbone, config.backbone.batch_size, cache)
    usable = [view for view in training if features.has(view)]
    if len(usable) < MIN_IMAGES:
        raise DataError(
            f"{site.data} has {len(usable)} usable training images of {len(training)}, needs at "
            f"least {MIN_IMAGES}; fusseg check says why images are skipped"
        )
    labeled = None
    if any(map(features.has, scored)):
        labeled = gather_held_out(scored, features, dataset.classes, config.evaluation)
    compute = choose_compute(config.compute)
    client = Client(
        site.name,
        features.of_views(usable),
        cache,
        compute,
        features.of_views_if_any(zoomed),
        _label(usable, features, dataset) if config.federation.teach else None,
    )
    yield from prepare_images([client], protocol, center=offer.center)
    return PreparedSite(client, labeled, usable[0].settings, features.skipped)


def remember_features(folder: Path, offer: Offer, prepared: PreparedSite) -> None:
    """Store where the training features are, so that images are not read again for a message.

    Args:
        folder: The site's own folder.
        offer: The settings under which they were extracted.
        prepared: The extracted features.

    Raises:
        DataError: If the file cannot be written.
    """
    features, zoomed = prepared.client.features, prepared.client.zoomed
    content = {
        "offer": offer.digest,
        "settings": asdict(prepared.settings),
        "shape": features.map_shape,
        "names": features.names,
        "digests": features.digests,
        "zoomed": None if zoomed is None else {"names": zoomed.names, "digests": zoomed.digests},
        "labeled": _note_labels(prepared.client.labeled),
    }
    try:
        write_atomically(folder / _FEATURES, json.dumps(content).encode())
    except OSError as error:
        raise DataError(f"cannot write {folder / _FEATURES}: {error.strerror}") from error


def recall_client(folder: Path, site: SiteSettings, offer: Offer) -> Client:
    """Open the training features again, mapped from disk; neither images nor backbone are read.

    This also sets the number of threads of this process to that of the offer.

    Raises:
        DataError: If they were stored for another offer, or are no longer in the cache.
    """
    set_threads(offer.config.compute)
    path, cache = folder / _FEATURES, Path(site.cache)
    try:
        noted = json.loads(path.read_text())
        tuples = {name: tuple(noted["settings"][name]) for name in ("image_size", "white_levels")}
        settings = FeatureSettings(**{**noted["settings"], **tuples})
        if noted["offer"] != offer.digest:
            raise DataError(f"{path} was written under other settings; restart fusseg join")
        store = open_store(cache, site.name, settings, tuple(noted["shape"]))
        features = read_features(store, noted["names"], noted["digests"])
        zoomed = None
        if noted["zoomed"] is not None:
            store = open_store(cache, site.name, replace(settings, zoomed=True), store.shape)
            zoomed = read_features(store, noted["zoomed"]["names"], noted["zoomed"]["digests"])
        labeled = _recall_labels(noted["labeled"], features)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the features noted in {path} are not in the cache {cache} ({error}); restart fusseg "
            "join"
        ) from error
    return Client(site.name, features, cache, choose_compute(offer.config.compute), zoomed, labeled)


def own_config(site: SiteSettings, offer: Offer) -> Config:
    """Return the shared settings with this site's own data and backbone."""
    config = offer.config
    return replace(
        config,
        data=replace(config.data, root=site.data),
        backbone=replace(config.backbone, name=site.backbone or config.backbone.name),
    )


def _labeled(items: tuple[Item, ...], config: Config) -> tuple[Item, ...]:
    if not config.evaluation.at_sites:
        return ()
    return tuple(item for item in items if item.mask is not None)


def _label(
    usable: Sequence[View], features: SiteFeatures, dataset: Dataset
) -> LabeledFeatures | None:
    """Read the labels that this site teaches, once its settings ask for it."""
    views, classes = labeled_views(usable, dataset, "")
    if classes is None:
        return None
    return label_features(views, features, classes.names, mask_reader(classes))


def _note_labels(labeled: LabeledFeatures | None) -> dict[str, Any] | None:
    """Note the class of each position, which is not read from the masks again for a message."""
    if labeled is None:
        return None
    # Numbers from 0, with 0 for no label, in one byte each.
    coded = (labeled.labels + 1).to(torch.uint8).numpy().tobytes()
    return {
        "digests": labeled.features.digests,
        "classes": labeled.classes,
        "labels": base64.b64encode(zlib.compress(coded)).decode("ascii"),
    }


def _recall_labels(noted: dict[str, Any] | None, features: FeatureSet) -> LabeledFeatures | None:
    if noted is None:
        return None
    place_of = {digest: place for place, digest in enumerate(features.digests)}
    own = features.pick(np.array([place_of[digest] for digest in noted["digests"]]))
    coded = zlib.decompress(base64.b64decode(noted["labels"]))
    labels = torch.frombuffer(bytearray(coded), dtype=torch.uint8).long() - 1
    return LabeledFeatures(own, labels.reshape(len(own), -1), tuple(noted["classes"]))
