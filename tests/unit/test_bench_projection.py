import numpy as np
import pytest
import torch

from fusseg.bench.projection import (
    RoundCentroids,
    project_history,
    project_pca,
    project_tsne,
    read_history,
    trace_classes,
)
from fusseg.runs.history import save_history

COLORS = np.array([[1, 0, 0], [0, 1, 0], [9, 9, 9]], np.uint8)
AXES = np.eye(3)[:2]


def test_classes_are_followed_back_through_permuted_centroids():
    swapped = AXES[::-1]
    history = {
        # In round 1 the server's rows are swapped against those of round 2, and the clients of
        # round 2 start from them: their rows are swapped too.
        1: RoundCentroids(swapped, np.stack([AXES, AXES])),
        2: RoundCentroids(AXES, np.stack([swapped, swapped])),
    }
    classes = trace_classes(history, [0, 1])
    assert classes[2][0].tolist() == [0, 1]
    assert classes[2][1].tolist() == [[1, 0], [1, 0]]
    assert classes[1][0].tolist() == [1, 0]
    assert classes[1][1].tolist() == [[0, 1], [0, 1]]


def test_a_centroid_without_a_class_stays_without():
    history = {1: RoundCentroids(AXES, AXES[None])}
    assert trace_classes(history, [1, -1])[1][1].tolist() == [[1, -1]]


def test_history_is_read_at_unit_length_and_rounds_without_clients_are_left_out(tmp_path):
    centroids = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    save_history(tmp_path, 1, centroids, {"b": 2 * centroids, "a": 3 * centroids})
    save_history(tmp_path, 2, centroids, {})
    # Clients that sent their own clusters only.
    save_history(tmp_path, 3, centroids, {"a": centroids[:1].clone(), "b": 2 * centroids})
    save_history(tmp_path, 4, centroids, {"a": centroids[:1].clone(), "b": centroids[1:].clone()})
    history = read_history(tmp_path)
    assert list(history) == [1]
    expected = np.array([[0.6, 0.8], [0, 1]])
    np.testing.assert_allclose(history[1].server, expected, atol=1e-6)
    np.testing.assert_allclose(history[1].clients, [expected, expected], atol=1e-6)


@pytest.mark.parametrize("project", [project_pca, project_tsne])
def test_first_middle_and_last_round_are_projected_together(project):
    generator = np.random.default_rng(0)
    history = {
        number: RoundCentroids(generator.normal(size=(2, 3)), generator.normal(size=(3, 2, 3)))
        for number in range(1, 6)
    }
    clouds = project_history(history, [1, -1], COLORS, project)
    assert list(clouds) == [1, 3, 5]
    for cloud in clouds.values():
        assert cloud.points.shape == (8, 2)
        assert cloud.shared.tolist() == [True, True] + 6 * [False]
    assert clouds[5].colors[:2].tolist() == [[0, 1, 0], [9, 9, 9]]
