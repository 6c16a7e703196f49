"""The fields of `record.json`, and what each of them holds.

`docs/record.md` describes the same fields for users. A field marked `NotRequired` is missing in
some records: those of other kinds of runs, or of versions that did not write it yet.
"""

from typing import Any, NotRequired, TypedDict

from fusseg.config.schema import WhiteLevel
from fusseg.data.stored import StoredValues


class Versions(TypedDict):
    """Software and hardware that results may depend on."""

    fusseg: str
    """Version of this package."""
    python: str
    """Version of Python."""
    torch: str
    """Version of torch."""
    numpy: str
    """Version of numpy."""
    pillow: str
    """Version of Pillow."""
    onnxruntime: str
    """Version of onnxruntime."""
    transformers: str
    """Version of transformers."""
    safetensors: str
    """Version of safetensors."""
    platform: str
    """Operating system and processor family."""
    processor: str
    """Model of the processor."""
    cpu_capability: str
    """Instruction set that torch uses."""
    threads: int
    """Number of threads that torch uses."""
    cores: int
    """Number of cores of the machine; 0: unknown."""


class BackboneEntry(TypedDict):
    """The backbone."""

    name: str
    """As in `backbone.name`, without the folder of a file."""
    fingerprint: str
    """SHA-256 over weights and preprocessing, hex."""
    feature_dim: int
    """Number of channels of the features."""
    stride: int
    """Pixels per position, along each side."""
    centered: bool
    """Whether the global mean feature was subtracted."""
    origin: NotRequired[str | None]
    """What its weights were trained on, and their license; None: not known, or no weights."""


class ComputeEntry(TypedDict):
    """The device and precision that `auto` stands for on this machine."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    precision: str
    """`float32` or `bfloat16`."""


class ProtocolEntry(TypedDict):
    """How images were seen and scored: scores are comparable where all of this is equal."""

    image_size: list[int]
    """Height and width of the held-out images as the backbone saw them, in pixels."""
    whole: bool
    """Whether each image was seen whole, with the smaller of the two sizes as its shorter side."""
    fit: str
    """As in `data.fit`, for images that were not seen whole."""
    image_interpolation: str
    """As in `data.interpolation`."""
    white_level: WhiteLevel | None
    """As in `data.white_level`; None: the maximum of each type."""
    alpha_channel: str | None
    """As in `data.alpha_channel`; None: `blend`."""
    label_interpolation: str
    """Always `nearest`."""
    flip: bool
    """Whether codes were averaged with those of the mirror image."""
    crf: bool
    """Whether a dense CRF refined the regions before they were scored."""


class ClientImages(TypedDict):
    """A client of the federation."""

    client_id: str
    """Name of the training site."""
    num_images: int | None
    """Number of its usable training images; None: the server knows only their sum."""


class StartEntry(TypedDict):
    """The saved model that training started from."""

    path: str
    """Run directory, as in `model.start` or as given to `fusseg adapt`; only the last part of an
    absolute path."""
    name: str
    """Name of that run."""
    round: int
    """Its last finished round."""
    state_digest: str
    """SHA-256 of its state file at that time, hex."""


class RefusedSite(TypedDict):
    """A site that said hello and was not admitted to the federation."""

    client_id: str
    """Name of the site."""
    reason: str
    """Why it was refused."""


class HelloEntry(TypedDict):
    """What the clients agreed on before round 1."""

    local_steps: int
    """Number of steps per client and round."""
    agreed: dict[str, float]
    """Values of the objective's numbers, by name."""
    bytes_up: int
    """Bytes that all clients sent; 0 where nothing is sent."""
    bytes_down: int
    """Always 0: nothing is sent to the clients before round 1."""
    refused: NotRequired[list[RefusedSite]]
    """Sites of a deployment that were refused."""
    differing_classes: NotRequired[dict[str, list[str]]]
    """Classes that some clients with labels lack, with the clients that have them; only where
    classes are taught."""


class ClientRound(TypedDict):
    """One client's part in a round."""

    client_id: str
    """Name of the client."""
    num_images: int | None
    """Number of its usable training images; None: the server knows only their sum."""
    loss: float | None
    """Mean loss over its steps; None in a Lloyd step, and where the server knows only the mean of
    all clients."""
    bytes_up: int
    """Bytes that it sent."""
    bytes_down: int
    """Bytes that were sent to it."""


class IncidentEntry(TypedDict):
    """A site of a deployment that did not answer as it should."""

    client_id: str
    """Name of the site."""
    task: str
    """What it was asked to do."""
    reason: str
    """No answer, or what was wrong with the answer."""


