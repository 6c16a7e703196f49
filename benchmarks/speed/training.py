"""Rows about training: a local step, and small clients in one batched step."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.speed.inputs import plain_plan, random_features, random_model
from benchmarks.speed.products import (
    STEP_PRODUCTS,
    count_gflop,
    prepare_products,
    product_rate,
    stego_products,
)
from benchmarks.speed.rows import (
    Figures,
    Limit,
    SpeedRow,
    missing_row,
    speed_row,
    untargeted_row,
)
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately
from fusseg.config.compute import Compute, has_bfloat16
from fusseg.config.schema import LocalConfig, ModelConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.features.resident import make_resident
from fusseg.segmentation.objective import LocalTraining
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.training import Trained, Trainee, TrainingPlan, train, train_together

STEP, OTHER_STEP, FASTER = (
    Limit("ratio", 1.3),
    Limit("ratio", 1.5),
    Limit("ratio", 1.5, at_least=True),
)
TOGETHER, SAME = Limit("ratio", 5, at_least=True), Limit("ratio", 1e-3)
MODEL = ModelConfig()
OBJECTIVE_TABLES = {"primaps": {"most_masks": 2}}
"""Random features have no structure: finding masks takes long, and no step depends on it."""
LOCAL = settle_local(LocalConfig(), MODEL.num_clusters)


def local_step_rows(setting: Setting, dim: int) -> list[SpeedRow]:
    """Compare a local step with its matrix products, in both precisions."""
    sizes, device = setting.sizes, setting.torch_device
    trainee = _trainee(setting, sizes.client_images, dim)
    plan = plain_plan(dim, sizes.steps)
    products = stego_products(dim, MODEL.code_dim, MODEL.num_clusters, LOCAL)
    precisions = [torch.float32, *([torch.bfloat16] if has_bfloat16(device) else [])]

    def run(precision: torch.dtype) -> Trained:
        [fresh] = _fresh([trainee])
        return train(fresh, plan, LOCAL, Compute(device, precision))

    stages = [lambda precision=precision: run(precision) for precision in precisions]
    floors = [prepare_products(products, precision, device) for precision in precisions]
    # A floor is multiplied as often as there are steps, so that both are equally long.
    long_floors = [lambda floor=floor: [floor() for _ in range(sizes.steps)] for floor in floors]
    timings = time_alternately([*stages, *long_floors], sizes.repeats, device)
    size = (
        f"D' = {dim}, batch {LOCAL.batch_size}, {LOCAL.settings.positions} positions, "
        f"{LOCAL.settings.random_supports} supports, K = {MODEL.num_clusters}, "
        f"D = {MODEL.code_dim}, {sizes.steps} steps, {setting.device}"
    )
    rows = []
    for place, precision in enumerate(precisions):
        stage, floor = timings[place], timings[len(precisions) + place]
        figures = Figures(
            seconds=stage.seconds / sizes.steps,
            floor_seconds=floor.seconds / sizes.steps,
            peak_bytes=stage.peak_bytes,
            gflop=count_gflop(products),
            gflop_per_second=product_rate(precision, device, sizes.repeats),
        )
        name = f"local step, D' = {dim}, {str(precision).removeprefix('torch.')}"
        rows.append(speed_row(name, size, figures, STEP, conditions=(setting.device, sizes.name)))
    rows.append(_faster_row(setting, dim, size, [timing.seconds for timing in timings]))
    return rows


def objective_step_rows(setting: Setting, objective: str) -> list[SpeedRow]:
    """Compare a local step of an objective besides STEGO's with its matrix products."""
    return [_objective_row(setting, objective, dim) for dim in setting.sizes.feature_dims[:2]]


def _objective_row(setting: Setting, objective: str, dim: int) -> SpeedRow:
    sizes, device = setting.sizes, setting.torch_device
    tables = {objective: OBJECTIVE_TABLES.get(objective, {})}
    local = settle_local(LocalConfig(objective=objective, tables=tables), MODEL.num_clusters)
    trainee, plan = _prepared(setting, local, dim)
    products = STEP_PRODUCTS[objective](dim, MODEL.code_dim, MODEL.num_clusters, local)
    multiply = prepare_products(products, torch.float32, device, calls=sizes.steps)

    def run() -> Trained:
        [fresh] = _fresh([trainee])
        return train(fresh, plan, local, Compute(device, torch.float32))

    stage, floor = time_alternately([run, multiply], sizes.repeats, device)
    figures = Figures(
        seconds=stage.seconds / sizes.steps,
        floor_seconds=floor.seconds / sizes.steps,
        peak_bytes=stage.peak_bytes,
        gflop=count_gflop(products),
        gflop_per_second=product_rate(torch.float32, device, sizes.repeats),
    )
    size = (
        f"D' = {dim}, batch {local.batch_size}, {local.settings.positions} positions, "
        f"K = {MODEL.num_clusters}, D = {MODEL.code_dim}, {sizes.steps} steps, {setting.device}"
    )
    name = f"local step, {objective}, D' = {dim}, float32"
    return speed_row(name, size, figures, OTHER_STEP, conditions=(setting.device, sizes.name))


