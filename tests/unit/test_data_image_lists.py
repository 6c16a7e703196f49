from pathlib import Path

import pytest

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.image_lists import pick_listed
from fusseg.data.items import Dataset, Item
from fusseg.data.selection import select_held_out, select_training

DATASET = Dataset(
    tuple(
        Item(site, stem, "", Path(f"{stem}.jpg"))
        for site, stems in {"a": "12", "b": "34", "c": "15"}.items()
        for stem in stems
    ),
    None,
)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def names(items):
    return [f"{item.site}{item.stem}" for item in items]


def refused(path, items=DATASET.items):
    with pytest.raises(DataError) as caught:
        pick_listed(items, DATASET, path, "data.train_list")
    return str(caught.value)


def test_listed_images_are_kept_in_the_order_of_the_data(write):
    path = write("\ufeff4\r\n\r\n a/1 \n2\n4\n")
    assert names(pick_listed(DATASET.items, DATASET, path, "data.train_list")) == ["a1", "a2", "b4"]
    assert pick_listed(DATASET.items, DATASET, "", "data.train_list") == DATASET.items


def test_a_list_restricts_what_sites_select(write):
    config = DataConfig(train_sites=("a",), held_out_sites=("b",), train_list=write("2\n3\n5\n"))
    assert names(select_training(DATASET, config)) == ["a2"]
    assert names(select_held_out(DATASET, config)) == ["b3", "b4"]


def test_unknown_stems_are_counted_and_the_first_is_named(write):
    path = write("1.jpg\n3\nb/1\n")
    assert refused(path) == (
        "data.train_list names 3 images, of which 2 do not exist, the first: '1.jpg' on line 1; "
        f"write one stem or site/stem per line, without a suffix: {path}"
    )


def test_a_stem_of_several_sites_needs_its_site(write):
    path = write("\n1\n")
    assert refused(path) == (
        f"data.train_list names '1' on line 2, which exists at the sites a, c; "
        f"write site/stem: {path}"
    )


def test_a_list_that_leaves_nothing_is_refused(write):
    path = write("3\n4\n")
    assert refused(path, DATASET.items[:2]) == (
        "data.train_list names 2 images, but none of the 2 images of the chosen sites and "
        f"split; choose another list, sites or split: {path}"
    )


def test_lists_that_cannot_be_read_are_named(write, tmp_path):
    assert refused(write(" \n")) == (
        f"data.train_list names no image; write one stem per line: {tmp_path / 'list.txt'}"
    )
    assert refused(write("é".encode("latin-1"))) == (
        f"data.train_list is not UTF-8; save it as UTF-8: {tmp_path / 'list.txt'}"
    )
    missing = str(tmp_path / "no.txt")
    assert refused(missing) == (
        f"data.train_list cannot be read (No such file or directory): {missing}"
    )


def test_a_held_out_list_needs_sites():
    with pytest.raises(ConfigError) as caught:
        select_held_out(DATASET, DataConfig(held_out_list="x.txt"))
    assert str(caught.value) == (
        "data.held_out_list is 'x.txt', but data.held_out_sites is empty; name the sites to "
        "evaluate"
    )