class RoundEntry(TypedDict):
    """One finished round."""

    round: int
    """Number of the round, from 1; 0 computes the start."""
    phase: str
    """`start`, `training`, `lloyd` for a step of the Lloyd finish, `choice` between the start and
    the trained model, or `teach` for the statistics of labels."""
    loss: float | None
    """Mean loss of the clients, weighted by their images; None in a Lloyd step, and with noise."""
    mean_iou: float | None
    """mIoU in [0, 1]; None where the round was not scored or nothing is labeled."""
    pixel_accuracy: float | None
    """Share of correct pixels in [0, 1]; None as for `mean_iou`."""
    bytes_up: int
    """Bytes that all clients sent."""
    bytes_down: int
    """Bytes that were sent to all clients."""
    seconds: float
    """Wall time of training and aggregation, in seconds."""
    clients: list[ClientRound]
    """The clients that took part."""
    num_images: NotRequired[int]
    """Images of all clients that took part; only with `privacy.secure_sum`."""
    incidents: NotRequired[list[IncidentEntry]]
    """Sites of a deployment that were asked and are not in this round."""


class CandidateEntry(TypedDict):
    """A model that the clients judged without labels."""

    name: str
    """`start`, or `whitening 0`, `whitening 0.5` and `whitening 1` if there are several starts;
    `trained`."""
    agreement: float
    """Normalized mutual information of its regions in images and in their zoomed views, in
    [0, 1]."""
    margin: float
    """Mean difference of the cosines with the nearest and the next region, in [0, 2]."""
    kept: bool
    """Whether it is the best so far."""


class BothScores(TypedDict):
    """The two scores of labeled images."""

    mean_iou: float
    """mIoU in [0, 1]."""
    pixel_accuracy: float
    """Share of correct pixels in [0, 1]."""


class SiteScores(BothScores):
    """Scores of one held-out site, under the matching of all sites."""

    num_images: int
    """Number of labeled images."""


class OwnModelScores(BothScores):
    """Scores of one client's own model."""

    client_id: str
    """Name of the client."""


class QualityEntry(TypedDict):
    """Figures that need no label."""

    cluster_share: list[float]
    """Share of the positions in each cluster, in [0, 1]."""
    mean_cosine: float
    """Mean cosine of a code to its own centroid, in [-1, 1]."""
    mean_margin: float
    """Mean lead of the own centroid over the second, in [0, 2]."""


class ModelScores(TypedDict):
    """Scores after a round; None where nothing is labeled."""

    mean_iou: float | None
    """IoU of the summed counts, averaged over the classes that occur in the labels; in [0, 1]."""
    pixel_accuracy: float | None
    """Share of correct pixels in [0, 1]."""
    mean_iou_stego: NotRequired[float | None]
    """mIoU in [0, 1] by STEGO's definition."""
    per_class_iou: dict[str, float | None] | None
    """IoU in [0, 1] by class; None for a class that no label has."""
    confusion: list[list[int]] | None
    """Numbers of pixels, one row per region, one column per class."""
    matching: list[int] | None
    """Class of each region; -1 where it has none."""
    sites: dict[str, SiteScores]
    """Scores by held-out site; empty where nothing is labeled."""
    models: list[OwnModelScores]
    """One entry per client where each has its own model, else empty."""
    quality: QualityEntry | None
    """Label-free figures; None where only the sites have images."""


class RegionMove(TypedDict):
    """How one region's centroids moved when a run was adapted."""

    cosine: float
    """Cosine of the new centroid to the old, in [-1, 1]; of several, the smallest."""
    share_before: float
    """Share of the positions in the region before, in [0, 1]."""
    share_after: float
    """Share of the positions in the region after, in [0, 1]."""
    state: str
    """`moved`, `unmoved`, `held` at the bound, or `kept` because it had too few positions; of
    several centroids, `held` if one is, else `moved` if one is, else `kept` if one is."""


class AdaptedEntry(TypedDict):
    """What `fusseg adapt` did."""

    steps: int
    """Number of Lloyd steps that were taken."""
    min_cosine: float
    """Smallest cosine to the old centroid that was allowed."""
    before: ModelScores
    """Scores of the old model on the new images."""
    names_kept_mean_iou: float | None
    """mIoU after, in [0, 1], where every region keeps the class it had before."""
    regions: list[RegionMove]
    """One entry per region."""


