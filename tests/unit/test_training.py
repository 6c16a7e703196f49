import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.assignment import build_segmenter, cosines, encode
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.losses import clustering_loss
from fusseg.segmentation.objective import Model, Step
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.stego import SHIFTS, step_losses
from fusseg.segmentation.sampling import draw_batch, draw_kept, query_batches
from fusseg.segmentation.training import Trainee, TrainingPlan, train


def settle(batch_size=4, positions=9, rates=None, **stego):
    tables = {"stego": {"positions": positions, **stego}}
    config = LocalConfig(batch_size=batch_size, tables=tables, **(rates or {}))
    return settle_local(config, num_clusters=2)


LOCAL = settle()


def set_up(features, seeded, num_steps=1, code_dim=3, num_clusters=2):
    dim = features.map_shape[2]
    model = Model(
        initial_head(dim, code_dim, seeded(1)),
        torch.randn(num_clusters, code_dim, generator=seeded(2)),
    )
    plan = TrainingPlan(
        num_steps, torch.zeros(dim), dict(zip(SHIFTS, (0.4, 0.2, 0.3), strict=True))
    )
    nearest = nearest_neighbors(torch.from_numpy(features.pooled), 2)
    return model, nearest, plan


def next_losses(batches, features, nearest, model, plan, local, generator):
    """What the next step of training minimizes, drawn in its order."""
    of = local.settings
    batch = draw_batch(
        features,
        nearest,
        next(batches),
        plan.mean_feature,
        of.positions,
        of.random_supports,
        generator,
    )
    kept = draw_kept(len(batch.features), batch.features.shape[2], of.dropout, generator)
    drawn = {"partners": batch.partners, "counted": batch.counted, "kept": kept}
    step = Step(batch.features, drawn, {})
    return step_losses(model.head, model.centroids, step, plan.agreed, of, torch.float32)


