from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.partitions import client_names, partition, training_images
from fusseg.data.partitions.dirichlet import deal_dirichlet
from fusseg.data.partitions.dominant import UNLABELED, count_labels, dominant_classes
from fusseg.data.partitions.grouping import apportion, split_evenly
from fusseg.data.partitions.partition_file import dump_partition


def dataset_of(order=(), **sites):
    """Sites with so many images each, named 00, 01 and so on."""
    items = (
        Item(site, f"{number:02d}", "", Path(f"{site}{number}.jpg"))
        for site in sorted(sites)
        for number in range(sites[site])
    )
    return Dataset(tuple(items), None, order)


FOUR = dataset_of(a=2, b=3, c=2, d=4)


def deal(dataset, min_images=2, **settings):
    """Images of each client, as site and stem."""
    held = {}
    for item in partition(dataset.items, dataset, DataConfig(**settings), min_images):
        held.setdefault(item.client, []).append(f"{item.site}{item.stem}")
    return held


def sizes(held):
    return {client: len(images) for client, images in held.items()}


def refused(error, dataset=FOUR, min_images=2, **settings):
    with pytest.raises(error) as caught:
        deal(dataset, min_images, **settings)
    return str(caught.value)


def test_each_site_is_a_client():
    assert sizes(deal(FOUR)) == {"a": 2, "b": 3, "c": 2, "d": 4}
    assert deal(FOUR, num_clients=4) == deal(FOUR)


def test_consecutive_sites_are_joined_evenly():
    assert sizes(deal(FOUR, num_clients=3)) == {"client-00": 5, "client-01": 2, "client-02": 4}
    assert sizes(deal(FOUR, num_clients=1)) == {"client-00": 11}
    ordered = dataset_of(("d", "b"), a=2, b=3, c=2, d=4)
    held = deal(ordered, num_clients=2)
    assert {image[0] for image in held["client-00"]} == {"d", "b"}


def test_more_clients_than_sites_need_blocks():
    assert refused(ConfigError, num_clients=5) == (
        "data.num_clients 5 is more than the 4 training sites; set data.partition = "
        '"blocks" to cut sites up'
    )
    assert refused(ConfigError, num_clients=3, partition="blocks") == (
        "data.num_clients 3 is less than the 4 training sites; set data.partition = "
        '"site" to join sites'
    )


def test_blocks_are_runs_of_file_names():
    held = deal(dataset_of(a=5, b=3), partition="blocks", num_clients=3)
    assert held == {
        "a-00": ["a00", "a01", "a02"],
        "a-01": ["a03", "a04"],
        "b-00": ["b00", "b01", "b02"],
    }
    assert sizes(deal(FOUR, partition="blocks")) == {"a-00": 2, "b-00": 3, "c-00": 2, "d-00": 4}


@pytest.mark.parametrize(
    ("images", "num_parts", "expected"),
    [
        ((124, 101, 142), 6, [2, 2, 2]),  # shares 2.03, 1.65, 2.32
        ((124, 101, 142), 18, [6, 5, 7]),  # 6.08, 4.95, 6.96
        ((10, 10, 10), 4, [2, 1, 1]),  # of equal remainders the first
        ((1, 1, 98), 5, [1, 1, 3]),  # 0.05 of 5 is made up to 1
        ((30, 5, 65), 4, [1, 1, 2]),  # 5 gets 1; of 3 left: 0.95 and 2.05, so 30 gets 1 as well
        ((7,), 3, [3]),
    ],
)
def test_parts_are_shared_by_the_largest_remainder(images, num_parts, expected):
    assert apportion(images, num_parts) == expected


def test_parts_of_a_site_differ_by_at_most_one():
    assert split_evenly(11, 3) == [4, 4, 3]
    assert split_evenly(6, 3) == [2, 2, 2]


def test_images_are_dealt_out_evenly_at_random():
    config = {"partition": "iid", "num_clients": 3}
    held = deal(FOUR, **config)
    assert sorted(sizes(held).values()) == [3, 4, 4]
    assert deal(FOUR, **config) == held
    assert deal(FOUR, partition_seed=1, **config) != held
    assert len(deal(FOUR, partition="iid")) == 4


def test_names_of_clients_sort_in_order():
    assert client_names(2) == ["client-00", "client-01"]
    names = client_names(101)
    assert (names[7], names[100]) == ("client-007", "client-100")
    assert sorted(names) == names


