from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fusseg.cluster.workers import Workers, describe_surroundings, find_fault
from fusseg.config.schema import BackboneConfig, ComputeConfig, Config, DataConfig
from fusseg.core.errors import DataError
from fusseg.data.items import Item
from fusseg.features.backbones import load_backbone
from fusseg.features.cache.store import FeatureSettings, Store
from fusseg.features.extraction import Elsewhere, Progress, extract_features
from fusseg.features.on_workers.shards import (
    BackboneSource,
    Outcome,
    Shard,
    cut_shards,
    leftover,
    read_outcomes,
    write_shard,
)
from fusseg.features.pipeline import DigestedItem
from fusseg.features.views import training_views

SOURCE = BackboneSource("filterbank", ComputeConfig())


@pytest.fixture
def store(tmp_path):
    fingerprint = load_backbone("filterbank").fingerprint
    settings = FeatureSettings("filterbank", fingerprint, (16, 24), "crop", "bilinear")
    path = tmp_path / "cache" / "s-0"
    path.mkdir(parents=True)
    return Store(path, "s", settings, (2, 3, load_backbone("filterbank").feature_dim))


@pytest.fixture
def write_items(tmp_path):
    """Small images of noise; those of some numbers are broken."""

    def write(count, site="s", broken=()):
        items = []
        for index in range(count):
            path = tmp_path / f"{site}{index}.png"
            pixels = np.random.default_rng(index).integers(0, 256, (16, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            if index in broken:
                path.write_bytes(f"no image {index}".encode())
            items.append(Item(site, f"{index}", "", path))
        return items

    return write


@pytest.fixture
def workers():
    """One worker that is a thread of this process."""
    with ThreadPoolExecutor(1) as executor:
        yield Workers(executor, describe_surroundings([], []), 1)


def entries_of(items):
    return [DigestedItem(item, f"{index:064x}") for index, item in enumerate(items)]


def test_shards_are_whole_groups_of_about_64_images(store, write_items):
    entries = entries_of(write_items(1) * 150)
    lengths = {
        size: [len(shard.entries) for shard in cut_shards(store, entries, SOURCE, size)]
        for size in (1, 5, 64, 100)
    }
    assert lengths == {1: [64, 64, 22], 5: [60, 60, 30], 64: [64, 64, 22], 100: [100, 50]}


def test_what_is_left_over_are_the_readable_images_behind_the_last_whole_group(store, write_items):
    entries = entries_of(write_items(6))
    shard = Shard(store, tuple(entries), SOURCE, 2)
    whole = [Outcome(entry, "", readable=True) for entry in entries]
    assert leftover(shard, whole) == ()
    unread = [replace(whole[1], reason="broken", readable=False), *whole[:1], *whole[2:]]
    assert leftover(shard, unread) == (entries[5],)
    not_finite = [replace(whole[1], reason="not finite"), *whole[:1], *whole[2:]]
    assert leftover(shard, not_finite) == ()


def test_a_shard_that_is_there_is_not_written_again(store, write_items):
    shard = Shard(store, tuple(entries_of(write_items(3, broken=(1,)))), SOURCE, 2)
    write_shard(shard)
    files = sorted(shard.store.path.iterdir())
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    write_shard(shard)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before
    assert [outcome.readable for outcome in read_outcomes(shard)] == [False, True, True]
    assert shard.store.digests() == [shard.entries[0].digest, shard.entries[2].digest]
    assert list(store.path.rglob(".*")) == []


def test_a_worker_without_the_images_or_with_other_weights_is_an_error(store, write_items):
    shard = Shard(store, tuple(entries_of(write_items(2))), SOURCE, 1)
    other = replace(store, settings=replace(store.settings, fingerprint="0" * 64))
    with pytest.raises(
        DataError, match=f"'filterbank' has the fingerprint .*, not {'0' * 16}; give"
    ):
        write_shard(replace(shard, target=other))
    shard.entries[1].item.image.unlink()
    with pytest.raises(DataError, match=r"a worker does not see the image .*s1\.png; share"):
        write_shard(shard)


def test_a_damaged_shard_is_an_error(store, write_items):
    shard = Shard(store, tuple(entries_of(write_items(2))), SOURCE, 1)
    write_shard(shard)
    (shard.store.path / "outcomes.json").write_text('[[7, "", true]]')
    with pytest.raises(DataError, match=f"damaged shard, delete it: {shard.store.path}"):
        read_outcomes(shard)


def run(stages):
    events = []
    while True:
        try:
            events.append(next(stages))
        except StopIteration as stop:
            return events, stop.value


def bytes_of(cache):
    return {
        path.relative_to(cache): path.read_bytes()
        for path in cache.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize(
    ("batch_size", "cache"),
    [(1, "float16"), (3, "float16"), (40, "float16"), (100, "float16"), (3, "int8"), (40, "pca:5")],
)
def test_workers_fill_stores_with_the_same_bytes(batch_size, cache, write_items, workers, tmp_path):
    items = [*write_items(150, broken=(0, 70, 71, 149)), *write_items(20, "t", broken=(19,))]
    config = Config(
        data=DataConfig(image_size=(16, 24)),
        backbone=BackboneConfig(batch_size=batch_size, cache=cache),
    )
    backbone = load_backbone("filterbank")
    views = training_views(items, backbone, config)
    here, there = tmp_path / "here", tmp_path / "there"
    events, features = run(extract_features(views, backbone, batch_size, here))
    elsewhere = Elsewhere(workers, config.compute)
    stages = extract_features(views, backbone, batch_size, there, elsewhere)
    # Stopped in the middle of the first shard, and begun again.
    while next(stages) != Progress("extract", 5, 170):
        pass
    stages.close()
    stages = extract_features(views, backbone, batch_size, there, elsewhere)
    events_there, features_there = run(stages)
    assert bytes_of(there) == bytes_of(here)
    assert features_there.skipped == features.skipped
    assert len(features.skipped) == 5
    read = [event for event in events if event.stage == "read"]
    assert [event for event in events_there if event.stage == "read"] == read


def test_a_worker_says_why_it_cannot_stand_in(tmp_path):
    token = tmp_path / "token"
    token.touch()
    there = describe_surroundings([token], [tmp_path, tmp_path / "not here either"])
    assert there.inputs == (tmp_path,)
    assert find_fault(there) == ""
    assert "not 0.0.0; install the same" in find_fault(replace(there, version="0.0.0"))
    assert "not 1.0; install the same" in find_fault(replace(there, torch="1.0"))
    gone = tmp_path / "gone"
    assert f"does not see {gone}; share" in find_fault(replace(there, inputs=(gone,)))
    assert f"does not see {gone}; share" in find_fault(replace(there, tokens=(gone / "token",)))
    token.unlink()
    assert f"its {tmp_path} is not the same folder as on this machine" in find_fault(there)
