"""How much of the labels a linear classifier finds in frozen features; for context only."""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from fusseg.core.errors import DataError
from fusseg.evaluation.scores import Scores, count_pixels, score


@runtime_checkable
class Maps(Protocol):
    """One array per image: a list, a stacked array, or an object that computes them on access."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, image: int, /) -> Any:  # noqa: ANN401 - whatever numpy indexing returns
        """Read one image's array."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the probe is trained."""

    num_positions: int = 80_000
    """Number of labeled positions drawn from all training images."""
    max_iterations: int = 100
    """Most iterations of L-BFGS; the score converges long before the weights do."""
    seed: int = 0


def linear_probe(
    train: tuple[Maps, Maps],
    test: tuple[Maps, Maps],
    num_classes: int,
    config: ProbeConfig | None = None,
) -> Scores:
    """Train a softmax regression on labeled positions and score it on other images.

    Features are standardized by the drawn positions. Maps are read image by image, so memory-mapped
    features of any number of images fit in memory. Images may differ in height and width.

    Args:
        train: Feature maps of shape dim x h x w, and the class of each position, h x w; positions
            with a label of `num_classes` or above are ignored.
        test: Feature maps and classes of the images to score.
        num_classes: Number of classes, C.
        config: Number of positions, iterations and seed; None: the defaults.

    Returns:
        Scores over the positions of all test images, from summed counts.

    Raises:
        DataError: If the labeled training positions have fewer than two classes, or no test
            position is labeled.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    config = config or ProbeConfig()
    rows, labels = _draw_positions(*train, num_classes, config)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"a probe needs labels of at least 2 classes, got {np.unique(labels).tolist()}"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=config.max_iterations))
    with warnings.catch_warnings():
        # The number of iterations is a budget here, not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(rows, labels)

    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    maps, truths = test
    for image in range(len(truths)):
        predicted = probe.predict(_positions(maps[image])).astype(np.uint8)
        confusion += count_pixels(
            torch.from_numpy(predicted),
            torch.from_numpy(truths[image].reshape(-1)),
            num_classes,
            num_classes,
        )
    if confusion.sum() == 0:
        raise DataError("a probe needs labeled positions to be scored on, got none")
    return score(confusion, matching=torch.arange(num_classes))


def majority_labels(
    mask: UInt8[np.ndarray, "height width"], stride: int
) -> UInt8[np.ndarray, "h w"]:
    """Assign each position the most frequent value of its cell of pixels, the lowest in a tie.

    >>> majority_labels(np.array([[1, 1, 2, 3], [1, 0, 2, 3]], np.uint8), stride=2)
    array([[1, 2]], dtype=uint8)

    Args:
        mask: Class of each pixel; both sides are multiples of the stride.
        stride: Pixels per position.
    """
    height, width = mask.shape[0] // stride, mask.shape[1] // stride
    cells = mask.reshape(height, stride, width, stride).swapaxes(1, 2).reshape(height, width, -1)
    values = np.unique(mask)
    counts = np.stack([(cells == value).sum(axis=2) for value in values])
    return np.asarray(values[counts.argmax(axis=0)])


def _positions(
    features: Float[np.ndarray, "dim h w"],
) -> Float[np.ndarray, "positions dim"]:
    return features.reshape(features.shape[0], -1).T.astype(np.float32)


def _draw_positions(
    maps: Maps, labels: Maps, num_classes: int, config: ProbeConfig
) -> tuple[Float[np.ndarray, "rows dim"], Int[np.ndarray, " rows"]]:
    """Draw labeled positions of all images without replacement."""
    flat = [labels[image].reshape(-1) for image in range(len(labels))]
    found = [np.flatnonzero(classes < num_classes) for classes in flat]
    image = np.repeat(np.arange(len(found)), [len(positions) for positions in found])
    position = np.concatenate(found)
    generator = np.random.default_rng(config.seed)
    count = min(config.num_positions, len(image))
    drawn = np.sort(generator.choice(len(image), count, replace=False))
    image, position = image[drawn], position[drawn]
    # Image by image, so that a memory map is read once and in order.
    used = np.unique(image).tolist()
    rows = [_positions(maps[one])[position[image == one]] for one in used]
    picked = [flat[one][position[image == one]].astype(np.int64) for one in used]
    if not rows:
        return np.empty((0, 1), np.float32), np.empty(0, np.int64)
    return np.concatenate(rows), np.concatenate(picked)
