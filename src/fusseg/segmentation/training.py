"""Train head and centroids on the features of one client, or of several at once (section 3)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fusseg.compute import EXACT, Compute
from fusseg.config import LocalConfig
from fusseg.features.resident import FeatureSource
from fusseg.segmentation.adam import Adam
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Objective, step_losses
from fusseg.segmentation.regularizers import References, regularizes
from fusseg.segmentation.sampling import Batch, Places, draw_kept, draw_places, query_batches
from fusseg.segmentation.shifts import Shift
from fusseg.segmentation.stacking import stack, stack_heads, unstack, unstack_heads


@dataclass(frozen=True)
class Model:
    """What is trained: the head's weights and the centroids."""

    head: HeadWeights
    centroids: Float[Tensor, "clusters code"]


@dataclass(frozen=True)
class TrainingPlan:
    """What all clients agreed on before round 1 (method section 2)."""

    num_steps: int
    """Optimizer steps per round, the same for every client."""
    mean_feature: Float[Tensor, " dim"]
    """Subtracted from every feature; zeros where nothing is centered."""
    shift: Shift


@dataclass(frozen=True)
class Trainee:
    """One client at the start of a round."""

    model: Model
    """Where training starts; left as it is."""
    features: FeatureSource
    nearest: Int[Tensor, "images neighbors"]
    """Nearest images of each image."""
    generator: Generator
    """The client's random source of this round."""
    previous: HeadWeights | None = None
    """The client's own head after its previous round, for FedMOON; None in its first."""


def train(
    trainee: Trainee, plan: TrainingPlan, local: LocalConfig, compute: Compute = EXACT
) -> tuple[Model, float]:
    """Train one client for one round, with fresh optimizers.

    Args:
        trainee: Whose images, and where training starts.
        plan: Number of steps, mean feature and shifts.
        local: Everything else about a step.
        compute: Device and precision.

    Returns:
        The trained model and the mean loss over the steps (Eq. 7).
    """
    return train_together([trainee], plan, local, compute)[0]


def train_together(
    trainees: Sequence[Trainee], plan: TrainingPlan, local: LocalConfig, compute: Compute = EXACT
) -> list[tuple[Model, float]]:
    """Train clients side by side: their weights are stacked, and one step advances all of them.

    Nothing crosses from one client to another, and each draws from its own random source, so that
    the results are those of `train` to rounding.

    Args:
        trainees: At least one; all or none with a previous head.
        plan: As in `train`.
        local: See there.
        compute: See there.

    Returns:
        As `train`, of each client in the given order.
    """
    starts = stack_heads([trainee.model.head for trainee in trainees], compute)
    weights = {name: start.clone().requires_grad_(True) for name, start in starts.items()}
    centroids = stack([trainee.model.centroids for trainee in trainees], compute).clone()
    centroids.requires_grad_(True)
    frozen = tuple(_frozen(trainees, local, compute))
    # Both give the same to the last bit or two: the fused one is fast, the other the reference.
    fused = compute != EXACT
    optimizers = (
        Adam(weights.values(), local.head_learning_rate, fused=fused),
        Adam([centroids], local.centroid_learning_rate, fused=fused),
    )
    losses_of = _losses(plan, local, compute, together=len(trainees) > 1)
    mean_feature = plan.mean_feature.to(compute.device)
    steps = [_draw_steps(trainee, local) for trainee in trainees]
    losses = []
    for _ in range(plan.num_steps):
        drawn = _gather(trainees, [next(step) for step in steps], mean_feature, compute)
        head_loss, centroid_loss = losses_of(weights, centroids, drawn, frozen)
        (head_loss + centroid_loss).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        # Read at the end: a device need not wait for the host in every step.
        losses.append(torch.stack([head_loss, centroid_loss], dim=-1).detach().reshape(-1, 2))
    heads = unstack_heads(weights, len(trainees))
    models = map(Model, heads, unstack(centroids, len(trainees)))
    return list(zip(models, _mean_losses(torch.stack(losses)), strict=True))


_Drawn = tuple[Tensor, Tensor, Tensor]
"""Features, partners and kept channels of one step."""
_Frozen = tuple[HeadWeights, ...]
"""No head, the received one, or the received and the client's own previous one."""
_Losses = Callable[[HeadWeights, Tensor, _Drawn, _Frozen], tuple[Tensor, Tensor]]


def _losses(plan: TrainingPlan, local: LocalConfig, compute: Compute, *, together: bool) -> _Losses:
    """Bind what is the same in all steps; together: for stacked clients, a loss for each."""
    objective = Objective(plan.shift, local, compute.precision)

    def losses_of(
        weights: HeadWeights, centroids: Tensor, drawn: _Drawn, frozen: _Frozen
    ) -> tuple[Tensor, Tensor]:
        features, partners, kept = drawn
        references = (
            None if not frozen else References(frozen[0], frozen[1] if frozen[1:] else None)
        )
        batch = Batch(features, partners)
        return step_losses(weights, centroids, batch, kept, references, objective)

    return torch.func.vmap(losses_of) if together else losses_of


def _mean_losses(losses: Float[Tensor, "steps clients 2"]) -> list[float]:
    """Average each client's two losses over the steps."""
    means = []
    for steps in losses.movedim(1, 0).tolist():
        total = 0.0
        for head_loss, centroid_loss in steps:
            total += head_loss + centroid_loss
        means.append(total / len(steps))
    return means


def _draw_steps(trainee: Trainee, local: LocalConfig) -> Iterator[tuple[Places, Tensor]]:
    """Draw what a client's steps look at, without end, and the channels that they keep."""
    height, width, dim = trainee.features.map_shape
    generator = trainee.generator
    for queries in query_batches(len(trainee.features), local.batch_size, generator):
        places = draw_places(trainee.nearest, queries, height * width, local, generator)
        yield places, draw_kept(len(places.images), dim, local.dropout, generator)


def _gather(
    trainees: Sequence[Trainee],
    steps: Sequence[tuple[Places, Tensor]],
    mean_feature: Float[Tensor, " dim"],
    compute: Compute,
) -> _Drawn:
    """Bring one step of all clients to the device."""
    sampled = [
        trainee.features.gather(places.images, places.positions)
        for trainee, (places, _) in zip(trainees, steps, strict=True)
    ]
    return (
        stack(sampled, compute).sub_(mean_feature),
        stack([places.partners for places, _ in steps], compute),
        stack([kept for _, kept in steps], compute),
    )


def _frozen(
    trainees: Sequence[Trainee], local: LocalConfig, compute: Compute
) -> Iterator[HeadWeights]:
    if not regularizes(local):
        return
    yield stack_heads([trainee.model.head for trainee in trainees], compute)
    previous = [trainee.previous for trainee in trainees if trainee.previous is not None]
    if previous:
        yield stack_heads(previous, compute)