def test_small_clients_are_refused():
    one = dataset_of(a=1, b=3)
    assert refused(DataError, one) == (
        "site 'a' has 1 training image, at least 2 are needed; "
        'add images, move the site out of data.root, or set data.train_sites = ["b"]'
    )
    assert refused(DataError, one, train_sites=("a", "b")).endswith(
        "; add images or leave the site out of data.train_sites"
    )
    assert refused(DataError, dataset_of(a=1)).endswith("at least 2 are needed; add images")
    many = dataset_of(a=1, **dict.fromkeys("bcdefghij", 2))
    assert refused(DataError, many).endswith("or name the other 9 sites in data.train_sites")
    assert refused(DataError, dataset_of(a=3, b=3), partition="blocks", num_clients=3) == (
        "client 'a-01' has 1 training image, at least 2 are needed; lower data.num_clients"
    )
    assert refused(ConfigError, partition="iid", num_clients=6) == (
        "data.num_clients 6 is too many for 11 training images, each client needs at least 2; "
        "lower it"
    )
    # Joined with its neighbor, a site of one image is no trouble.
    assert sizes(deal(one, num_clients=1)) == {"client-00": 4}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sites", "unknown data.partition 'sites'; did you mean 'site'?"),
        ("colum:x", "unknown data.partition 'colum:x'; did you mean 'column:...'?"),
        ("site:x", "data.partition must be 'site', got 'site:x'"),
        ("iid:", "data.partition must be 'iid', got 'iid:'"),
        ("file", "data.partition must be 'file:PATH', got 'file'"),
        ("file:", "data.partition must be 'file:PATH', got 'file:'"),
    ],
)
def test_partitions_that_make_no_sense_are_named(name, message):
    assert refused(ConfigError, partition=name) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clients": -1}, "data.num_clients must be at least 0, got -1"),
        ({"alpha": 0.0}, "data.alpha must be above 0, got 0.0"),
        ({"partition_seed": -1}, "data.partition_seed must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        DataConfig(**settings)
    assert str(caught.value) == message


@pytest.fixture
def labeled(tmp_path):
    """Ten images, of whose masks 0 to 5 show most of class 0, the others of class 1."""
    items = []
    for number in range(10):
        mask = np.full((4, 4), 0 if number < 6 else 1, np.uint8)
        mask[0] = 1 if number < 6 else 0
        Image.fromarray(mask).save(tmp_path / f"{number}.png")
        items.append(Item("a", str(number), "", Path("no image"), tmp_path / f"{number}.png"))
    return Dataset(tuple(items), Classes(("x", "y"), 255))


def test_classes_are_counted_and_the_largest_dominates(labeled, tmp_path):
    mask = np.array([[255] * 4, [255, 1, 1, 1], [255, 0, 0, 0], [255] * 4], np.uint8)
    Image.fromarray(mask).save(tmp_path / "9.png")
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "8.png")
    unmasked = Item("a", "10", "", Path("no image"))
    counts = count_labels([*labeled.items[5:], unmasked], labeled.classes)
    assert counts.tolist() == [[12, 4], [4, 12], [4, 12], [0, 0], [3, 3], [0, 0]]
    assert dominant_classes(counts).tolist() == [0, 1, 1, UNLABELED, 0, UNLABELED]


def test_a_dirichlet_partition_needs_masks_but_no_images(labeled):
    config = {"partition": "dirichlet", "num_clients": 2, "alpha": 1.0}
    held = deal(labeled, **config)
    assert sorted(sizes(held)) == ["client-00", "client-01"]
    assert sum(sizes(held).values()) == 10
    assert min(sizes(deal(labeled, min_images=4, **config)).values()) >= 4
    assert any(deal(labeled, partition_seed=seed, **config) != held for seed in range(1, 4))


def test_classes_without_a_file_are_inferred_for_a_dirichlet_partition(labeled):
    config = {"partition": "dirichlet", "num_clients": 2, "alpha": 1.0}
    assert deal(Dataset(labeled.items, None), **config) == deal(labeled, **config)


def test_images_without_a_label_are_dealt_out_like_a_class(labeled):
    void = Image.fromarray(np.full((4, 4), 255, np.uint8))
    for item in labeled.items:
        void.save(item.mask)
    held = deal(labeled, partition="dirichlet", num_clients=2, alpha=100.0)
    assert sum(sizes(held).values()) == 10


def test_an_image_without_a_mask_cannot_be_dealt_out_by_class(labeled):
    items = (*labeled.items, Item("a", "z", "", Path("z.jpg")))
    dataset = Dataset(items, labeled.classes)
    assert refused(DataError, dataset, partition="dirichlet", num_clients=2) == (
        'data.partition "dirichlet" needs the dominant class of each image, but 1 of 11 training '
        "images have no mask, the first: image 'z' of site 'a'; add masks, leave the images out "
        "with data.train_list, or choose another partition"
    )
    assert "11 of 11 training" in refused(DataError, FOUR, partition="dirichlet")


