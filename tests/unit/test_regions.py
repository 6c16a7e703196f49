import pytest

from fusseg.core.errors import ConfigError
from fusseg.runs.regions import NamedCluster, join_clusters, load_regions, read_named, write_named

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 1)


def named(*names):
    colors = (RED, BLUE, GREEN)
    return [NamedCluster(number, name, colors[number]) for number, name in enumerate(names)]


def test_clusters_of_one_name_become_the_region_of_the_lowest_with_its_color():
    regions = join_clusters(named("road", "", "road")[::-1])
    assert [(one.index, one.name, one.color, one.clusters) for one in regions.regions] == [
        (0, "road", RED, (0, 2)),
        (1, "cluster 1", BLUE, (1,)),
    ]
    assert regions.index_of == (0, 1, 0)
    assert regions.num_clusters == 3
    assert regions.legend == {"road": RED, "cluster 1": BLUE}


def test_the_digest_follows_names_and_colors():
    before = join_clusters(named("a", "b", "c"))
    assert join_clusters(named("a", "b", "c")).digest == before.digest
    assert join_clusters(named("a", "b", "d")).digest != before.digest


def test_what_is_written_is_read_again(tmp_path):
    clusters = named('the "old" road', "", "Straße")
    write_named(tmp_path / "regions.toml", clusters, "contact_sheet.png")
    assert list(read_named(tmp_path / "regions.toml", 3)) == clusters
    assert (tmp_path / "regions.toml").read_text().count("[[regions]]") == 3
    assert load_regions(tmp_path, 3) == join_clusters(clusters)
    assert load_regions(tmp_path, 3, site="north") is None


FIRST = '[[regions]]\ncluster = 0\nname = "a"\ncolor = "#ff0000"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regions = [", "regions are not valid TOML ("),
        ("", "regions must be tables [[regions]], got None"),
        ("regions = 3", "regions must be tables [[regions]], got 3"),
        ("[[region]]", "unknown key 'region'; write [[regions]]"),
        (FIRST + "colour = 1", "unknown key 'colour'; did you mean 'color'?"),
        (FIRST + FIRST, "cluster 0 must occur once, got it twice or more"),
        (FIRST.replace("0\n", "7\n", 1), "unknown cluster 7; the model has 0 to 1"),
        (FIRST.replace("0\n", "true\n", 1), "cluster must be an integer in every [[regions]]"),
        (FIRST.replace('"a"', "5"), "name of cluster 0 must be text on one line, got 5"),
        (FIRST.replace('"a"', r'"a\nb"'), "name of cluster 0 must be text on one line, got 'a"),
        (FIRST.replace("#ff0000", "red"), "color of cluster 0 must be written as '#rrggbb'"),
        (FIRST, "every cluster must occur once, missing 1; add them, with an empty name if"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "regions.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_named(path, 2)
    assert str(error.value).startswith(message)
    assert str(path) in str(error.value)
