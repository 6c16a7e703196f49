"""Terms that keep a client's head close to the received one: FedProx and FedMOON."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, softplus

from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.objective import LocalTraining


@dataclass(frozen=True)
class References:
    """Frozen heads that a head in training is compared with."""

    received: HeadWeights
    """Head received from the server at the start of this round."""
    previous: HeadWeights | None
    """The client's own head after its previous round; None in its first."""


def regularization(
    weights: HeadWeights,
    inputs: Float[Tensor, "*positions dim"],
    codes: Float[Tensor, "*positions code"],
    references: References,
    local: LocalTraining,
) -> Float[Tensor, ""]:
    """Compute the weighted sum of the enabled terms (method section 3).

    Args:
        weights: Head in training.
        inputs: Input of the head, after dropout; the frozen heads get the same input.
        codes: Output of the head.
        references: The frozen heads.
        local: Weights of the terms, and temperature.
    """
    total = codes.new_zeros(())
    if local.fedprox_weight > 0:
        total = total + local.fedprox_weight / 2 * proximal_term(weights, references.received)
    if local.fedmoon_weight > 0 and references.previous is not None:
        with torch.no_grad():
            received = project(narrow(references.received, inputs.dtype), inputs).to(codes.dtype)
            previous = project(narrow(references.previous, inputs.dtype), inputs).to(codes.dtype)
        contrast = contrastive_term(codes, received, previous, local.fedmoon_temperature)
        total = total + local.fedmoon_weight * contrast
    return total


def proximal_term(weights: HeadWeights, received: HeadWeights) -> Float[Tensor, ""]:
    """Squared distance of all weights to the received ones (FedProx, arXiv 1812.06127, Eq. 2)."""
    distances = [(own - received[name]).square().sum() for name, own in weights.items()]
    return torch.stack(distances).sum()


def contrastive_term(
    codes: Float[Tensor, "*positions code"],
    received: Float[Tensor, "*positions code"],
    previous: Float[Tensor, "*positions code"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Pull codes to the received head's and away from the previous one's (MOON, 2103.16257, Eq. 3).

    The paper's -log(e^a / (e^a + e^b)) is softplus(b - a), which cannot overflow.

    >>> codes = torch.tensor([[1.0, 0.0]])
    >>> contrastive_term(codes, codes, codes, temperature=0.5)
    tensor(0.6931)

    Args:
        codes: Codes of the head in training.
        received: Codes of the head sent by the server, at the same positions.
        previous: Codes of the client's own head after its previous round.
        temperature: Divides both cosines; above 0.

    Returns:
        Mean over all positions; ln 2 where both frozen heads agree.
    """
    near = cosine_similarity(codes, received, dim=-1) / temperature
    far = cosine_similarity(codes, previous, dim=-1) / temperature
    return softplus(far - near).mean()
