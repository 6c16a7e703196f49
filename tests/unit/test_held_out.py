import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.items import Classes, Item
from fusseg.evaluation.held_out import (
    encode_held_out,
    evaluate,
    hold_out,
    read_labels,
    score_sites,
    segment_held_out,
)
from fusseg.features.cache.store import FeatureSettings
from fusseg.features.feature_set import pool_features
from fusseg.features.views import View
from fusseg.segmentation.assignment import build_segmenter
from fusseg.segmentation.objective import Model

SETTINGS = FeatureSettings("filterbank", "f" * 64, (16, 16), "crop", "bilinear")


def viewed(items):
    return [View(item, SETTINGS) for item in items]


@pytest.fixture
def write_item(tmp_path):
    """An image of 16 x 16 pixels and, unless it is None, a mask of an upper and a lower half."""

    def write(stem, rows, site="s"):
        image = tmp_path / f"{stem}.png"
        Image.new("RGB", (16, 16)).save(image)
        mask = None
        if rows is not None:
            mask = tmp_path / f"{stem}-mask.png"
            pixels = np.array(rows, np.uint8).repeat(8)[:, None].repeat(16, 1)
            Image.fromarray(pixels).save(mask)
        return Item(site, stem, "", image, mask)

    return write


@pytest.fixture
def segmenter():
    """Codes are the features; two clusters along the axes."""
    head = {
        "linear.weight": torch.eye(2),
        "linear.bias": torch.zeros(2),
        "hidden.weight": torch.zeros(2, 2),
        "hidden.bias": torch.zeros(2),
        "output.weight": torch.zeros(2, 2),
        "output.bias": torch.zeros(2),
    }
    return build_segmenter(Model(head, torch.eye(2)), torch.zeros(2))


# Upper half along the first axis, lower half along the second.
HALVES = [[[[1.0, 0.0]], [[0.0, 1.0]]]]


def test_the_ignored_value_becomes_the_number_of_classes(write_item, make_features):
    items = [write_item("a", [0, 7])]
    classes = Classes(("x", "y"), ignore_index=7)
    held_out = hold_out(viewed(items), make_features(HALVES), classes)
    labels = read_labels(held_out, 0)
    assert labels[:8].unique().tolist() == [0]
    assert labels[8:].unique().tolist() == [2]


def test_counts_scores_and_label_free_figures_by_hand(write_item, make_features, segmenter):
    # Two images, one labeled as it is segmented, the other unlabeled.
    items = [write_item("a", [1, 0]), write_item("b", None)]
    features = make_features(HALVES * 2)
    found = evaluate(segmenter, hold_out(viewed(items), features, Classes(("x", "y"))))
    assert found.scores.confusion.tolist() == [[0, 128], [128, 0]]
    assert found.scores.overall.mean_iou == 1
    assert found.scores.overall.matching.tolist() == [1, 0]
    assert found.scores.num_images == {"s": 1}
    assert found.quality.cluster_share.tolist() == [0.5, 0.5]
    assert found.quality.mean_cosine == 1
    assert found.quality.mean_margin == 1


def test_sites_are_scored_under_the_matching_of_all_together():
    swapped = torch.tensor([[0, 10], [10, 0]])
    straight = torch.tensor([[30, 0], [0, 30]])
    found = score_sites({"a": [straight], "b": [swapped]})
    assert found.confusion.tolist() == [[30, 10], [10, 30]]
    assert found.overall.matching.tolist() == [0, 1]
    assert found.site_scores["a"].mean_iou == 1
    assert found.site_scores["b"].mean_iou == 0
    assert found.overall.pixel_accuracy == 0.75
    assert found.num_images == {"a": 1, "b": 1}


def test_counts_of_a_sites_images_add_up_and_unlabeled_sites_are_left_out():
    counts = torch.tensor([[1, 0], [0, 2]])
    found = score_sites({"a": [counts, counts], "b": [torch.zeros(2, 2, dtype=torch.int64)]})
    assert found.confusion.tolist() == [[2, 0], [0, 4]]
    assert list(found.site_scores) == ["a"]
    assert score_sites({"b": [torch.zeros(2, 2, dtype=torch.int64)]}) is None
    assert score_sites({}) is None


