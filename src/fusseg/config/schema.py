"""Settings of one experiment: one frozen dataclass per stage.

Names of data layouts, backbones, strategies and objectives are checked where their tables are, so
that a new entry is one line there and none here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from fusseg.config.privacy import PrivacyConfig
from fusseg.config.ranges import above_zero, at_least, check_sides_range, check_white_level
from fusseg.core.errors import ConfigError

Fit = Literal["crop", "stretch"]
Crops = Literal["none", "five"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Camera = Literal["blurred", "tinted", "noisy"]
AlphaChannel = Literal["blend", "ignore"]
WhiteLevel = int | dict[str, int]
Wire = Literal["float32", "bfloat16"]
ServerOptimizer = Literal["none", "momentum", "adam"]
SiteClusters = Literal["all", "used"]
Weights = Literal["images", "equal", "uncertainty"]
Grid = Literal["square"] | tuple[int, int]
NumRegions = int | Literal["auto"]
MergeBy = Literal["codes", "borders"]
Precision = Literal["auto", "float32", "bfloat16"]
Init = Literal["pca", "random"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images train, which are held out, and how they are resized."""

    layout: str = "sites"
    """How the images are laid out: `sites` (a folder per site), `images` (one folder, one site),
    `cityscapes`, `coco-stuff`, or `synthetic` (generated)."""
    root: str = ""
    """Folder of the data, relative to the working directory; unused by `synthetic`."""
    splits: str = "splits.csv"
    """Table of splits inside the root (columns stem, site, split)."""
    scenes: str = "pipes"
    """What `synthetic` draws: `pipes` (binary) or `streets` (multi-class)."""
    images_per_site: int = 40
    """Images that `synthetic` draws per site, at least 2."""
    scene_seed: int = 0
    """Seed of the generated scenes; separate from the seed of training."""
    train_sites: tuple[str, ...] = ()
    """Sites (or values of the column) that train; empty: all that are not held out."""
    held_out_sites: tuple[str, ...] = ()
    """Sites (or values of the column) whose images are evaluated; empty: none."""
    train_split: str = ""
    """Split that trains; empty: every image of the training sites."""
    held_out_split: str = ""
    """Split that is evaluated; empty: every image of the held-out sites."""
    train_list: str = ""
    """File with one `stem` or `site/stem` per line: only these of the training images train."""
    held_out_list: str = ""
    """File with one `stem` or `site/stem` per line: only these of the held-out images count."""
    partition: str = "site"
    """Which client holds which training image: `site`, `iid`, `dirichlet`, `classes`, `blocks`,
    `sizes:RATIO`, `column:NAME` or `file:PATH`."""
    num_clients: int = 0
    """Number of clients that the training images are divided among; 0: as many as sites."""
    alpha: float = 0.5
    """Concentration of `dirichlet`: small is uneven, large is even."""
    partition_seed: int = 0
    """Seed of `iid`, `dirichlet` and `sizes`; separate from the seed of training."""
    crops: Crops = "none"
    """`five`: each training image is replaced by its four quarters and its center, each of half its
    height and width; held-out images stay whole."""
    image_size: tuple[int, int] = (320, 320)
    """Height and width in pixels that the backbone sees."""
    fit: Fit = "crop"
    """`crop`: shorter side to size, then center crop; `stretch`: ignore the aspect ratio."""
    interpolation: Interpolation = "bilinear"
    """Resampling of images, antialiased; labels are always taken from the nearest pixel."""
    # A dict cannot be hashed; equal settings still hash alike without it.
    white_level: WhiteLevel | None = field(default=None, hash=False)
    """Stored value that counts as white, at all sites; or a table of such values by number of
    bands, as in `{1 = 4095, 3 = 65535}`; unset, or above the maximum of a file's type: that
    maximum."""
    cameras: dict[str, Camera] | None = field(default=None, hash=False)
    """In simulation: by client, the camera that its training images are seen through: `blurred`,
    `tinted` or `noisy`; unset: their own."""
    alpha_channel: AlphaChannel = "blend"
    """What to do with a last band that is flagged as transparency: `blend` the image onto white, or
    `ignore` the band."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a size or count is too small, or a white level out of range.
        """
        check_sides_range("data.image_size", self.image_size)
        at_least("data.images_per_site", self.images_per_site, 2)
        at_least("data.scene_seed", self.scene_seed, 0, 2**63 - 1)
        at_least("data.num_clients", self.num_clients, 0, 100_000)
        at_least("data.partition_seed", self.partition_seed, 0, 2**63 - 1)
        above_zero("data.alpha", self.alpha)
        check_white_level(self.white_level)