class TaughtScores(TypedDict):
    """Scores of the taught classes; None where nothing is labeled that did not teach."""

    mean_iou: float | None
    """IoU of the summed counts, averaged over the classes that occur in the labels; in [0, 1]."""
    pixel_accuracy: float | None
    """Share of correct pixels in [0, 1]."""
    per_class_iou: dict[str, float | None] | None
    """IoU in [0, 1] by class of the labels; None for a class that no label has."""
    unknown_share: float | None
    """Share of the labeled pixels that are unknown, in [0, 1]."""


class TaughtEntry(TaughtScores):
    """The classes that labels taught."""

    num_labeled_images: int
    """Number of images with labels."""
    positions_per_class: dict[str, int]
    """Number of labeled positions of each taught class."""
    lacking: list[str]
    """Classes with too few positions, which are left to the regions."""
    shrinkage: float
    """Number added to all variances, as a share of their mean."""
    temperature: float
    """Number that the logarithms of the densities were divided by."""
    left_out_mean_iou: float | None
    """mIoU in [0, 1] over positions of images that were left out in turn, with this shrinkage;
    None: none could be left out."""


class SecondsEntry(TypedDict):
    """Wall times in seconds, over all resumptions."""

    extract: float
    """Reading images and extracting features."""
    train: float
    """Training and aggregation."""
    evaluate: float
    """Scoring."""


class SkippedImage(TypedDict):
    """An image that could not be used."""

    site: str
    """Name of its site."""
    image: str
    """Its file name without suffix."""
    reason: str
    """Why it could not be used."""


class NoiseEntry(TypedDict):
    """What the noise in the sums of a run promises (differential privacy)."""

    protects: str
    """`image` or `site`."""
    epsilon: float
    """Of all exchanges together."""
    delta: float
    """Probability with which epsilon may be exceeded."""
    noise_multiplier: float
    """Standard deviation of the noise, in sensitivities."""
    exchanges: int
    """Number of exchanges that it is computed for."""
    assumes: str
    """What the promise rests on, in words."""


class Record(TypedDict):
    """All of `record.json`."""

    format_version: int
    """Version of this form."""
    name: str
    """Name of the run directory."""
    seed: int
    """Seed of the run."""
    command: str
    """Command that repeats the run, to be run in its directory."""
    versions: Versions
    """Software and hardware that results may depend on."""
    backbone: BackboneEntry
    """The backbone."""
    compute: NotRequired[ComputeEntry]
    """Device and precision of training; in a deployment, those of the server."""
    engine: str
    """`simulation`, or `flower` for a deployment."""
    strategy: str
    """As in `federation.strategy`."""
    num_clusters: int
    """Number of clusters, as in `model.num_clusters`."""
    num_regions: NotRequired[int]
    """Number of regions, K: smaller if clusters are merged. Missing in records of older runs, which
    have as many regions as clusters."""
    protocol: ProtocolEntry
    """How images were seen and scored."""
    settings: NotRequired[dict[str, Any]]
    """Settings that decide results, by dotted key."""
    num_images: NotRequired[int]
    """Images of all clients before round 1; only with `privacy.secure_sum`."""
    noise: NotRequired[NoiseEntry]
    """What the noise in sums promises; only with `privacy.noise`."""
    clients: list[ClientImages]
    """The clients of the federation, sorted by name."""
    anchor: NotRequired[str]
    """In `fusseg bench`, a baseline without training: `features` or `pca`."""
    start: NotRequired[StartEntry | None]
    """The saved model that training started from; None: the model was drawn at random, or there was
    no training."""
    adapted: NotRequired[AdaptedEntry | None]
    """What `fusseg adapt` did; None in a run that was trained."""
    hello: HelloEntry | None
    """What was agreed on before round 1; None before that, and in a baseline without training."""
    rounds: list[RoundEntry]
    """The finished rounds."""
    candidates: NotRequired[list[CandidateEntry]]
    """The models that the clients judged without labels, in their order; empty: none."""
    trained: ModelScores | None
    """Scores after training, before the Lloyd finish and the choice; None until then, or where
    there is neither."""
    final: ModelScores | None
    """Scores of the final model by regions; None until then."""
    taught: NotRequired[TaughtEntry | None]
    """The classes that labels taught, and their scores; None: none were."""
    seconds: SecondsEntry
    """Wall times in seconds."""
    skipped_images: list[SkippedImage]
    """Images that could not be used."""
    stored_values: NotRequired[list[StoredValues]]
    """Which values the files of some training images hold, by kind of file."""
