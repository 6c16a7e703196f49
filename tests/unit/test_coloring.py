"""Colors of clusters and classes: the user's, the classes', or a palette."""

import numpy as np

from fusseg.core.colors import palette
from fusseg.data.items import Classes
from fusseg.report.cluster_colors import choose_coloring, name_regions, numbered_regions
from fusseg.runs.regions import NamedCluster, join_clusters, write_named

RED, GREEN, BLUE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
CLASSES = Classes(("sky", "road"), colors=(RED, GREEN))
NAMED = (
    NamedCluster(0, "road", BLUE),
    NamedCluster(1, "tree", GRAY),
    NamedCluster(2, "road", RED),
)


def test_without_names_and_scores_every_cluster_has_a_color_of_the_palette():
    found = choose_coloring(None, None, 3)
    assert np.array_equal(found.clusters, palette(3))
    assert list(found.legend) == ["region 0", "region 1", "region 2"]
    assert len(found.classes) == 0


def test_without_names_a_cluster_has_the_color_of_its_class_and_others_their_own():
    found = choose_coloring(CLASSES, [1, -1, 0], 3)
    assert found.clusters[[0, 2]].tolist() == [list(GREEN), list(RED)]
    assert found.clusters[1].tolist() not in (list(GREEN), list(RED))
    assert list(found.legend) == ["sky", "road", "region 1"]
    assert found.legend["region 1"] == tuple(found.clusters[1].tolist())


def test_given_names_bring_their_colors_and_classes_of_these_names_follow():
    found = choose_coloring(CLASSES, [1, -1, 0], 3, join_clusters(NAMED))
    assert found.clusters.tolist() == [list(BLUE), list(GRAY), list(BLUE)]
    assert found.classes.tolist() == [list(RED), list(BLUE)]
    assert found.legend == {"sky": RED, "road": BLUE, "tree": GRAY}


def test_without_scores_the_legend_has_the_given_names_alone():
    found = choose_coloring(None, None, 3, join_clusters(NAMED))
    assert found.legend == {"road": BLUE, "tree": GRAY}


def test_classes_without_colors_do_not_look_like_regions_of_other_names():
    numbered = numbered_regions(3)
    found = choose_coloring(Classes(("sky", "road")), [1, -1, 0], 3, numbered)
    assert np.array_equal(found.clusters, palette(3))
    taken = {tuple(color) for color in found.clusters.tolist()}
    assert not taken & {tuple(color) for color in found.classes.tolist()}


def test_colors_of_the_data_set_are_not_changed_for_others():
    choose_coloring(CLASSES, [1, -1, 0], 3, join_clusters(NAMED))
    assert CLASSES.colors == (RED, GREEN)
    assert choose_coloring(CLASSES, [1, -1, 0], 3).classes.tolist() == [list(RED), list(GREEN)]


def test_a_run_without_a_file_of_names_has_numbers(tmp_path):
    assert name_regions(tmp_path, 2).names == ("cluster 0", "cluster 1")
    write_named(tmp_path / "regions.toml", NAMED, "sheet.png")
    assert name_regions(tmp_path, 3).names == ("road", "tree", "road")
