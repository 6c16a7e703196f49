"""Data exchanged between server and clients, and data that stays with a client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fusseg.config.compute import EXACT, Compute
from fusseg.features.feature_set import FeatureSet
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.segmentation.classifier import Chosen, Classifier
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Model, Numbers
from fusseg.segmentation.training import TrainingPlan


@dataclass(frozen=True)
class Client:
    """A participant and the features of its private images."""

    client_id: str
    features: FeatureSet
    cache: Path
    """Folder of cached data, such as nearest neighbors."""
    compute: Compute = EXACT
    """Device and precision of its training."""
    zoomed: FeatureSet | None = None
    """Zoomed views of some of these images, for the judge; None: there are none."""
    labeled: LabeledFeatures | None = None
    """Those of these images that have labels, for teaching; None: it has none, or none is asked
    for. Training does not read them."""


@dataclass(frozen=True)
class Candidate:
    """A model that the clients judged without labels, and the two figures of the judge."""

    name: str
    agreement: float
    """Agreement of its regions in an image and in the image's zoomed view, in [0, 1]; 0 without
    zoomed views."""
    margin: float
    """Mean margin of its regions in cosine, in [0, 2]."""
    kept: bool
    """Whether it is the best so far."""


@dataclass(frozen=True)
class Taught:
    """The classes that labels have taught, and what they were taught from."""

    names: tuple[str, ...]
    """Names of the classes, in the order of the classifier."""
    lacking: tuple[str, ...]
    """Names of the classes with too few labeled positions, which are left to the regions."""
    positions: tuple[int, ...]
    """Number of labeled positions of each class."""
    num_images: int
    """Number of labeled images."""
    chosen: Chosen
    classifier: Classifier | None = None
    """None: fewer than two classes have enough positions."""


@dataclass(frozen=True)
class GlobalState:
    """The model that the server sends in a round, the plan before round 1, and what it keeps."""

    round_number: int
    """Number of the last finished round. Before the first round it is 0, or -1 if there is a round
    0 that computes the start."""
    model: Model
    plan: TrainingPlan
    candidates: tuple[Candidate, ...] = ()
    """Models that were judged, in their order."""
    kept: Model | None = None
    """The best of them; stays on the server."""
    starts: tuple[Model, ...] = ()
    """Starts of round 0, only while they are computed side by side."""
    optimizer: Mapping[str, HeadWeights] = field(default_factory=dict)
    """Running averages of the server's optimizer by name, float64; never sent."""
    class_sums: Mapping[str, Tensor] = field(default_factory=dict)
    """Class statistics of all clients, only while a classifier is made from them."""
    taught: Taught | None = None
    """None: no class was taught."""


@dataclass(frozen=True)
class Hello:
    """A client's answer before round 1 (method section 2)."""

    client_id: str
    num_images: int
    feature_sum: Float[Tensor, " dim"]
    """Sum of the client's feature vectors, float64."""
    feature_count: int
    numbers: Numbers
    """The client's own estimates for the objective; empty if the configuration gives them."""
    fingerprint: str
    """Fingerprint of the backbone."""
    version: str
    """Version of this package."""
    feature_spread: float
    """Standard deviation of the client's feature vectors around their mean."""
    classes: tuple[str, ...] = ()
    """Names of the classes of its labels; empty: it has none, or none is asked for."""


@dataclass(frozen=True)
class OpenHello:
    """What no sum hides of a hello: nothing that depends on images, but the names of classes."""

    client_id: str
    fingerprint: str
    """Fingerprint of the backbone."""
    version: str
    """Version of this package."""
    classes: tuple[str, ...] = ()
    """Names of the classes of its labels; empty: it has none, or none is asked for."""


@dataclass(frozen=True)
class ClientUpdate:
    """A client's answer to a task."""

    client_id: str
    num_images: int
    """Number of the client's images, which is its weight in averages."""
    loss: float | None = None
    """Mean loss over the round's steps; None if the task does not train."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by the names of the task's `Part`s."""


@dataclass(frozen=True)
class Memory:
    """Data that a client keeps between rounds and never sends."""

    model: Model
    """The client's own model after its last round."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors kept for the objective."""


@dataclass(frozen=True)
class HelloTotal:
    """The sums of the clients' hellos: all that the server learns with `privacy.secure_sum`."""

    classes_of: Mapping[str, tuple[str, ...]]
    """Names of the classes of each client's labels, by client, sorted; these are no sum."""
    num_images: int
    """Number of images of all clients."""
    feature_sum: Float[Tensor, " dim"]
    """Sum of all feature vectors, float64."""
    feature_count: int
    numbers: Numbers
    """The clients' estimates for the objective, averaged by their images."""


@dataclass(frozen=True)
class Total:
    """The sum of the clients' updates: all that the server learns with `privacy.secure_sum`."""

    client_ids: tuple[str, ...]
    """Clients whose terms are in the sum, sorted."""
    num_images: int
    """Number of images of all these clients."""
    loss: float | None
    """Mean loss over their images; None if the task does not train."""
    parts: Mapping[str, Tensor]
    """Sums, and averages by the clients' weights, by the names of the task's `Part`s."""
    collected: Mapping[str, Mapping[str, Tensor]]
    """Parts that are not summed, by client; empty if all are."""