def test_without_a_mask_there_are_no_scores(write_item, make_features, segmenter):
    held_out = hold_out(viewed([write_item("a", None)]), make_features(HALVES), Classes(("x",)))
    assert held_out.classes is None
    assert read_labels(held_out, 0) is None
    assert evaluate(segmenter, held_out).scores is None


def test_classes_are_inferred_where_none_are_given(write_item, make_features):
    held_out = hold_out(viewed([write_item("a", [0, 2])]), make_features(HALVES), None)
    assert held_out.classes == Classes(("0", "1", "2"), 255)


def test_a_bad_mask_shows_before_any_is_scored(write_item, make_features):
    items = [write_item("a", [0, 1]), write_item("b", [0, 5])]
    message = (
        "mask has the values 5, neither a class (0 to 1) nor ignored; correct the mask, or add "
        f"names or an ignore_index to classes.toml: {items[1].mask}"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        hold_out(viewed(items), make_features(HALVES * 2), Classes(("x", "y")))


def test_images_of_different_sizes_are_scored_each_at_its_own(write_item, make_features, segmenter):
    items = [write_item("a", [0, 1]), write_item("b", [0, 1])]
    sizes = [(16, 16), (32, 24)]
    views = [
        View(item, replace(SETTINGS, image_size=size, fit="stretch"))
        for item, size in zip(items, sizes, strict=True)
    ]
    maps = [make_features(HALVES), make_features(np.repeat(HALVES, 2, axis=2), name="b")]
    held_out = hold_out(views, pool_features(maps), Classes(("x", "y")))
    assert [read_labels(held_out, index).shape for index in (0, 1)] == sizes
    assert [segment_held_out(segmenter, held_out, index).shape for index in (0, 1)] == sizes
    # Half of each image: 128 and 384 pixels.
    assert evaluate(segmenter, held_out).scores.confusion.tolist() == [[512, 0], [0, 512]]


@pytest.fixture
def averaged(write_item, make_features, random_features):
    """One image, its features and those of its mirror image."""
    features, mirrored = random_features(0, 1, dim=2), random_features(1, 1, dim=2)
    held_out = hold_out(viewed([write_item("a", [0, 1])]), features, Classes(("x", "y")))
    return replace(held_out, mirrored=mirrored)


def test_codes_are_averaged_with_the_mirrored_ones_flipped_back(averaged, segmenter):
    plain, mirrored = averaged.features.feature_map(0), averaged.mirrored.feature_map(0)
    found = encode_held_out(segmenter, averaged, 0)
    height, width, _ = found.shape
    for row in range(height):
        for column in range(width):
            expected = (plain[row, column] + mirrored[row, width - 1 - column]) / 2
            torch.testing.assert_close(found[row, column], expected)


def test_averaging_changes_nothing_where_the_image_is_its_own_mirror_image(
    write_item, make_features, segmenter, seeded
):
    half = torch.randn(1, 4, 3, 2, generator=seeded(0))
    symmetric = make_features(torch.cat([half, half.flip(2)], dim=2))
    held_out = hold_out(viewed([write_item("a", [0, 1])]), symmetric, Classes(("x", "y")))
    averaged = replace(held_out, mirrored=symmetric)
    torch.testing.assert_close(
        encode_held_out(segmenter, averaged, 0), encode_held_out(segmenter, held_out, 0)
    )
    assert (
        evaluate(segmenter, averaged).scores.confusion.tolist()
        == evaluate(segmenter, held_out).scores.confusion.tolist()
    )


def test_a_crf_moves_the_border_of_what_is_scored_to_the_edge_in_the_image(
    tmp_path, make_features, segmenter
):
    # The edge lies at column 5, a border between two features of 8 pixels can lie at 8 only.
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 5:] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray((pixels[:, :, 0] > 0).astype(np.uint8)).save(tmp_path / "mask.png")
    item = Item("s", "a", "", tmp_path / "a.png", tmp_path / "mask.png")
    features = make_features([[[[1.0, 0.1], [0.0, 1.0]]]])
    plain = hold_out(viewed([item]), features, Classes(("x", "y")))
    refined = replace(plain, crf=True)
    assert evaluate(segmenter, plain).scores.overall.pixel_accuracy < 0.9
    assert evaluate(segmenter, refined).scores.overall.pixel_accuracy == 1
    assert (segment_held_out(segmenter, refined, 0).numpy() == pixels[:, :, 0] // 200).all()