def test_the_first_step_moves_head_and_centroids_by_their_learning_rates(random_features, seeded):
    # Adam's first step is the learning rate times the sign of the gradient.
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    trained = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL).model
    moved = (trained.head["linear.weight"] - model.head["linear.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-4), rtol=1e-2, atol=0)
    moved = (trained.centroids - model.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_optimizers_start_afresh_each_round(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    first = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL).model
    second = train(Trainee(first, features, nearest, seeded(1)), plan, LOCAL).model
    moved = (second.centroids - first.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_the_clustering_loss_moves_the_centroids_and_never_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    local = settle(self_weight=0.0, neighbor_weight=0.0, random_weight=0.0)
    trained = train(Trainee(model, features, nearest, seeded(0)), plan, local).model
    assert all(torch.equal(trained.head[name], model.head[name]) for name in model.head)
    assert not torch.equal(trained.centroids, model.centroids)


def test_the_centroids_never_move_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    other = Model(model.head, torch.randn(2, 3, generator=seeded(9)))
    left = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL).model
    right = train(Trainee(other, features, nearest, seeded(0)), plan, LOCAL).model
    assert all(torch.equal(left.head[name], right.head[name]) for name in left.head)


def test_the_reported_loss_is_the_sum_of_both_objectives(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    local = settle(separation_weight=0.5)
    loss = train(Trainee(model, features, nearest, seeded(0)), plan, local).loss
    generator = seeded(0)
    found = next_losses(
        query_batches(len(features), 4, generator), features, nearest, model, plan, local, generator
    )
    second = clustering_loss(found.codes.flatten(0, 1), model.centroids, 0.5)
    assert found.codes.shape == (8, 9, 3)
    assert loss == found.head.item() + second.item()


def test_the_reported_loss_is_the_mean_over_the_steps(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    local = settle(rates={"head_learning_rate": 1e-30, "centroid_learning_rate": 1e-30})
    generator = seeded(0)
    trained = train(Trainee(model, features, nearest, generator), plan, local)
    assert same_bits(
        trained.model, model
    )  # steps too small to show, so that both can be recomputed
    generator, losses = seeded(0), []
    batches = query_batches(len(features), 4, generator)
    for _ in range(2):
        found = next_losses(batches, features, nearest, model, plan, local, generator)
        losses.append(found.head.item() + found.centroids.item())
    assert trained.loss == sum(losses) / 2


def test_training_leaves_its_start_as_it_is(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    before = Model(
        {name: weight.clone() for name, weight in model.head.items()}, model.centroids.clone()
    )
    trained = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL).model
    assert same_bits(model, before)
    assert not trained.centroids.requires_grad


def test_results_depend_on_the_given_generator_alone(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    torch.manual_seed(1)
    first = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    torch.manual_seed(2)
    second = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    other = train(Trainee(model, features, nearest, seeded(5)), plan, LOCAL).model
    assert same_bits(first.model, second.model)
    assert first.loss == second.loss
    assert not same_bits(first.model, other)


def test_the_mean_feature_is_subtracted_before_the_head(make_features, seeded, same_bits):
    # Halves, so that adding and subtracting the offset is exact in float16.
    maps = torch.randint(-4, 5, (5, 3, 3, 4), generator=seeded(0)) / 2
    offset = torch.tensor([4.0, -8.0, 2.0, 16.0])
    features, moved = make_features(maps), make_features(maps + offset)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    shifted = TrainingPlan(plan.num_steps, offset, plan.agreed)
    left = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL).model
    right = train(Trainee(model, moved, nearest, seeded(0)), shifted, LOCAL).model
    assert same_bits(left, right)


@pytest.mark.parametrize("num_images", range(2, 8))
def test_a_client_with_fewer_images_than_a_batch_trains(num_images, random_features, seeded):
    features = random_features(0, num_images=num_images)
    model, nearest, plan = set_up(features, seeded, num_steps=4)
    local = settle(batch_size=8, positions=121)
    trained = train(Trainee(model, features, nearest, seeded(0)), plan, local)
    parts = (*trained.model.head.values(), trained.model.centroids)
    assert torch.tensor(trained.loss).isfinite()
    assert all(bool(part.isfinite().all()) for part in parts)


def test_steps_that_draw_one_image_only_are_as_if_there_were_no_random_supports(
    random_features, seeded, same_bits
):
    features = random_features(0, num_images=2)
    model, nearest, plan = set_up(features, seeded)
    # Two images in a batch of three: all the same one in a quarter of the draws.
    local, lone = settle(batch_size=3), settle(batch_size=3, random_weight=0.0)
    alone = 0
    for seed in range(20):
        trained = train(Trainee(model, features, nearest, seeded(seed)), plan, local).model
        without = train(Trainee(model, features, nearest, seeded(seed)), plan, lone).model
        queries = next(query_batches(2, 3, seeded(seed)))
        same = len(set(queries.tolist())) == 1
        assert same_bits(trained, without) == same
        alone += same
    assert 1 <= alone <= 19


def test_features_of_zero_make_no_nan(make_features, seeded):
    features = make_features(torch.zeros(4, 3, 3, 4))
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    trained = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    assert torch.tensor(trained.loss).isfinite()
    assert all(bool(weight.isfinite().all()) for weight in trained.model.head.values())


def test_training_lowers_the_loss_and_separates_two_materials(
    separable_maps, make_features, seeded
):
    maps, material = separable_maps(0)
    features = make_features(maps)
    model, nearest, plan = set_up(features, seeded, num_steps=10, code_dim=4)
    local = settle(positions=16)
    first = train(Trainee(model, features, nearest, seeded(0)), plan, local)
    longer = TrainingPlan(150, plan.mean_feature, plan.agreed)
    trained = train(Trainee(first.model, features, nearest, seeded(1)), longer, local).model
    last = train(Trainee(trained, features, nearest, seeded(0)), plan, local)
    assert last.loss < first.loss - 0.2
    segmenter = build_segmenter(trained, plan.mean_feature)
    found = torch.stack(
        [
            cosines(segmenter, encode(segmenter, image)).argmax(dim=1)
            for image in torch.from_numpy(features.maps[0]).float()
        ]
    ).reshape(material.shape)
    agreement = float((found == material).float().mean())
    assert max(agreement, 1 - agreement) > 0.95
