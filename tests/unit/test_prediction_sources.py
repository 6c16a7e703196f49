import os
from pathlib import Path

import pytest

from fusseg.core.errors import DataError
from fusseg.prediction.sources import find_images, result_files


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "day").mkdir(parents=True)
    for name in ("a.jpg", "day/b.png", "day/.hidden.png", "notes.txt"):
        (folder / name).touch()
    return folder


def predict(out, place):
    """Leave what a prediction leaves."""
    for file in result_files(out, Path(place)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_images_keep_their_path_below_the_folder(photos, tmp_path):
    assert find_images([photos], tmp_path / "out") == [
        (photos / "a.jpg", Path("a")),
        (photos / "day" / "b.png", Path("day/b")),
    ]


def test_results_of_earlier_predictions_are_no_images(photos, tmp_path):
    expected = find_images([photos], tmp_path / "out")
    predict(photos / "regions", "day/b")
    predict(photos / "day", "seen-at-noon")
    assert find_images([photos], tmp_path / "out") == expected
    assert find_images([photos / "**" / "*.png"], tmp_path / "out") == [
        (photos / "day" / "b.png", Path("day/b"))
    ]
    # Whoever names a file means it.
    regions, _, _ = result_files(photos / "regions", Path("day/b"))
    assert find_images([regions], tmp_path / "out") == [(regions, Path("b"))]


def test_a_description_beside_a_photo_does_not_make_it_a_result(photos, tmp_path):
    (photos / "day" / "b.json").touch()
    assert len(find_images([photos], tmp_path / "out")) == 2


def test_what_lies_in_the_folder_of_the_results_is_no_input(photos):
    assert [path.name for path, _ in find_images([photos], photos / "day")] == ["a.jpg"]


def test_one_place_for_two_images_is_refused_where_there_are_results(photos, tmp_path):
    (photos / "a.tif").touch()
    with pytest.raises(DataError, match=r"would both be written to a\.png"):
        find_images([photos], tmp_path / "out")
    assert len(find_images([photos])) == 3


def test_an_image_that_is_given_twice_is_one(photos, tmp_path):
    found = find_images([photos / "a.jpg", photos / "*.jpg"], tmp_path / "out")
    assert found == [(photos / "a.jpg", Path("a"))]


def test_a_name_that_cannot_be_written_is_refused_before_anything_is(photos, tmp_path):
    (photos / os.fsdecode(b"K\xfche.jpg")).touch()
    with pytest.raises(DataError, match=r"a name is not valid UTF-8, rename it: .*K\\udcfche"):
        find_images([photos], tmp_path / "out")
