import torch

from fusseg.config import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.losses import clustering_loss
from fusseg.segmentation.objective import Objective, head_objective
from fusseg.segmentation.sampling import draw_batch, draw_kept, query_batches
from fusseg.segmentation.segmenter import build_segmenter, cosines, encode
from fusseg.segmentation.training import Model, Trainee, TrainingPlan, train

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
    trained, _ = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    moved = (trained.head["linear.weight"] - model.head["linear.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-4), rtol=1e-2, atol=0)
    moved = (trained.centroids - model.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_optimizers_start_afresh_each_round(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    first, _ = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    second, _ = train(Trainee(first, features, nearest, seeded(1)), plan, LOCAL)
    moved = (second.centroids - first.centroids).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 5e-3), rtol=1e-2, atol=0)


def test_the_clustering_loss_moves_the_centroids_and_never_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    local = LocalConfig(
        batch_size=4, positions=9, self_weight=0.0, neighbor_weight=0.0, random_weight=0.0
    )
    trained, _ = train(Trainee(model, features, nearest, seeded(0)), plan, local)
    assert all(torch.equal(trained.head[name], model.head[name]) for name in model.head)
    assert not torch.equal(trained.centroids, model.centroids)


def test_the_centroids_never_move_the_head(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    other = Model(model.head, torch.randn(2, 3, generator=seeded(9)))
    left, _ = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    right, _ = train(Trainee(other, features, nearest, seeded(0)), plan, LOCAL)
    assert all(torch.equal(left.head[name], right.head[name]) for name in left.head)


def test_the_reported_loss_is_the_sum_of_both_objectives(random_features, seeded):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded)
    local = LocalConfig(batch_size=4, positions=9, separation_weight=0.5)
    _, loss = train(Trainee(model, features, nearest, seeded(0)), plan, local)
    generator = seeded(0)
    queries = next(query_batches(len(features), 4, generator))
    batch = draw_batch(features, nearest, queries, plan.mean_feature, local, generator)
    kept = draw_kept(8, 5, local.dropout, generator)
    objective = Objective(plan.shift, local)
    first, codes = head_objective(model.head, batch, kept, None, objective)
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
    trained, loss = train(Trainee(model, features, nearest, generator), plan, local)
    assert same_bits(trained, model)  # steps too small to show, so that both can be recomputed
    generator, losses = seeded(0), []
    batches = query_batches(len(features), 4, generator)
    for _ in range(2):
        queries = next(batches)
        batch = draw_batch(features, nearest, queries, plan.mean_feature, local, generator)
        kept = draw_kept(8, 5, local.dropout, generator)
        found, codes = head_objective(model.head, batch, kept, None, Objective(plan.shift, local))
        losses.append(found.item() + clustering_loss(codes, model.centroids, 0.0).item())
    assert loss == sum(losses) / 2


def test_training_leaves_its_start_as_it_is(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    before = Model(
        {name: weight.clone() for name, weight in model.head.items()}, model.centroids.clone()
    )
    trained, _ = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    assert same_bits(model, before)
    assert not trained.centroids.requires_grad


def test_results_depend_on_the_given_generator_alone(random_features, seeded, same_bits):
    features = random_features(0)
    model, nearest, plan = set_up(features, seeded, num_steps=3)
    torch.manual_seed(1)
    first, first_loss = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    torch.manual_seed(2)
    second, second_loss = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    other, _ = train(Trainee(model, features, nearest, seeded(5)), plan, LOCAL)
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
    left, _ = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    right, _ = train(Trainee(model, moved, nearest, seeded(0)), shifted, LOCAL)
    assert same_bits(left, right)


def test_a_client_with_fewer_images_than_a_batch_trains(random_features, seeded):
    features = random_features(0, num_images=2)
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    trained, loss = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    assert torch.tensor(loss).isfinite()
    assert bool(trained.centroids.isfinite().all())


def test_features_of_zero_make_no_nan(make_features, seeded):
    features = make_features(torch.zeros(4, 3, 3, 4))
    model, nearest, plan = set_up(features, seeded, num_steps=2)
    trained, loss = train(Trainee(model, features, nearest, seeded(0)), plan, LOCAL)
    assert torch.tensor(loss).isfinite()
    assert all(bool(weight.isfinite().all()) for weight in trained.head.values())


def test_training_lowers_the_loss_and_separates_two_materials(
    separable_maps, make_features, seeded
):
    maps, material = separable_maps(0)
    features = make_features(maps)
    model, nearest, plan = set_up(features, seeded, num_steps=10, code_dim=4)
    local = LocalConfig(batch_size=4, positions=16)
    first_model, first_loss = train(Trainee(model, features, nearest, seeded(0)), plan, local)
    longer = TrainingPlan(150, plan.mean_feature, plan.shift)
    trained, _ = train(Trainee(first_model, features, nearest, seeded(1)), longer, local)
    _, last_loss = train(Trainee(trained, features, nearest, seeded(0)), plan, local)
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
