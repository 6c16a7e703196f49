"""A classifier from sums: linear discriminant analysis of the features at labeled positions (ours).

Features of a class are taken as normally distributed around the mean of the class, with one
covariance for all classes. Means and covariance are made of sums, so the classifier of a federation
is that of the pooled labels, in any partition. What sums do not give, how far the covariance is
shrunk and how sure the classifier may be, is chosen on images that are left out in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates for the number added to all variances, as a share of the mean variance."""
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Candidates for the number that divides the logarithms of the densities."""
USUAL_SHRINKAGE, USUAL_TEMPERATURE = 1.0, 8.0
"""Taken where no image can be left out."""
_SMALLEST_VARIANCE = 1e-9
"""Smallest variance that features are divided by, as a share of the mean variance."""
FEWEST_POSITIONS = 3
"""Labeled positions that a class needs; one with fewer is left to the regions."""


@dataclass(frozen=True)
class Classifier:
    """Linear functions of a centered feature, one per class; their softmax is the posterior."""

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    unknown_below: float = 0.0
    """Largest posterior below which a position is of no class, in [0, 1); 0: each is of one."""

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.bias)

    def logits(self, centered: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*positions c"]:
        """Compute the logarithm of each class's posterior, up to a constant of the position."""
        return centered @ self.weight.T + self.bias