def test_large_alpha_is_even_and_small_alpha_is_not():
    classes = np.repeat([0, 1, 2], 200)
    even = deal_dirichlet(classes, 4, 1e6, 2, seed=0)
    for value in range(3):
        counts = Counter(even[classes == value].tolist())
        assert all(49 <= counts[client] <= 51 for client in range(4))
    uneven = deal_dirichlet(classes, 4, 0.01, 2, seed=0)
    for value in range(3):
        assert max(Counter(uneven[classes == value].tolist()).values()) > 150


def test_shares_are_those_of_the_draw():
    """One class, three clients: sizes follow from the first permutation and draw of the seed."""
    generator = np.random.default_rng(7)
    order = generator.permutation(50)
    ends = np.cumsum(generator.dirichlet([0.8] * 3))[:2] * 50
    first, second = np.floor(ends + generator.random()).astype(int)
    clients = deal_dirichlet(np.zeros(50, np.int64), 3, 0.8, 0, seed=7)
    assert set(np.flatnonzero(clients == 0)) == set(order[:first])
    assert set(np.flatnonzero(clients == 1)) == set(order[first:second])
    assert set(np.flatnonzero(clients == 2)) == set(order[second:])


def test_too_few_images_for_all_clients_are_refused():
    with pytest.raises(ConfigError) as caught:
        deal_dirichlet(np.zeros(10, np.int64), 4, 0.5, 3, seed=0)
    assert str(caught.value) == (
        "10 images are too few for 4 clients of at least 3 images, a batch; lower "
        "data.num_clients or local.batch_size"
    )


def test_drawing_ends_after_a_hundred_draws():
    with pytest.raises(ConfigError) as caught:
        deal_dirichlet(np.zeros(12, np.int64), 4, 0.001, 3, seed=0)
    assert str(caught.value) == (
        "in 100 draws with data.alpha 0.001 and 4 clients, the smallest client never got more than "
        "0 images, but needs 3, a batch; raise data.alpha, lower data.num_clients or "
        "local.batch_size, or choose another data.partition_seed"
    )


@pytest.fixture
def saved(tmp_path):
    """A partition of `FOUR` in a file, and how to write another."""
    path = tmp_path / "partition.csv"
    config = DataConfig(partition="iid", num_clients=2)
    path.write_text(dump_partition(partition(FOUR.items, FOUR, config)))
    return path


def test_a_saved_partition_is_the_same_again(saved):
    assert saved.read_text().splitlines()[0] == "client,site,stem"
    held = deal(FOUR, partition=f"file:{saved}")
    assert held == deal(FOUR, partition="iid", num_clients=2)
    # Images that are in the file and do not train are passed over.
    some = partition(FOUR.items[:5], FOUR, DataConfig(partition=f"file:{saved}"))
    assert {(item.site, item.stem) for item in some} == {
        (item.site, item.stem) for item in FOUR.items[:5]
    }


def test_every_training_image_must_be_in_the_file_once(saved):
    lines = saved.read_text().splitlines()
    config = {"partition": f"file:{saved}"}

    def message(*content):
        saved.write_text("\n".join([lines[0], *content]))
        return refused(DataError, **config)

    assert message(*lines[1:-2]).startswith("2 of 11 training images are not in the partition, ")
    client, site, stem = lines[1].split(",")
    image = f"image {stem!r} of site {site!r} on line"
    assert message(*lines[1:], f"x,{site},{stem}") == (
        f"{image} 13 is on line 2 already; each image has one client: {saved}"
    )
    assert message(*lines[2:], f" ,{site},{stem}") == f"{image} 12 has no client; name one: {saved}"
    assert message(*lines[1:], "x,a,99") == (
        "image '99' of site 'a' on line 13 does not exist; write the partition again for this "
        f"data: {saved}"
    )
    assert message(f"a/b,{site},{stem}") == (
        f"client 'a/b' on line 2 has a slash in its name; rename it: {saved}"
    )
    assert message(*lines[2:], f"alone,{site},{stem}") == (
        "client 'alone' has 1 training image, at least 2 are needed; write another partition"
    )
    saved.write_text("client,stem\n")
    assert refused(DataError, **config) == (
        f"partition has no column 'site' among client, stem: {saved}"
    )
    assert client


def test_a_file_decides_the_number_of_clients(saved):
    message = refused(ConfigError, partition=f"file:{saved}", num_clients=2)
    assert message == (
        f"data.num_clients is 2, but data.partition 'file:{saved}' decides how many clients there "
        "are; set it to 0"
    )


def test_crops_stay_with_the_client_of_their_image():
    config = DataConfig(partition="iid", num_clients=2, crops="five")
    whole = {(item.site, item.stem): item.client for item in partition(FOUR.items, FOUR, config)}
    crops = training_images(FOUR, config)
    assert len(crops) == 55
    for crop in crops:
        assert whole[crop.site, crop.stem.partition("#")[0]] == crop.client
    assert len({(crop.site, crop.stem) for crop in crops}) == 55
