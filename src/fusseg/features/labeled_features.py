"""Features with the class of each position: what a client may teach, once it is asked to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fusseg.features.feature_set import FeatureSet, pool_features


@dataclass(frozen=True)
class LabeledFeatures:
    """Feature maps of labeled images, and the class of each of their positions."""

    features: FeatureSet
    labels: Int[Tensor, "images positions"]
    """Class of each position, row by row; below 0: it has no label."""
    classes: tuple[str, ...]
    """Names of the classes."""

    def images(
        self, mean_feature: Float[Tensor, " dim"], numbers: Sequence[int]
    ) -> Iterator[tuple[Float[Tensor, "labeled dim"], Int[Tensor, " labeled"]]]:
        """Read the labeled positions of each image: their centered features, and their classes.

        Args:
            mean_feature: Mean feature of the federation.
            numbers: Number that the federation gives to each class; below 0: it is not taught.
        """
        renumbered = torch.tensor([*numbers, -1])
        for image, labels in enumerate(self.labels):
            # An index of -1 is the last entry.
            classes = renumbered[labels]
            known = classes >= 0
            features = self.features.feature_map(image).flatten(0, 1)
            yield features[known] - mean_feature, classes[known]


def pool_labeled(parts: Sequence[LabeledFeatures]) -> LabeledFeatures:
    """View several sets with the same classes as one, in the given order."""
    return LabeledFeatures(
        features=pool_features([part.features for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        classes=parts[0].classes,
    )
