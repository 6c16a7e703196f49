"""Train head and centroids on the features of one client, or of several at once (section 3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fusseg.config.compute import EXACT, Compute
from fusseg.features.resident import FeatureSource
from fusseg.segmentation.adam import Adam
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Draw, LocalTraining, Model, Numbers, Step
from fusseg.segmentation.regularizers import References, regularization

_SHARE_OF_FREE_MEMORY = 0.5
"""Share of the device's free memory for the clients of one step, excluding their features."""


ClassNames = tuple[tuple[str, tuple[str, ...]], ...]
"""Each class that is taught, with all names that clients use for it."""


@dataclass(frozen=True)
class TrainingPlan:
    """Values that all clients agreed on before round 1 (method section 2)."""

    num_steps: int
    """Optimizer steps per round, the same for every client."""
    mean_feature: Float[Tensor, " dim"]
    """Subtracted from every feature; zeros if features are not centered."""
    agreed: Numbers
    """Numbers of the objective, by name, such as STEGO's three shifts."""
    classes: ClassNames = ()
    """Classes of the clients' labels; empty: none is taught. Training does not use them."""


@dataclass(frozen=True)
class Trainee:
    """One client at the start of a round."""

    model: Model
    """Model to start from; it is not changed."""
    features: FeatureSource
    prepared: Any
    """Result of the objective's `prepare` for the client's images."""
    generator: Generator
    """The client's random source of this round."""
    previous: HeadWeights | None = None
    """The client's own head after its previous round, for FedMOON; None in its first."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """Other tensors the client keeps for the objective; empty in its first round."""
    used: Bool[Tensor, " clusters"] | None = None
    """Clusters whose centroids are trained; the others stay as they are. None: all."""


@dataclass(frozen=True)
class Trained:
    """Result of a round of training for one client."""

    model: Model
    loss: float
    """Mean over the steps (Eq. 7)."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors the client keeps for its next round."""
    used: Bool[Tensor, " clusters"] | None = None
    """Clusters whose centroids were trained; None: all."""


def train(
    trainee: Trainee, plan: TrainingPlan, local: LocalTraining, compute: Compute = EXACT
) -> Trained:
    """Train one client for one round, with fresh optimizers.

    Args:
        trainee: The client's images, and the model to start from.
        plan: Number of steps, mean feature and agreed numbers.
        local: Objective, and all other settings of a step.
        compute: Device and precision.
    """
    return train_together([trainee], plan, local, compute)[0]


def train_together(
    trainees: Sequence[Trainee],
    plan: TrainingPlan,
    local: LocalTraining,
    compute: Compute = EXACT,
) -> list[Trained]:
    """Train clients side by side: their weights are stacked, and each step updates all of them.

    No information passes between clients and each has its own random source, so the results equal
    those of `train` up to rounding.

    Args:
        trainees: At least one; either all or none have a previous head, and name their clusters.
        plan: As in `train`.
        local: As in `train`.
        compute: As in `train`.

    Returns:
        The result of each client, in the given order.
    """
    count, together = len(trainees), len(trainees) > 1
    starts = stack_named([trainee.model.head for trainee in trainees], compute)
    trains_head = local.objective.trains_head
    weights = {name: start.clone().requires_grad_(trains_head) for name, start in starts.items()}
    centroids = stack([trainee.model.centroids for trainee in trainees], compute).clone()
    centroids.requires_grad_(True)
    frozen = tuple(_frozen(trainees, local, compute))
    marks = [trainee.used for trainee in trainees if trainee.used is not None]
    used = stack(marks, compute)[..., None] if marks else None
    # Both give the same to the last bit or two: the fused one is fast, the other the reference.
    fused = compute != EXACT
    optimizers = [Adam([centroids], local.centroid_learning_rate, fused=fused)]
    if trains_head:
        optimizers.append(Adam(weights.values(), local.head_learning_rate, fused=fused))
    losses_of = _losses(plan, local, compute, together=together)
    carried, follow = _begin_carry(trainees, local, compute), _follow(local, together=together)
    mean_feature = plan.mean_feature.to(compute.device)
    steps = [_draw_steps(trainee, local) for trainee in trainees]
    losses = []
    for _ in range(plan.num_steps):
        features, drawn = _gather(trainees, [next(step) for step in steps], mean_feature, compute)
        head_loss, centroid_loss = losses_of(weights, centroids, features, drawn, carried, frozen)
        (head_loss + centroid_loss).sum().backward()  # type: ignore[no-untyped-call]
        if used is not None and centroids.grad is not None:
            centroids.grad.mul_(used)
        for optimizer in optimizers:
            optimizer.step()
        carried = follow(carried, weights, centroids)
        # Read at the end: a device need not wait for the host in every step.
        losses.append(torch.stack([head_loss, centroid_loss], dim=-1).detach().reshape(-1, 2))
    # The map of clusters to regions is not trained.
    models = map(
        Model,
        unstack_named(weights, count),
        unstack(centroids, count),
        [trainee.model.region_of for trainee in trainees],
    )
    parts = zip(
        models, _mean_losses(torch.stack(losses)), unstack_named(carried, count), strict=True
    )
    return [
        Trained(model, loss, kept, trainee.used)
        for trainee, (model, loss, kept) in zip(trainees, parts, strict=True)
    ]


