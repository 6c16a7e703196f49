"""The offer: the settings that the server sends to every site before round 1."""

import tomllib
from dataclasses import dataclass, replace
from hashlib import sha256

from fusseg.config.file import differing_keys, dump_config, parse_config
from fusseg.config.schema import SEEN, ComputeConfig, Config, DataConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.core.version import VERSION
from fusseg.core.visible_text import shown
from fusseg.deployment.wire.packet import FIELDS, Packet, expect_field, take_int, take_word
from fusseg.federation.strategies import resolve
from fusseg.segmentation.objectives import spell_out

HELLO = "hello"
_SHARED_DATA = ("train_split", "crops", *SEEN)
"""Settings of the data that all sites share; each site decides for itself where its data is."""


@dataclass(frozen=True)
class Offer:
    """The settings of one federation, as the server offers them."""

    run: str
    """Name of the federation's run, which survives restarts of the server."""
    config: Config
    """The settings without those that concern the server alone."""
    fingerprint: str
    """Fingerprint of the server's backbone."""
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    version: str = VERSION

    @property
    def digest(self) -> str:
        """SHA-256 of the whole offer; a site names it in its answers."""
        parts = (
            self.run,
            dump_config(self.config),
            self.fingerprint,
            str(self.center),
            self.version,
        )
        return sha256("\0".join(parts).encode()).hexdigest()


def make_offer(config: Config, run: str, fingerprint: str, *, center: bool) -> Offer:
    """Make the offer of a server's configuration.

    Raises:
        ConfigError: If the configuration cannot be run over sites.
    """
    check_deployable(config)
    return Offer(run, shared_settings(config), fingerprint, center)


def shared_settings(config: Config) -> Config:
    """Drop settings that concern one machine only: data folders, held-out sites, processors.

    The path of a starting model is the server's own setting too: it sends that model in round 1,
    and no start is computed. So is the map of classes: the server sends the joined names.
    """
    kept = {name: getattr(config.data, name) for name in _SHARED_DATA}
    # The number of threads is shared, because it changes how sums are rounded.
    compute = ComputeConfig(precision=config.compute.precision, threads=config.compute.threads)
    init = "random" if config.model.start else config.model.init
    model = replace(config.model, init=init, start="")
    teach = replace(config.teach, class_map="")
    # Sites check what the noise promises, and need not find the same number.
    noised = config.privacy.noise != "none"
    privacy = resolve(config, deployed=True).privacy if noised else config.privacy
    return replace(
        config,
        data=DataConfig(**kept),
        model=model,
        teach=teach,
        compute=compute,
        privacy=privacy,
    )


def check_deployable(config: Config) -> None:
    """Refuse what works on one machine only: pooling images, or dealing them out to clients.

    Raises:
        ConfigError: If there is such a setting.
    """
    protocol = resolve(config, deployed=True)
    name, strategy, local = protocol.strategy_name, protocol.strategy, protocol.local
    numbers = {*local.objective.estimated(local.settings), *local.objective.given(local.settings)}
    if numbers & FIELDS:
        raise ConfigError(
            f"local.objective {config.local.objective!r} agrees on numbers called "
            f"{', '.join(sorted(numbers & FIELDS))}, which name other fields of a message; rename "
            "them"
        )
    if strategy.baseline:
        raise ConfigError(
            f"federation.strategy {name!r} is a baseline for fusseg run; sites have nothing to "
            "exchange under it"
        )
    if config.data.partition != "site" or config.data.num_clients:
        raise ConfigError(
            f"data.partition is {config.data.partition!r} with data.num_clients "
            f"{config.data.num_clients}, but each site holds its own images; set them to 'site' "
            "and 0"
        )
    if config.data.cameras:
        raise ConfigError(
            "data.cameras changes images in a simulation, but each site has cameras of its own; "
            "remove it"
        )
    if config.data.layout != "sites":
        raise ConfigError(
            f"data.layout is {config.data.layout!r}, but every site has a folder of images; set it "
            "to 'sites'"
        )
    _check_scores(config)
    _check_lists(config)
    for key in ("min_sites", "clients_per_round"):
        if 0 < getattr(config.federation, key) < strategy.min_clients:
            raise ConfigError(
                f"federation.{key} is {getattr(config.federation, key)}, but federation.strategy "
                f"{name!r} needs at least {strategy.min_clients} sites; set it to "
                f"{strategy.min_clients} or more"
            )


def _check_scores(config: Config) -> None:
    if config.privacy.secure_sum and config.evaluation.at_sites:
        raise ConfigError(
            "evaluation.at_sites is set, for which each site sends its own counts, but "
            "privacy.secure_sum is set, too; score on held-out images of the server"
        )


def _check_lists(config: Config) -> None:
    for key, path in (
        ("data.train_list", config.data.train_list),
        ("teach.label_list", config.teach.label_list),
    ):
        if path:
            raise ConfigError(
                f"{key} is {path!r}, but the server does not know the sites' file names; leave it "
                "empty"
            )


def pack_offer(offer: Offer) -> Packet:
    """Convert an offer to a packet, which asks for a hello."""
    return Packet(
        {
            "task": HELLO,
            "round": 0,
            "run": offer.run,
            "version": offer.version,
            "settings": dump_config(offer.config),
            "fingerprint": offer.fingerprint,
            "center": int(offer.center),
            "offer": offer.digest,
        }
    )


def unpack_offer(packet: Packet) -> Offer:
    """Read an offer.

    Raises:
        FederationError: If it is from another version, or is not what this version writes.
    """
    version = take_word(packet, "version")
    if version != VERSION:
        raise FederationError(
            f"the server runs fusseg {version}, this site {VERSION}; install the same version"
        )
    try:
        config = parse_config(tomllib.loads(take_word(packet, "settings")))
    except (ValueError, RecursionError) as error:  # also a ConfigError, and deep nesting
        raise FederationError(f"the server's settings cannot be read: {error}") from error
    run = take_word(packet, "run")
    if not (run.isalnum() and run.isascii() and len(run) <= 64):
        raise FederationError(f"field 'run' must be letters and digits, got {shown(run, 80)}")
    if config != shared_settings(config):
        raise FederationError("the server sent settings that are a site's own business")
    try:
        check_deployable(config)
    except ConfigError as error:
        raise FederationError(f"the server's settings cannot be run: {error}") from error
    offer = Offer(
        run=run,
        config=config,
        fingerprint=take_word(packet, "fingerprint"),
        center=bool(take_int(packet, "center", 0, 1)),
    )
    expect_field(packet, "offer", offer.digest)
    return offer


def differing_settings(left: Config, right: Config) -> list[str]:
    """List the dotted keys in which two sets of shared settings differ.

    The backbone's name is ignored: each machine may store it elsewhere, and fingerprints are
    compared instead. A default counts as equal whether or not it is written out.
    """
    left = replace(left, backbone=replace(left.backbone, name=right.backbone.name))
    return differing_keys(spell_out(left), spell_out(right))