SEEN = ("image_size", "fit", "interpolation", "white_level", "alpha_channel")
"""Settings of the data that decide how the backbone sees an image."""


def seen_alike(data: DataConfig, used: DataConfig) -> DataConfig:
    """Take how images are seen from `used`, and everything else from `data`."""
    return replace(data, **{name: getattr(used, name) for name in SEEN})


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The frozen network that turns images into features."""

    name: str = "filterbank"
    """`efficientnet-lite2`, `filterbank`, `onnx:PATH`, or a Hugging Face id or local folder of a
    ViT."""
    grid: Grid | None = None
    """How the tokens that an ONNX file gives lie in the image: `square`, or rows and columns;
    unset: the file gives a feature map."""
    center: bool | Literal["auto"] = "auto"
    """Subtract the global mean feature; `auto`: only for backbones that need it."""
    batch_size: int = 1
    """Images per forward pass of the extraction; more are faster only on machines with many cores
    or a GPU."""
    cache: str = "float16"
    """How features are stored: `float16`, `int8` (per image and channel), `pca:R` (R
    components)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If the name is empty, the batch size below 1, or the cache unknown.
        """
        if not self.name:
            raise ConfigError("backbone.name must not be empty")
        if not re.fullmatch(r"float16|int8|pca:[1-9]\d{0,4}", self.cache):
            raise ConfigError(
                "backbone.cache must be 'float16', 'int8' or 'pca:R' with the number of principal "
                f"components for R, such as 'pca:64', got {self.cache!r}"
            )
        for side in self.grid if isinstance(self.grid, tuple) else ():
            at_least("backbone.grid", side, 1, 2**14)
        at_least("backbone.batch_size", self.batch_size, 1, 10_000)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size of the trained model, and where its training starts."""

    num_clusters: int = 27
    """Number of clusters, K in the paper; at most 255, the indices of an 8-bit image."""
    num_regions: NumRegions | None = None
    """Number of regions after merging clusters, or `auto`: as the clusters suggest; unset: each
    cluster is a region."""
    merge_by: MergeBy = "codes"
    """Which clusters are merged first: `codes`, those with the nearest codes; `borders`, also those
    that meet most often in the images."""
    code_dim: int = 70
    """Channels of the code, D in the paper."""
    init: Init = "pca"
    """Model before round 1: `pca`, federated PCA and Lloyd steps, from sums alone; `random`, drawn
    weights, as in the paper."""
    init_steps: int = 10
    """Lloyd steps of `pca` before round 1; 0: none, and no merging."""
    init_clusters: int = 3
    """Clusters per region in the Lloyd steps of `pca`, merged to the regions afterwards; 1: one."""
    whitening: float | Literal["auto"] = "auto"
    """Power of its standard deviation that `pca` divides each principal component by; 0: none; 1:
    all components vary alike; `auto`: 0, 0.5 or 1, as the clients judge without labels; 0 for
    the backbone `filterbank`."""
    start: str = ""
    """Run directory of the model that training starts from, in place of `init`; empty: a new
    model."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a size or count is too small, there are more than 255 clusters, more
                regions than clusters, nothing is merged by borders, or components are whitened
                that are not computed.
        """
        at_least("model.init_steps", self.init_steps, 0, 10_000)
        at_least("model.init_clusters", self.init_clusters, 1, 100)
        at_least("model.num_clusters", self.num_clusters, 2, 255)
        if isinstance(self.num_regions, int):
            at_least("model.num_regions", self.num_regions, 2)
            if self.num_regions > self.num_clusters:
                raise ConfigError(
                    f"model.num_regions is {self.num_regions}, but only the "
                    f"{self.num_clusters} clusters of model.num_clusters can be merged; lower the "
                    "first or raise the second"
                )
        if self.num_regions is None and self.merge_by != "codes":
            raise ConfigError(
                f"model.merge_by is {self.merge_by!r}, but no clusters are merged; set "
                "model.num_regions, or leave model.merge_by out"
            )
        at_least("model.code_dim", self.code_dim, 1, 4096)
        if self.whitening == "auto":
            return
        at_least("model.whitening", self.whitening, 0, 1)
        if self.whitening > 0 and (self.start or self.init != "pca"):
            key, value = ("start", self.start) if self.start else ("init", self.init)
            raise ConfigError(
                f"model.whitening is {self.whitening}, but no principal components are computed, "
                f"because model.{key} is {value!r}; set model.whitening to 0"
            )


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """How one client trains between two server rounds (method section 3)."""

    objective: str = "stego"
    """What a step minimizes; its settings are in the table of the same name."""
    steps: int | None = None
    """Optimizer steps per round, the same for every client; unset: given by `epochs`."""
    epochs: float | None = None
    """Passes over the largest site per round; unset, with `steps` unset too: 1."""
    batch_size: int = 8
    """Query images per step."""
    head_learning_rate: float = 5e-4
    centroid_learning_rate: float = 5e-3
    fedprox_weight: float = 0.0
    """FedProx: weight of half the squared distance to the received head (mu); the paper: 0.001."""
    fedmoon_weight: float = 0.0
    """FedMOON: weight of the contrast with the received and the client's own previous head; the
    paper: 1."""
    fedmoon_temperature: float = 0.5
    """FedMOON: temperature that divides the cosines."""
    # Dicts cannot be hashed; equal settings still hash alike without them.
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """The objectives' own tables by name, as written: in TOML `[local.NAME]`."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a count, weight or rate is out of range, or a table has the name of a
                setting.
        """
        self._check_length()
        at_least("local.batch_size", self.batch_size, 2, 10_000)
        for name in ("fedprox", "fedmoon"):
            at_least(f"local.{name}_weight", getattr(self, f"{name}_weight"), 0)
        for name in ("head_learning_rate", "centroid_learning_rate", "fedmoon_temperature"):
            above_zero(f"local.{name}", getattr(self, name))
        for name in self.tables.keys() & {setting.name for setting in fields(self)} - {"tables"}:
            raise ConfigError(f"local.{name} is a setting; no objective's table can have its name")

    def _check_length(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                f"local.steps and local.epochs cannot both be set, got {self.steps} and "
                f"{self.epochs}; remove one"
            )
        if self.steps is not None:
            at_least("local.steps", self.steps, 1)
        if self.epochs is not None:
            above_zero("local.epochs", self.epochs)


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """What the server aggregates, how, and how often (method section 3b)."""

    strategy: str = "fedcc-kmeans"
    """`fedavg`, `fedcc-kmeans`, `fedcc-maximin`, `consensus`, `lloyd`, `pca` (no training), or the
    baselines `local` and `centralized`."""
    rounds: int = 10
    """Rounds of training; `pca` has none."""
    lloyd_rounds: int = 0
    """Steps of federated Lloyd after the last round of training; 0: none."""
    clients_per_round: int = 0
    """Clients drawn at random for each round, of training or of the finish; 0, or more than there
    are: all of them."""
    positions_per_image: int = 200
    """Random positions per image that Lloyd, PCA and consensus use; 0: all of them."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """How FedCC compares centroids; the paper uses `euclidean`."""
    weights: Weights = "images"
    """Weight of a client in averages: `images`, its number of images (W in the paper's Table 3);
    `equal`; `uncertainty`, its number of images divided by the spread of its codes."""
    centroid_weights: Weights | None = None
    """The same for averages of centroids, which only `fedavg` makes; unset: as `weights`."""
    max_weight_share: float | Literal["auto"] = "auto"
    """Largest share of an average that one client can have by its weight; 1: no limit;
    `auto`: 0.5 in a deployment, otherwise 1."""
    aggregate_heads: bool = True
    """Average the heads (E); otherwise each client keeps its own."""
    aggregate_centroids: bool = True
    """Aggregate the centroids (C); otherwise each client keeps its own."""
    site_clusters: SiteClusters = "all"
    """Which clusters a client trains and sends: `all`, or `used`, its own; the others stay as the
    server sent them."""
    min_cluster_share: float = 0.01
    """Smallest share of a client's sampled positions at which a cluster is its own; for `used`."""
    server_optimizer: ServerOptimizer = "none"
    """How the server moves the head towards the clients' average: `none`, straight; `momentum`
    (FedAvgM) or `adam` (FedAdam), which remember the changes of earlier rounds."""
    server_learning_rate: float = 1.0
    """Length of the server's step; 1 without an optimizer: the average itself, as in the paper.
    `adam` takes at most 0.1."""
    server_momentum: float = 0.9
    """Share of the running average of changes that stays in a round; for `momentum` and `adam`."""
    keep: Literal["best", "last"] = "best"
    """Model after the last round: `best`, the start if training has not improved on it, as the
    clients judge without labels; `last`, the trained one."""
    teach: bool = False
    """Whether clients with masks teach classes after the last round: `[teach]` says how. It is the
    only setting with which clients read labels."""
    wire: Wire = "float32"
    """Format in which heads are sent: `float32`, or `bfloat16`: weights are rounded on the way to
    the client, and the change of each weight is rounded on the way back."""
    max_mean_distance: float = 10.0
    """In deployment: how far a site's mean feature may lie from the other sites', in standard
    deviations of their features; 0: no limit."""
    min_sites: int = 0
    """In deployment: number of usable answers that a round needs; 0: one from every approved
    site."""
    round_timeout: float = 3600.0
    """In deployment: seconds until an exchange closes with the answers received so far."""
    wait_timeout: float = 3600.0
    """In deployment: seconds to wait for missing sites, before round 1 and for the quorum."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If there is no round, a count is negative, a rate or share out of range, a
                timeout too short, or a round needs more answers than it asks for.
        """
        at_least("federation.rounds", self.rounds, 1)
        at_least("federation.lloyd_rounds", self.lloyd_rounds, 0)
        at_least("federation.positions_per_image", self.positions_per_image, 0)
        if not 0 < self.min_cluster_share < 1:
            raise ConfigError(
                f"federation.min_cluster_share must lie in (0, 1), got {self.min_cluster_share}"
            )
        above_zero("federation.server_learning_rate", self.server_learning_rate)
        at_least("federation.server_learning_rate", self.server_learning_rate, 0, 100)
        if not 0 <= self.server_momentum < 1:
            raise ConfigError(
                f"federation.server_momentum must lie in [0, 1), got {self.server_momentum}"
            )
        at_least("federation.clients_per_round", self.clients_per_round, 0, 100_000)
        if self.max_weight_share != "auto":
            at_least("federation.max_weight_share", self.max_weight_share, 0.01, 1)
        at_least("federation.max_mean_distance", self.max_mean_distance, 0)
        at_least("federation.min_sites", self.min_sites, 0, 100_000)
        if 0 < self.clients_per_round < self.min_sites:
            raise ConfigError(
                f"federation.min_sites is {self.min_sites}, but federation.clients_per_round asks "
                f"{self.clients_per_round} sites in a round; lower the first or raise the second"
            )
        for name in ("round_timeout", "wait_timeout"):
            at_least(f"federation.{name}", getattr(self, name), 1, 30 * 86400)


@dataclass(frozen=True, kw_only=True)
class TeachConfig:
    """How labels teach classes, with `federation.teach` or `fusseg teach`."""

    shrinkage: float | Literal["auto"] = "auto"
    """Number added to all variances within the classes, as a share of their mean; `auto`: as images
    that are left out in turn are classified best."""
    unknown_below: float = 0.0
    """Largest posterior below which a pixel keeps its label-free region, called unknown; 0: every
    pixel has a class."""
    label_list: str = ""
    """File with one `stem` or `site/stem` per line: only the masks of these images teach."""
    class_map: str = ""
    """File that joins classes which clients call by different names."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        if self.shrinkage != "auto":
            at_least("teach.shrinkage", self.shrinkage, 0, 1e6)
        if not 0 <= self.unknown_below < 1:
            raise ConfigError(f"teach.unknown_below must lie in [0, 1), got {self.unknown_below}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When the model is scored, and on which view of the held-out images (method section 5)."""

    every: int = 1
    """Score after every n-th round and after the last; 0: after the last only."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels of the held-out images; unset: as `data.image_size`."""
    whole: bool = False
    """See each held-out image whole: its shorter side becomes the smaller side of the size."""
    flip: bool = False
    """Average the codes of an image with those of its mirror image."""
    crf: bool = False
    """Refine the scored regions with a dense CRF, which takes some seconds per image."""
    at_sites: bool = False
    """Score on the training images that have masks, if no site is held out; in deployment, the
    sites do this themselves and send their confusion counts."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a count is negative, or a side too small or too large.
        """
        at_least("evaluation.every", self.every, 0)
        if self.image_size is not None:
            check_sides_range("evaluation.image_size", self.image_size)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision and threads; at one precision, results agree up to rounding."""

    precision: Precision = "float32"
    """Precision of the matrix products of backbone and training; `auto`: bfloat16 if the device has
    it."""
    device: DeviceName = "auto"
    """Where training runs; `auto`: on CUDA if available, otherwise on the CPU."""
    threads: int = 0
    """Threads of the CPU; 0: as many as torch chooses."""
    clients_at_once: int = 0
    """Clients that train in one batched step; 0: one on the CPU, as many as fit on a GPU."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a count is negative.
        """
        at_least("compute.threads", self.threads, 0, 1024)
        at_least("compute.clients_at_once", self.clients_at_once, 0, 100_000)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run; results depend on nothing else."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        """Check the seed.

        Raises:
            ConfigError: If the seed is negative.
        """
        at_least("seed", self.seed, 0, 2**63 - 1)
