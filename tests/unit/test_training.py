import torch

from fusseg.config import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.losses import clustering_loss
from fusseg.segmentation.sampling import draw_batch, query_batches
from fusseg.segmentation.segmenter import build_segmenter, cosines, encode
from fusseg.segmentation.training import Model, TrainingPlan, head_objective, train

LOCAL = LocalConfig(batch_size=4, positions=9)


def set_up(features, seeded, num_steps=1, code_dim=3, num_clusters=2):
    dim = features.map_shape[2]
    model = Model(
        initial_head(dim, code_dim, seeded(1)),
        torch.randn(num_clusters, code_dim, generator=seeded(2)),
    )
    plan = TrainingPlan(num_steps, torch.zeros(dim), (0.4, 0.2, 0.3))
    nearest = nearest_neighbors(torch.from_numpy(features.pooled), 2)
    return model, nearest, plan


def test_the_first_step_moves_head_and_centroids_by_their_learning_rates(random_features, seeded):
    # Adam's first step is the learning rate times the sign of the gradient.
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    trained, _ = train(model, features, nearest, plan, LOCAL, seeded(0))
    moved = (trained.head["linear.weight"] - model.head["linear.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-4), rtol=1e-2, atol=0)
    moved = (trained.centroids - model.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_optimizers_start_afresh_each_round(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    first, _ = train(model, features, nearest, plan, LOCAL, seeded(0))
    second, _ = train(first, features, nearest, plan, LOCAL, seeded(1))
    moved = (second.centroids - first.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_the_clustering_loss_moves_the_centroids_and_never_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    local = LocalConfig(
        batch_size=4, positions=9, self_weight=0.0, neighbor_weight=0.0, random_weight=0.0
    )
    trained, _ = train(model, features, nearest, plan, local, seeded(0))
    assert all(torch.equal(trained.head[name], model.head[name]) for name in model.head)
    assert not torch.equal(trained.centroids, model.centroids)


def test_the_centroids_never_move_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    other = Model(model.head, torch.randn(2, 3, generator=seeded(9)))
    left, _ = train(model, features, nearest, plan, LOCAL, seeded(0))
    right, _ = train(other, features, nearest, plan, LOCAL, seeded(0))
    assert all(torch.equal(left.head[name], right.head[name]) for name in left.head)


def test_the_reported_loss_is_the_sum_of_both_objectives(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    local = LocalConfig(batch_size=4, positions=9, separation_weight=0.5)
    _, loss = train(model, features, nearest, plan, local, seeded(0))
    generator = seeded(0)
    queries = next(query_batches(len(features), 4, generator))
    batch = draw_batch(features, nearest, queries, plan.mean_feature, local, generator)
    first, codes = head_objective(build_head(model.head), batch, plan.shift, local, generator)
    second = clustering_loss(codes, model.centroids, 0.5)
    assert codes.shape == (8 * 9, 3)
    assert loss == first.item() + second.item()


def test_the_reported_loss_is_the_mean_over_the_steps(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    local = LocalConfig(
        batch_size=4,
        positions=9,
        head_learning_rate=1e-30,
        centroid_learning_rate=1e-30,
    )
    generator = seeded(0)
    trained, loss = train(model, features, nearest, plan, local, generator)
    assert same_bits(trained, model)  # steps too small to show, so that both can be recomputed
    generator, losses = seeded(0), []
    batches = query_batches(len(features), 4, generator)
    for _ in range(2):
        queries = next(batches)
        batch = draw_batch(features, nearest, queries, plan.mean_feature, local, generator)
        found, codes = head_objective(build_head(model.head), batch, plan.shift, local, generator)
        losses.append(found.item() + clustering_loss(codes, model.centroids, 0.0).item())
    assert loss == sum(losses) / 2


def test_training_leaves_its_start_as_it_is(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    before = Model(
        {name: weight.clone() for name, weight in model.head.items()}, model.centroids.clone()
    )
    trained, _ = train(model, features, nearest, plan, LOCAL, seeded(0))
    assert same_bits(model, before)
    assert not trained.centroids.requires_grad


def test_results_depend_on_the_given_generator_alone(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    torch.manual_seed(1)
    first, first_loss = train(model, features, nearest, plan, LOCAL, seeded(0))
    torch.manual_seed(2)
    second, second_loss = train(model, features, nearest, plan, LOCAL, seeded(0))
    other, _ = train(model, features, nearest, plan, LOCAL, seeded(5))
    assert same_bits(first, second)
    assert first_loss == second_loss
    assert not same_bits(first, other)


def test_the_mean_feature_is_subtracted_before_the_head(make_features, seeded, same_bits):
    # Halves, so that adding and subtracting the offset is exact in float16.
    maps = torch.randint(-4, 5, (5, 3, 3, 4), generator=seeded(0)) / 2
    offset = torch.tensor([4.0, -8.0, 2.0, 16.0])
    features, moved = make_features(maps), make_features(maps + offset)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    shifted = TrainingPlan(plan.num_steps, offset, plan.shift)
    left, _ = train(model, features, nearest, plan, LOCAL, seeded(0))
    right, _ = train(model, moved, nearest, shifted, LOCAL, seeded(0))
    assert same_bits(left, right)


def test_a_client_with_fewer_images_than_a_batch_trains(random_features, seeded):
    features = random_features(0, num_images=2)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    trained, loss = train(model, features, nearest, plan, LOCAL, seeded(0))
    assert torch.tensor(loss).isfinite()
    assert bool(trained.centroids.isfinite().all())


def test_features_of_zero_make_no_nan(make_features, seeded):
    features = make_features(torch.zeros(4, 3, 3, 4))
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    trained, loss = train(model, features, nearest, plan, LOCAL, seeded(0))
    assert torch.tensor(loss).isfinite()
    assert all(bool(weight.isfinite().all()) for weight in trained.head.values())


def test_training_lowers_the_loss_and_separates_two_materials(
    separable_maps, make_features, seeded
):
    maps, material = separable_maps(0)
    features = make_features(maps)
    model, nearest, plan = set_up(features, seeded, num_steps=10, code_dim=4)
    local = LocalConfig(batch_size=4, positions=16)
    first_model, first_loss = train(model, features, nearest, plan, local, seeded(0))
    longer = TrainingPlan(150, plan.mean_feature, plan.shift)
    trained, _ = train(first_model, features, nearest, longer, local, seeded(1))
    _, last_loss = train(trained, features, nearest, plan, local, seeded(0))
    assert last_loss < first_loss - 0.2
    segmenter = build_segmenter(trained, plan.mean_feature)
    found = torch.stack(
        [
            cosines(segmenter, encode(segmenter, image)).argmax(dim=1)
            for image in torch.from_numpy(features.maps[0]).float()
        ]
    ).reshape(material.shape)
    agreement = float((found == material).float().mean())
    assert max(agreement, 1 - agreement) > 0.95