_Frozen = tuple[HeadWeights, ...]
"""No head, the received one, or the received and the client's own previous one."""
_Losses = Callable[..., tuple[Tensor, Tensor]]
_Named = Mapping[str, Tensor]


def _losses(
    plan: TrainingPlan, local: LocalTraining, compute: Compute, *, together: bool
) -> _Losses:
    """Bind the arguments shared by all steps; `together`: compute a loss per stacked client."""
    objective = local.objective

    def losses_of(
        weights: HeadWeights,
        centroids: Tensor,
        features: Tensor,
        drawn: _Named,
        carried: _Named,
        frozen: _Frozen,
    ) -> tuple[Tensor, Tensor]:
        step = Step(features, drawn, carried)
        found = objective.loss(
            weights, centroids, step, plan.agreed, local.settings, compute.precision
        )
        if not frozen:
            return found.head, found.centroids
        references = References(frozen[0], frozen[1] if frozen[1:] else None)
        held = regularization(weights, found.inputs, found.codes, references, local)
        return found.head + held, found.centroids

    return torch.func.vmap(losses_of) if together else losses_of


def _begin_carry(
    trainees: Sequence[Trainee], local: LocalTraining, compute: Compute
) -> dict[str, Tensor]:
    carry = local.objective.carry
    if carry is None:
        return {}
    begun = [carry.begin(one.model, one.carried, local.settings) for one in trainees]
    return stack_named(begun, compute)


def _follow(
    local: LocalTraining, *, together: bool
) -> Callable[[_Named, HeadWeights, Tensor], dict[str, Tensor]]:
    """Bind the function that updates the carried tensors after a step."""
    carry = local.objective.carry
    if carry is None:
        return lambda carried, _weights, _centroids: dict(carried)

    def follow(carried: _Named, weights: HeadWeights, centroids: Tensor) -> dict[str, Tensor]:
        followed = carry.follow(carried, weights, centroids, local.settings)
        # The next step trains head and centroids in place: what is kept of them must not move.
        return {name: tensor.clone() for name, tensor in followed.items()}

    return torch.no_grad()(torch.func.vmap(follow) if together else follow)


def _mean_losses(losses: Float[Tensor, "steps clients 2"]) -> list[float]:
    """Average each client's two losses over the steps."""
    means = []
    for steps in losses.movedim(1, 0).tolist():
        total = 0.0
        for head_loss, centroid_loss in steps:
            total += head_loss + centroid_loss
        means.append(total / len(steps))
    return means


def _draw_steps(trainee: Trainee, local: LocalTraining) -> Iterator[Draw]:
    features = trainee.features
    return local.objective.draw(
        len(features), features.map_shape, trainee.prepared, local, trainee.generator
    )


def _gather(
    trainees: Sequence[Trainee],
    steps: Sequence[Draw],
    mean_feature: Float[Tensor, " dim"],
    compute: Compute,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Copy one step of all clients to the device."""
    sampled = [
        trainee.features.gather(step.images, step.positions)
        for trainee, step in zip(trainees, steps, strict=True)
    ]
    drawn = stack_named([step.tensors for step in steps], compute)
    return stack(sampled, compute).sub_(mean_feature), drawn


def _frozen(
    trainees: Sequence[Trainee], local: LocalTraining, compute: Compute
) -> Iterator[HeadWeights]:
    if not local.regularizes:
        return
    yield stack_named([trainee.model.head for trainee in trainees], compute)
    previous = [trainee.previous for trainee in trainees if trainee.previous is not None]
    if previous:
        yield stack_named(previous, compute)


def stack(tensors: Sequence[Tensor], compute: Compute) -> Tensor:
    """Stack the clients' tensors along a new first dimension, on the device.

    The tensor of a single client gets no new dimension, so it is trained as if alone.
    """
    joined = tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))
    return compute.send(joined)


def stack_named(tensors: Sequence[Mapping[str, Tensor]], compute: Compute) -> dict[str, Tensor]:
    """Stack the clients' tensors name by name: weights of heads, or the draws of a step."""
    return {name: stack([one[name] for one in tensors], compute) for name in tensors[0]}


def unstack(joined: Tensor, num_clients: int) -> list[Tensor]:
    """Undo `stack`; the tensors are back on the host."""
    on_host = joined.detach().cpu()
    return [on_host] if num_clients == 1 else [part.clone() for part in on_host]


def unstack_named(joined: Mapping[str, Tensor], num_clients: int) -> list[dict[str, Tensor]]:
    """Undo `stack_named`; the tensors are back on the host."""
    parts = {name: unstack(tensor, num_clients) for name, tensor in joined.items()}
    return [{name: part[client] for name, part in parts.items()} for client in range(num_clients)]


def clients_that_fit(feature_dim: int, local: LocalTraining, compute: Compute) -> int:
    """Return how many clients may train in one step on a device; one on the CPU.

    On a CPU, 18 clients at once ran at three quarters of the speed of one by one (docs/speed.md).
    """
    memory = local.objective.memory
    if compute.device.type == "cpu" or memory is None:
        return 1
    free = _SHARE_OF_FREE_MEMORY * compute.free_memory()
    return max(1, int(free / memory(feature_dim, local)))