def _prepared(setting: Setting, local: LocalTraining, dim: int) -> tuple[Trainee, TrainingPlan]:
    """Make a client of random features and its plan, with everything that its objective needs."""
    sizes, compute = setting.sizes, Compute(setting.torch_device, torch.float32)
    features = random_features(sizes.client_images, (sizes.map_side, sizes.map_side, dim))
    objective, mean = local.objective, torch.zeros(dim)
    agreed = objective.estimate(features, mean, local, torch.Generator().manual_seed(0))
    prepared = objective.prepare(features, mean, local.settings, setting.folder / "cache")
    if objective.prepare_image is not None:
        for image in range(len(features)):
            objective.prepare_image(prepared, image)
    source = make_resident(features, compute) if compute.device.type != "cpu" else features
    trainee = Trainee(random_model(dim, MODEL), source, prepared, torch.Generator())
    return trainee, TrainingPlan(sizes.steps, mean, agreed)


def _faster_row(setting: Setting, dim: int, size: str, seconds: Sequence[float]) -> SpeedRow:
    name = f"local step, D' = {dim}, bfloat16 over float32"
    if not has_bfloat16(setting.torch_device):
        reason = f"{setting.device} multiplies no bfloat16 in hardware"
        return missing_row(name, size, FASTER, reason)
    return speed_row(
        name,
        size,
        Figures(seconds=seconds[1] / setting.sizes.steps, ratio=seconds[0] / seconds[1]),
        FASTER,
        "float32 seconds over bfloat16 seconds; their mIoU over 3 seeds: docs/speed.md",
        (setting.device, setting.sizes.name),
    )


def small_clients_rows(setting: Setting) -> list[SpeedRow]:
    """Compare clients that train in one batched step with clients one after another."""
    sizes, device = setting.sizes, setting.torch_device
    name = f"{sizes.small_clients} small clients in one step"
    size = (
        f"{sizes.small_clients} clients, {LOCAL.batch_size} images each, D' = {sizes.small_dim}, "
        f"K = {MODEL.num_clusters}, {sizes.small_steps} steps, float32"
    )
    rows = []
    if device.type != "cuda":
        reason = "needs CUDA: python -m benchmarks.speed --device cuda"
        rows.append(missing_row(f"{name}, cuda", size, TOGETHER, reason))
        rows.append(missing_row(f"{name}, cuda, same results", size, SAME, reason))
    compute = Compute(device, torch.float32)
    plan = plain_plan(sizes.small_dim, sizes.small_steps)
    trainees = [
        _trainee(setting, LOCAL.batch_size, sizes.small_dim, seed=client)
        for client in range(sizes.small_clients)
    ]

    def one_by_one() -> list[Trained]:
        return [train(trainee, plan, LOCAL, compute) for trainee in _fresh(trainees)]

    def at_once() -> list[Trained]:
        return train_together(_fresh(trainees), plan, LOCAL, compute)

    together, looped = time_alternately([at_once, one_by_one], sizes.repeats, device)
    difference = _difference(at_once(), one_by_one())
    figures = Figures(
        seconds=together.seconds / sizes.small_steps,
        ratio=looped.seconds / together.seconds,
        peak_bytes=together.peak_bytes,
    )
    note = f"seconds of a step of all; one after another {looped.seconds / sizes.small_steps:.4f} s"
    conditions = (setting.device, sizes.name)
    same = f"{name}, {device.type}, same results"
    if device.type == "cuda":
        rows.append(speed_row(f"{name}, cuda", size, figures, TOGETHER, note, conditions))
    else:
        why = f"{note}; no target: on a processor one client's products leave no core idle"
        rows.append(untargeted_row(f"{name}, {device.type}", size, figures, why))
    what = "relative difference of the heads' weights, the largest of all clients"
    rows.append(speed_row(same, size, Figures(ratio=difference), SAME, what, conditions))
    return rows


def _trainee(setting: Setting, num_images: int, dim: int, seed: int = 0) -> Trainee:
    """Make a client of random features, resident on the device unless it is the processor."""
    sizes, compute = setting.sizes, Compute(setting.torch_device, torch.float32)
    features = random_features(num_images, (sizes.map_side, sizes.map_side, dim), seed)
    nearest = nearest_neighbors(torch.from_numpy(features.pooled), LOCAL.settings.neighbors)
    source = make_resident(features, compute) if compute.device.type != "cpu" else features
    return Trainee(random_model(dim, MODEL), source, nearest, torch.Generator())


def _fresh(trainees: Sequence[Trainee]) -> list[Trainee]:
    """Reset every client's random source."""
    return [
        replace(trainee, generator=torch.Generator().manual_seed(client))
        for client, trainee in enumerate(trainees)
    ]


def _difference(first: Sequence[Trained], second: Sequence[Trained]) -> float:
    return max(
        float((mine - other).norm() / other.norm())
        for one, two in zip(first, second, strict=True)
        for mine, other in zip(one.model.head.values(), two.model.head.values(), strict=True)
    )
