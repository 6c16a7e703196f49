import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Dataset, Item
from fusseg.data.partitions import partition
from fusseg.data.partitions.dirichlet import deal_dirichlet
from fusseg.data.partitions.grouping import apportion, join_runs
from fusseg.data.partitions.partition_file import dump_partition

SITES = st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 15), min_size=1, max_size=6)
KINDS = st.sampled_from(["site", "iid", "blocks"])


def dataset_of(sites):
    items = (
        Item(site, f"{number:02d}", "", Path(f"{site}{number}.jpg"))
        for site in sorted(sites)
        for number in range(sites[site])
    )
    return Dataset(tuple(items), None)


def clients_of(items):
    return {(item.site, item.stem): item.client for item in items}


@given(SITES, KINDS, st.integers(0, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_image_has_one_client_whatever_the_order(sites, kind, num_clients, seed, shuffler):
    dataset = dataset_of(sites)
    config = DataConfig(partition=kind, num_clients=num_clients, partition_seed=seed)
    try:
        items = partition(dataset.items, dataset, config)
    except (ConfigError, DataError):
        reject()
    assert [(item.site, item.stem) for item in items] == [
        (item.site, item.stem) for item in dataset.items
    ]
    counts = Counter(item.client for item in items)
    assert len(counts) == (num_clients or len(sites))
    assert min(counts.values()) >= 2
    mixed = list(dataset.items)
    shuffler.shuffle(mixed)
    assert clients_of(partition(mixed, dataset, config)) == clients_of(items)
    if kind == "iid":
        assert max(counts.values()) - min(counts.values()) <= 1


@given(SITES, st.integers(0, 6))
def test_blocks_are_consecutive_and_of_one_site(sites, more):
    dataset = dataset_of(sites)
    config = DataConfig(partition="blocks", num_clients=len(sites) + more)
    try:
        items = partition(dataset.items, dataset, config)
    except (ConfigError, DataError):
        reject()
    changes = sum(a.client != b.client for a, b in pairwise(items))
    assert changes == len(sites) + more - 1
    assert all(item.client.rpartition("-")[0] == item.site for item in items)
    for site in sites:
        sizes = Counter(item.client for item in items if item.site == site).values()
        assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.integers(0, 30))
def test_parts_are_within_one_of_the_fair_share(sizes, more):
    num_parts = len(sizes) + more
    parts = apportion(sizes, num_parts)
    assert sum(parts) == num_parts
    assert min(parts) >= 1
    # Those above their minimum share what the others leave.
    fair = [num_parts * size / sum(sizes) for size in sizes]
    assert all(part <= share + 1 or part == 1 for part, share in zip(parts, fair, strict=True))
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    assert all(parts[small] <= parts[large] + 1 for small, large in pairwise(order))


@given(st.integers(1, 30), st.integers(1, 30))
def test_runs_of_sites_are_even(num_sites, num_groups):
    names = [f"s{number:02d}" for number in range(num_sites)]
    groups = list(join_runs(names, min(num_groups, num_sites)).values())
    assert groups == sorted(groups)
    counts = Counter(groups).values()
    assert len(counts) == min(num_groups, num_sites)
    assert max(counts) - min(counts) <= 1


@given(
    st.lists(st.integers(-1, 4), min_size=8, max_size=60),
    st.integers(1, 4),
    st.sampled_from([0.1, 0.5, 5.0]),
    st.integers(0, 100),
)
def test_a_dirichlet_deal_is_complete_large_enough_and_repeatable(classes, num, alpha, seed):
    values = np.array(classes)
    try:
        clients = deal_dirichlet(values, num, alpha, 2, seed)
    except ConfigError:
        reject()
    assert len(clients) == len(classes)
    counts = np.bincount(clients, minlength=num)
    assert len(counts) == num
    assert counts.min() >= 2
    np.testing.assert_array_equal(clients, deal_dirichlet(values, num, alpha, 2, seed))


@pytest.mark.parametrize("num_clients", [2, 5])
def test_dirichlet_shares_have_the_mean_and_spread_of_the_distribution(num_clients):
    """Over many seeds the shares of a client: mean 1/n, variance (1/n)(1-1/n)/(n alpha + 1)."""
    alpha, images = 0.5, 1000
    shares = [
        np.mean(deal_dirichlet(np.zeros(images, np.int64), num_clients, alpha, 0, seed) == 0)
        for seed in range(400)
    ]
    mean = 1 / num_clients
    variance = mean * (1 - mean) / (num_clients * alpha + 1)
    assert np.mean(shares) == pytest.approx(mean, abs=4 * np.sqrt(variance / 400))
    assert np.var(shares) == pytest.approx(variance, rel=0.3)


def test_a_class_of_one_image_goes_to_any_client():
    counts = Counter(
        int(deal_dirichlet(np.zeros(1, np.int64), 3, 1.0, 0, seed)[0]) for seed in range(300)
    )
    assert all(70 <= counts[client] <= 130 for client in range(3))


@given(SITES, st.integers(1, 4), st.integers(0, 9))
def test_saving_and_reading_a_partition_changes_nothing(sites, num_clients, seed):
    dataset = dataset_of(sites)
    config = DataConfig(partition="iid", num_clients=num_clients, partition_seed=seed)
    try:
        items = partition(dataset.items, dataset, config)
    except ConfigError:
        reject()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "partition.csv"
        path.write_text(dump_partition(items))
        again = partition(dataset.items, dataset, DataConfig(partition=f"file:{path}"))
        assert again == items
        assert dump_partition(again) == path.read_text()
