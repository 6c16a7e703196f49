"""The trainable projection from backbone features to codes."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

HeadWeights = dict[str, Tensor]
"""State dict of a `SegmentationHead`."""


class SegmentationHead(nn.Module):
    """Sum of a linear and a two-layer projection (STEGO, Fig. 3; method section 1).

    The paper uses 1x1 convolutions over maps. Linear layers over the last dimension do the same
    arithmetic on any set of positions, so training projects only the positions it samples.

    Attributes:
        feature_dim: Channels of the backbone's features (D').
        code_dim: Channels of the code (D).
    """

    def __init__(self, feature_dim: int, code_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.code_dim = code_dim
        self.linear = nn.Linear(feature_dim, code_dim)
        self.hidden = nn.Linear(feature_dim, feature_dim)
        self.output = nn.Linear(feature_dim, code_dim)

    def forward(
        self, features: Float[Tensor, "*positions dim"]
    ) -> Float[Tensor, "*positions code"]:
        """Project features to codes, position by position."""
        return project(dict(self.named_parameters()), features)


def project(
    weights: HeadWeights, features: Float[Tensor, "*positions dim"]
) -> Float[Tensor, "*positions code"]:
    """Project features to codes with a head's weights; both have the same precision."""
    code = linear(features, weights["linear.weight"], weights["linear.bias"])
    hidden = linear(features, weights["hidden.weight"], weights["hidden.bias"]).relu_()
    return code + linear(hidden, weights["output.weight"], weights["output.bias"])


@torch.no_grad()
def apply_head(
    head: SegmentationHead, features: Float[Tensor, "*positions dim"]
) -> Float[Tensor, "*positions code"]:
    """Project features to codes without gradients.

    As long as the output weights are zero, the hidden layer, which takes most of the time, is left
    out: it adds nothing.
    """
    if bool(head.output.weight.any()) or bool(head.output.bias.any()):
        codes: Tensor = head(features)
        return codes
    return linear(features, head.linear.weight, head.linear.bias)


def narrow(weights: HeadWeights, precision: torch.dtype) -> HeadWeights:
    """Cast weights to the precision of a product; gradients keep the weights' own precision."""
    return {name: weight.to(precision) for name, weight in weights.items()}


def initial_head(feature_dim: int, code_dim: int, generator: Generator) -> HeadWeights:
    """Draw the initial weights for all clients: uniform in +-1/sqrt(fan-in), torch's default."""
    bound = 1 / math.sqrt(feature_dim)
    head = SegmentationHead(feature_dim, code_dim)
    return {
        name: torch.empty_like(weight).uniform_(-bound, bound, generator=generator)
        for name, weight in head.state_dict().items()
    }


def linear_head(
    projection: Float[Tensor, "code dim"], offset: Float[Tensor, " code"], drawn: HeadWeights
) -> HeadWeights:
    """Make a head that is a linear projection until it is trained.

    The hidden layer is random and its output weights are zero, so the codes are those of the
    projection. Gradients reach the output weights in the first step and the hidden layer from the
    second step on. If both were zero, no gradient would ever reach either.

    Args:
        projection: Matrix that maps features to codes.
        offset: Added to the codes.
        drawn: Randomly drawn head of the same sizes; its hidden layer is used.
    """
    return {
        "linear.weight": projection.float().contiguous(),
        "linear.bias": offset.float(),
        "hidden.weight": drawn["hidden.weight"],
        "hidden.bias": drawn["hidden.bias"],
        "output.weight": torch.zeros_like(drawn["output.weight"]),
        "output.bias": torch.zeros_like(drawn["output.bias"]),
    }


def wake_hidden(weights: HeadWeights, drawn: HeadWeights) -> HeadWeights:
    """Replace an all-zero hidden layer, which no gradient reaches; return other heads unchanged.

    Args:
        weights: Weights of a head. Older runs of federated PCA and of the baselines were saved with
            a hidden layer and output weights of zero.
        drawn: Randomly drawn head of the same sizes; its hidden layer is used.

    Returns:
        A head that computes the same codes.
    """
    if any(bool(weights[name].any()) for name in ("hidden.weight", "hidden.bias", "output.weight")):
        return weights
    return weights | {name: drawn[name] for name in ("hidden.weight", "hidden.bias")}


def build_head(weights: HeadWeights) -> SegmentationHead:
    """Make a trainable head with a copy of the given weights."""
    code_dim, feature_dim = weights["linear.weight"].shape
    head = SegmentationHead(feature_dim, code_dim)
    head.load_state_dict(weights)
    return head