def check_classifier(classifier: Classifier, num_classes: int, feature_dim: int) -> None:
    """Refuse a classifier that does not fit its classes and features.

    Raises:
        ValueError: If a shape or type is another, a value is not finite, there are fewer than 2
            classes, or the smallest posterior is not in [0, 1).
    """
    shapes = {
        "weight": (classifier.weight, (num_classes, feature_dim)),
        "bias": (classifier.bias, (num_classes,)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} of a classifier of shape {tuple(tensor.shape)}, not {shape}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of a classifier that is not finite")
    if num_classes < 2 or not 0 <= classifier.unknown_below < 1:
        raise ValueError(
            f"a classifier of {num_classes} classes that are unknown below a posterior of "
            f"{classifier.unknown_below}"
        )


@dataclass(frozen=True)
class ClassSums:
    """Sums over labeled positions; those of several images or clients can be added up."""

    counts: Int[Tensor, " classes"]
    """Number of labeled positions of each class."""
    first: Float[Tensor, "classes dim"]
    """Sum of their centered features, float64."""
    second: Float[Tensor, "dim dim"]
    """Sum of the outer products of all of them with themselves, float64."""

    def without(self, other: "ClassSums") -> "ClassSums":
        """Subtract the sums of some of these positions."""
        return ClassSums(
            self.counts - other.counts, self.first - other.first, self.second - other.second
        )


def sum_classes(
    centered: Float[Tensor, "positions dim"], labels: Int[Tensor, " positions"], num_classes: int
) -> ClassSums:
    """Sum labeled features by class.

    >>> sums = sum_classes(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1]), 2)
    >>> sums.counts, sums.first[1], sums.second[0]
    (tensor([0, 2]), tensor([4., 2.], dtype=torch.float64), tensor([10.,  2.], dtype=torch.float64))

    Args:
        centered: Features, minus the mean feature of the federation.
        labels: Class of each, below `num_classes`.
        num_classes: Number of classes, C.
    """
    exact = centered.double()
    first = torch.zeros(num_classes, centered.shape[1], dtype=torch.float64)
    return ClassSums(
        counts=torch.bincount(labels, minlength=num_classes),
        first=first.index_add_(0, labels, exact),
        second=exact.T @ exact,
    )


@dataclass(frozen=True)
class _Discriminant:
    """Class means and the eigenvectors of the covariance within the classes."""

    means: Float[Tensor, "classes dim"]
    variances: Float[Tensor, " dim"]
    directions: Float[Tensor, "dim dim"]
    """One per column."""
    known: Float[Tensor, " classes"]
    """0 for a class with positions, minus infinity for one without."""

    def shrunk(self, shrinkage: float) -> Float[Tensor, " dim"]:
        """Add `shrinkage` times the mean variance to all variances; none becomes 0."""
        mean = self.variances.mean()
        if not bool(mean > 0):
            return torch.ones_like(self.variances)
        return (self.variances + shrinkage * mean).clamp(min=_SMALLEST_VARIANCE * float(mean))

    def classifier(self, shrinkage: float) -> Classifier:
        """Solve for the weights with `shrinkage` times the mean variance added to all."""
        weight = self.means @ self.directions / self.shrunk(shrinkage) @ self.directions.T
        return Classifier(weight, self.known - (weight * self.means).sum(dim=1) / 2)


def fit_classifier(sums: ClassSums, shrinkage: float, temperature: float) -> Classifier:
    """Compute the linear discriminant of some sums.

    w_c = (S + r v I)^-1 m_c and b_c = -m_c w_c / 2, both divided by the temperature: S is the
    covariance within the classes, v its mean variance, r the shrinkage, m_c the mean of the class.
    All classes count as equally frequent.

    >>> left, right = torch.tensor([[-2.0], [-1.0]]), torch.tensor([[1.0], [2.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> found = fit_classifier(sum_classes(torch.cat([left, right]), labels, 2), 0.0, 1.0)
    >>> found.weight.flatten(), found.bias
    (tensor([-6.,  6.]), tensor([-4.5000, -4.5000]))

    Args:
        sums: Sums over all labeled positions; each class has some.
        shrinkage: r, from 0.
        temperature: Above 1, the posterior is less sure.
    """
    found = _discriminate(sums).classifier(shrinkage)
    return Classifier((found.weight / temperature).float(), (found.bias / temperature).float())


@dataclass(frozen=True)
class Trials:
    """How well positions of left-out images are classified, by the numbers to choose."""

    confusion: Int[Tensor, "shrinkages classes classes"]
    """Positions by found and by labeled class."""
    likelihood: Float[Tensor, "shrinkages temperatures"]
    """Sum of the logarithms of the posteriors of the labeled classes."""


def no_trials(num_classes: int) -> Trials:
    """Make the trials of no image."""
    shape = (len(SHRINKAGES), num_classes, num_classes)
    likelihood = torch.zeros(len(SHRINKAGES), len(TEMPERATURES), dtype=torch.float64)
    return Trials(torch.zeros(shape, dtype=torch.int64), likelihood)


def try_without(
    others: ClassSums, centered: Float[Tensor, "positions dim"], labels: Int[Tensor, " positions"]
) -> Trials:
    """Classify the labeled positions of an image by the sums of all other images.

    Positions of a class that only this image has are counted as wrong, and not in the likelihood.

    Args:
        others: Sums without those of this image.
        centered: Features of its labeled positions.
        labels: Their classes.
    """
    num_classes = len(others.counts)
    found, known = _discriminate(others), others.counts[labels] > 0
    trials = no_trials(num_classes)
    if not bool(known.any()):
        return trials
    # In the basis of the eigenvectors, another shrinkage takes no other product of this size.
    turned, means = centered.double() @ found.directions, found.means @ found.directions
    for place, shrinkage in enumerate(SHRINKAGES):
        weight = means / found.shrunk(shrinkage)
        bias = found.known - (weight * means).sum(dim=1) / 2
        logits = turned @ weight.T + bias
        pairs = logits.argmax(dim=1) * num_classes + labels
        trials.confusion[place] = torch.bincount(pairs, minlength=num_classes**2).reshape(
            num_classes, num_classes
        )
        for spot, temperature in enumerate(TEMPERATURES):
            own = (logits[known] / temperature).log_softmax(dim=1)
            trials.likelihood[place, spot] = own.gather(1, labels[known, None]).sum()
    return trials


def add_trials(one: Trials, other: Trials) -> Trials:
    """Add up trials of different images."""
    return Trials(one.confusion + other.confusion, one.likelihood + other.likelihood)


@dataclass(frozen=True)
class Chosen:
    """The numbers that a classifier is fitted with."""

    shrinkage: float
    temperature: float
    mean_iou: float | None
    """Mean IoU over the positions of left-out images; None: no image could be left out."""


def choose_numbers(trials: Trials) -> Chosen:
    """Choose the shrinkage of the largest mean IoU, then the temperature of the best posterior.

    Of equal ones the larger shrinkage is taken.
    """
    if not bool(trials.confusion.any()):
        return Chosen(USUAL_SHRINKAGE, USUAL_TEMPERATURE, None)
    scores = [_mean_iou(counts) for counts in trials.confusion]
    place = max(range(len(SHRINKAGES)), key=lambda number: (scores[number], SHRINKAGES[number]))
    temperature = TEMPERATURES[int(trials.likelihood[place].argmax())]
    return Chosen(SHRINKAGES[place], temperature, scores[place])


def lacking_classes(counts: Sequence[int]) -> list[int]:
    """List the classes that have too few labeled positions to be taught."""
    return [place for place, count in enumerate(counts) if count < FEWEST_POSITIONS]


def _mean_iou(confusion: Int[Tensor, "classes classes"]) -> float:
    counts = confusion.double()
    hits, labeled = counts.diagonal(), counts.sum(dim=0)
    iou = hits / (counts.sum(dim=1) + labeled - hits)
    return float(iou[labeled > 0].mean())


def _discriminate(sums: ClassSums) -> _Discriminant:
    counts = sums.counts.double()[:, None]
    means = torch.where(counts > 0, sums.first / counts.clamp(min=1), 0.0)
    within = sums.second - means.T @ (counts * means)
    within = within / counts.sum().clamp(min=1)
    variances, directions = torch.linalg.eigh((within + within.T) / 2)
    known = torch.where(sums.counts > 0, 0.0, -torch.inf).double()
    return _Discriminant(means, variances.clamp(min=0), directions, known)
