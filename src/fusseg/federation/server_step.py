"""The server's step: from the head towards the average of the clients' heads (FedOpt).

Adaptive Federated Optimization (arXiv 2003.00295), Algorithms 1 and 2: the change from the head to
the average stands in for a gradient. An optimizer's running averages are in float64, belong to the
server's state, and are never sent.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Float64
from torch import Tensor

from fusseg.config.schema import ServerOptimizer
from fusseg.core.errors import FederationError
from fusseg.federation.protocol import Protocol
from fusseg.federation.state import GlobalState
from fusseg.segmentation.head import HeadWeights

SQUARE_DECAY = 0.99
"""Adam: share of the average of squared changes that stays in a round, beta2 of the paper."""
TAU = 1e-3
"""Adam: added to the root of that average, which starts at its square; the paper's value."""
LARGEST_ADAM_RATE = 0.1
"""Adam: largest `federation.server_learning_rate`, about how far every weight moves in a round; the
weights of a new head are about as large."""

Averages = Mapping[str, Float64[Tensor, "..."]]
"""An optimizer's running averages of one weight, by name; empty before the first step."""
Step = tuple[Float64[Tensor, "..."], Averages]
"""What the learning rate scales, and the new averages."""


def step_server(
    state: GlobalState, average: HeadWeights, protocol: Protocol
) -> tuple[HeadWeights, dict[str, HeadWeights]]:
    """Move the head towards the clients' average.

    Args:
        state: State before the clients trained, with what the optimizer kept.
        average: Average of the clients' heads.
        protocol: Optimizer, learning rate and momentum.

    Returns:
        The next head, and what the optimizer keeps. Optimizer `none` with a learning rate of 1
        returns the average itself, to the last bit.

    Raises:
        FederationError: If the next head is not finite.
    """
    rate = protocol.server_learning_rate
    if protocol.server_optimizer == "none" and rate == 1:
        return average, {}
    take_step = _OPTIMIZERS[protocol.server_optimizer]
    moved: HeadWeights = {}
    kept: dict[str, HeadWeights] = {}
    for name, old in state.model.head.items():
        change = average[name].double() - old.double()
        before = {kind: weights[name] for kind, weights in state.optimizer.items()}
        step, after = take_step(change, before, protocol.server_momentum)
        moved[name] = (old.double() + rate * step).to(old.dtype)
        for kind, average_of in after.items():
            kept.setdefault(kind, {})[name] = average_of
        if not bool(moved[name].isfinite().all()):
            raise FederationError(
                f"the server's step of round {state.round_number + 1} made weights of head.{name} "
                f"that are not finite; lower federation.server_learning_rate ({rate})"
            )
    return moved, kept


def _keep_nothing(change: Float[Tensor, "..."], _averages: Averages, _momentum: float) -> Step:
    return change, {}


def _add_momentum(change: Float[Tensor, "..."], averages: Averages, momentum: float) -> Step:
    """FedAvgM (arXiv 1909.06335): m <- momentum m + change."""
    velocity = momentum * averages.get("velocity", 0.0) + change
    return velocity, {"velocity": velocity}


def _adapt(change: Float[Tensor, "..."], averages: Averages, momentum: float) -> Step:
    """FedAdam (Algorithm 2), without bias correction: m / (sqrt(v) + tau), with v from tau^2."""
    mean = momentum * averages.get("mean", 0.0) + (1 - momentum) * change
    square = SQUARE_DECAY * averages.get("square", TAU**2) + (1 - SQUARE_DECAY) * change.square()
    return mean / (square.sqrt() + TAU), {"mean": mean, "square": square}


_OPTIMIZERS: dict[ServerOptimizer, Callable[[Float[Tensor, "..."], Averages, float], Step]] = {
    "none": _keep_nothing,
    "momentum": _add_momentum,
    "adam": _adapt,
}
