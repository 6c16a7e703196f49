import math

import numpy as np
import pytest
import torch

from fusseg.core.errors import DataError
from fusseg.core.spread import spread_evenly
from fusseg.report.centroid_map import HEIGHT, WIDTH, as_json, map_centroids, project_rounds
from fusseg.runs.history import HISTORY, load_history, save_history


def test_a_plane_is_shown_as_it_is_with_one_scale_for_both_axes():
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    centroids = project_rounds({1: {"global": corners, "client/a": 5 * corners}})
    points = centroids.rounds[1].server
    np.testing.assert_array_equal(centroids.rounds[1].clients["a"].points, points)
    sides = [math.dist(points[i], points[(i + 1) % 4]) for i in range(4)]
    assert max(sides) - min(sides) < 2
    assert centroids.explained == pytest.approx(1)
    assert points.min() >= 0
    assert points[:, 0].max() <= WIDTH
    assert points[:, 1].max() <= HEIGHT


def test_agreement_is_the_mean_cosine_to_the_servers_nearest_centroid():
    half = math.sqrt(0.5)
    server = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    sent = torch.tensor([[0.0, 7.0], [1.0, 1.0 - 1e-6]])
    client = project_rounds({1: {"global": server, "client/a": sent}}).rounds[1].clients["a"]
    assert client.nearest.tolist() == [1, 0]
    assert client.agreement == pytest.approx((1 + half) / 2, abs=1e-5)


def test_a_client_that_missed_a_round_is_absent_there():
    eye = torch.eye(3)
    history = {1: {"global": eye, "client/a": eye, "client/b": eye}, 2: {"global": eye.flip(0)}}
    centroids = project_rounds(history)
    assert centroids.client_ids == ("a", "b")
    assert centroids.rounds[2].clients == {}
    content = as_json(centroids)
    assert [client for client, _ in content["rounds"][0]["clients"]] == [0, 1]
    assert len(content["rounds"][0]["clients"][0][1]) == 3 * 3


@pytest.mark.parametrize(
    "history", [{}, {1: {"global": torch.eye(2)}, 2: {"global": torch.eye(2)}}]
)
def test_centroids_that_never_change_make_no_map(history):
    assert project_rounds(history) is None


def test_equal_centroids_make_a_map_of_one_point():
    ones = torch.ones(2, 3)
    centroids = project_rounds({1: {"global": ones, "client/a": ones}})
    assert np.unique(centroids.rounds[1].server, axis=0).tolist() == [[WIDTH // 2, HEIGHT // 2]]
    assert centroids.explained == 0


def test_codes_of_one_channel_make_a_map_too():
    centroids = project_rounds(
        {1: {"global": torch.tensor([[1.0], [-1.0]]), "client/a": torch.ones(2, 1)}}
    )
    assert len(np.unique(centroids.rounds[1].server, axis=0)) == 2


def test_a_long_history_is_thinned_evenly_and_keeps_its_ends(tmp_path):
    clients = {f"c{number:02d}": torch.ones(1, 2) for number in range(10)}
    for number in range(1, 8):
        save_history(tmp_path, number, torch.ones(1, 2), clients if number < 7 else {})
    found = load_history(tmp_path, max_rounds=3, max_clients=4)
    assert list(found) == [1, 4, 7]
    assert sorted(found[4]) == ["client/c00", "client/c03", "client/c06", "client/c09", "global"]
    assert sorted(found[7]) == ["global"]


@pytest.mark.parametrize(
    ("most", "taken"), [(None, [0, 1, 2]), (3, [0, 1, 2]), (2, [0, 2]), (1, [0])]
)
def test_entries_are_taken_in_even_steps(most, taken):
    assert spread_evenly([0, 1, 2], most) == taken


def test_a_damaged_round_is_named(tmp_path):
    (tmp_path / HISTORY).mkdir()
    file = tmp_path / HISTORY / "round-001.safetensors"
    file.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=f"damaged history: {file}"):
        map_centroids(tmp_path)
