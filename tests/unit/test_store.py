import hashlib
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from fusseg.core.errors import DataError
from fusseg.features.cache.store import FeatureSettings, Store, list_stores, open_store
from fusseg.features.cache.writer import writing

SETTINGS = FeatureSettings("filterbank", "f" * 64, (16, 32), "crop", "bilinear")
SHAPE = (2, 3, 2)


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


def feature_map(value):
    return np.full(SHAPE, value, dtype=np.float16)


def row(features):
    return features, features.mean(axis=(0, 1), dtype=np.float32)


def fill(store, *names):
    """Commit one row per name, whose features are all its number in the alphabet."""
    with writing(store) as writer:
        for name in names:
            writer.append(digest(name), *row(feature_map(ord(name))))


def expect_rows(store, *names):
    assert store.digests() == [digest(name) for name in names]
    assert [row.tolist() for row in store.maps()] == [feature_map(ord(n)).tolist() for n in names]
    assert store.pooled().tolist() == [[ord(name)] * 2 for name in names]


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path, "a", SETTINGS, SHAPE)


def test_a_new_store_has_no_rows(store):
    assert store.digests() == []
    assert store.maps().shape == (0, 2, 3, 2)
    assert store.pooled().shape == (0, 2)
    assert store.row_bytes == 24


def test_rows_are_read_back_in_the_order_they_were_appended(store):
    fill(store, "x", "y")
    fill(store, "b")
    expect_rows(store, "x", "y", "b")


def test_the_pooled_row_is_the_mean_feature(store):
    features = np.arange(12, dtype=np.float16).reshape(SHAPE)
    with writing(store) as writer:
        writer.append(digest("x"), *row(features))
    assert store.pooled().tolist() == [[5.0, 6.0]]


def test_rows_may_come_in_any_memory_layout(store):
    features = np.arange(12, dtype=np.float16).reshape(SHAPE[::-1]).transpose(2, 1, 0)
    with writing(store) as writer:
        writer.append(digest("x"), *row(features))
    assert store.maps()[0].tolist() == features.tolist()


def test_rows_do_not_count_before_they_are_committed(store):
    with writing(store) as writer:
        writer.append(digest("x"), *row(feature_map(1)))
        assert store.digests() == []
        writer.commit()
        assert store.digests() == [digest("x")]
        writer.append(digest("y"), *row(feature_map(2)))
        assert store.digests() == [digest("x")]
    assert store.digests() == [digest("x"), digest("y")]


class KillError(Exception):
    """Stands for a process that ends at this point."""


def die_before_the_commit(store, name):
    with writing(store) as writer:
        writer.append(digest(name), *row(feature_map(9)))
        raise KillError


def test_rows_of_a_process_that_died_are_overwritten(store):
    fill(store, "x")
    with pytest.raises(KillError):
        die_before_the_commit(store, "y")
    expect_rows(store, "x")
    assert (store.path / "features.f16").stat().st_size == 2 * store.row_bytes
    fill(store, "b", "c")
    expect_rows(store, "x", "b", "c")
    assert (store.path / "features.f16").stat().st_size == 3 * store.row_bytes


@pytest.mark.parametrize("kept", [1, 23])
def test_a_row_cut_off_in_the_middle_is_overwritten(kept, store):
    fill(store, "x")
    with (store.path / "features.f16").open("ab") as file:
        file.write(b"\1" * kept)
    fill(store, "y")
    expect_rows(store, "x", "y")


@pytest.mark.parametrize("kept", [1, 63, 64])
def test_a_torn_index_line_does_not_count_and_is_overwritten(kept, store):
    fill(store, "x", "y")
    index = store.path / "index.txt"
    index.write_bytes(index.read_bytes()[: 65 + kept])
    expect_rows(store, "x")
    fill(store, "b")
    expect_rows(store, "x", "b")


@pytest.mark.parametrize("bad", [b"\xff", b"\0", b"A", b"g", b"\n"])
@pytest.mark.parametrize("place", [0, 63, 64])
def test_a_damaged_index_counts_up_to_its_first_bad_line(bad, place, store):
    fill(store, "x", "y", "z")
    index = store.path / "index.txt"
    content = bytearray(index.read_bytes())
    content[65 + place : 66 + place] = b"\xff" if bad == b"\n" and place == 64 else bad
    index.write_bytes(content)
    expect_rows(store, "x")
    fill(store, "b")
    expect_rows(store, "x", "b")


@pytest.mark.parametrize("damaged", ["features.f16", "pooled.f32"])
def test_an_index_longer_than_the_data_counts_as_far_as_the_data_reach(damaged, store):
    fill(store, "x", "y", "z")
    data = store.path / damaged
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 3 * 2 - 1])
    expect_rows(store, "x")
    fill(store, "b")
    expect_rows(store, "x", "b")


def test_an_index_without_data_counts_nothing(store):
    fill(store, "x")
    (store.path / "features.f16").unlink()
    assert store.digests() == []
    fill(store, "y")
    expect_rows(store, "y")


def test_features_of_another_shape_are_refused_and_nothing_is_written(store):
    message = f"features of shape (2, 2, 2) do not fit the store of shape (2, 3, 2): {store.path}"
    with (
        pytest.raises(DataError, match=f"^{re.escape(message)}$"),
        writing(store) as writer,
    ):
        writer.append(digest("x"), *row(np.zeros((2, 2, 2), dtype=np.float16)))
    assert store.digests() == []


def test_opening_again_finds_the_rows(store, tmp_path):
    fill(store, "x")
    again = open_store(tmp_path, "a", SETTINGS, SHAPE)
    assert again == store
    expect_rows(again, "x")


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "e" * 64},
        {"image_size": (32, 16)},
        {"fit": "stretch"},
        {"interpolation": "bicubic"},
    ],
)
def test_settings_that_change_features_have_their_own_folder(change, store, tmp_path):
    fill(store, "x")
    other = open_store(tmp_path, "a", replace(SETTINGS, **change), SHAPE)
    assert other.path != store.path
    assert other.digests() == []


def test_another_name_of_the_same_backbone_shares_the_folder(store, tmp_path):
    renamed = replace(SETTINGS, backbone="./models/filterbank")
    assert open_store(tmp_path, "a", renamed, SHAPE).path == store.path


ODD_NAMES = [
    "a b",
    "a_b",
    "a/b",
    "a.b",
    "ä",
    "ö",
    "..",
    ".",
    "x" * 60,
    "x" * 61,
    "日本",
    "日木",
    "",
]


def test_sites_with_odd_names_have_a_folder_each(tmp_path):
    paths = {open_store(tmp_path, name, SETTINGS, SHAPE).path for name in ODD_NAMES}
    assert len(paths) == len(ODD_NAMES)
    assert all(path.parent == tmp_path for path in paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", path.name) for path in paths)


def test_listing_names_site_settings_and_shape(store, tmp_path):
    other = open_store(tmp_path, "ä b", replace(SETTINGS, fit="stretch"), (4, 4, 8))
    (tmp_path / "neighbors").mkdir()
    (tmp_path / "notes.txt").touch()
    assert sorted(list_stores(tmp_path), key=lambda found: found.site) == [store, other]


def test_a_missing_cache_folder_lists_nothing(tmp_path):
    assert list_stores(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ('{"site": "a"', "Expecting ',' delimiter: line 1 column 13 (char 12)"),
        ("[1]", "'list' object has no attribute 'keys'"),
    ],
)
def test_a_damaged_description_is_an_error_that_names_the_folder(content, reason, store, tmp_path):
    (store.path / "meta.json").write_text(content)
    message = f"damaged cache folder, delete it: {store.path} ({reason})"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_store(tmp_path, "a", SETTINGS, SHAPE)


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"name": "a thing of ours"}', "\xff", "[" * 100_000, None]
)
def test_foreign_and_damaged_folders_are_not_listed(content, store, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    if content is None:
        (foreign / "meta.json").mkdir()
    else:
        (foreign / "meta.json").write_text(content, encoding="latin-1")
    assert list_stores(tmp_path) == [store]


@pytest.mark.parametrize("change", [{"shape": 5}, {"image_size": None}, {"format": 0}])
def test_a_damaged_store_does_not_hide_the_others(change, store, tmp_path):
    other = open_store(tmp_path, "b", SETTINGS, SHAPE)
    meta = json.loads((other.path / "meta.json").read_text())
    (other.path / "meta.json").write_text(json.dumps({**meta, **change}))
    assert list_stores(tmp_path) == [store]


@pytest.mark.parametrize("missing", ["format", "site", "fingerprint", "image_size", "shape"])
def test_a_description_that_lacks_a_field_is_of_another_version(missing, store, tmp_path):
    meta = json.loads((store.path / "meta.json").read_text())
    del meta[missing]
    (store.path / "meta.json").write_text(json.dumps(meta))
    message = f"cache folder of another version of fusseg, delete it: {store.path}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_store(tmp_path, "a", SETTINGS, SHAPE)


def test_a_folder_of_another_format_is_refused(store, tmp_path):
    meta = json.loads((store.path / "meta.json").read_text())
    (store.path / "meta.json").write_text(json.dumps({**meta, "format": 2}))
    message = f"cache folder of another version of fusseg, delete it: {store.path}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_store(tmp_path, "a", SETTINGS, SHAPE)


def test_features_of_another_shape_in_the_folder_are_refused(store, tmp_path):
    message = (
        f"cache folder {store.path} holds features of shape [2, 3, 2], expected [2, 3, 4]; "
        "delete the folder"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_store(tmp_path, "a", SETTINGS, (2, 3, 4))


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(tmp_path):
    (tmp_path / "file").touch()
    path = Store(tmp_path / "file" / f"a-{SETTINGS.key[:16]}", "a", SETTINGS, SHAPE).path
    message = (
        f"cannot write the feature cache {path}: Not a directory; choose another folder "
        "with --cache or FUSSEG_CACHE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_store(tmp_path / "file", "a", SETTINGS, SHAPE)


def test_a_commit_without_new_rows_changes_nothing(store):
    with writing(store) as writer:
        writer.commit()
        writer.append(digest("x"), *row(feature_map(ord("x"))))
        writer.commit()
        writer.commit()
    expect_rows(store, "x")


def test_a_store_that_may_not_be_touched_is_opened_all_the_same(store, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    fill(store, "x")
    monkeypatch.setattr(os, "utime", refuse)
    expect_rows(open_store(tmp_path, "a", SETTINGS, SHAPE), "x")


def test_a_group_can_share_the_cache(tmp_path):
    before = os.umask(0o002)
    try:
        store = open_store(tmp_path, "a", SETTINGS, SHAPE)
        fill(store, "x")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in store.path.iterdir()}
    names = ["features.f16", "index.txt", "meta.json", "pooled.f32"]
    assert [modes[name] for name in names] == [0o664] * 4


def test_mirrored_features_have_a_key_of_their_own_and_others_keep_theirs():
    # As written by version 0.1, which knew no mirror images.
    assert SETTINGS.key == "09f8dfe7efc904d94fbaa2f4b44cf64403cebd6d3adcba43294bfbd281af2917"
    assert replace(SETTINGS, mirrored=True).key != SETTINGS.key


def test_zoomed_features_have_a_key_of_their_own_and_others_keep_theirs(tmp_path):
    assert replace(SETTINGS, zoomed=False).key.startswith("09f8dfe7efc904d9")
    zoomed = replace(SETTINGS, zoomed=True)
    assert len({one.key for one in (SETTINGS, zoomed, replace(zoomed, mirrored=True))}) == 3
    stores = [open_store(tmp_path, "s", one, SHAPE) for one in (SETTINGS, zoomed)]
    assert sorted(map(str, list_stores(tmp_path))) == sorted(map(str, stores))


def test_bfloat16_features_have_a_key_of_their_own_and_say_so(tmp_path):
    narrow = replace(SETTINGS, precision="bfloat16")
    assert narrow.key != SETTINGS.key
    store = open_store(tmp_path, "s", narrow, SHAPE)
    assert json.loads((store.path / "meta.json").read_text())["precision"] == "bfloat16"
    assert list_stores(tmp_path) == [store]


def test_mean_features_are_mapped_and_writing_to_them_changes_no_file(store):
    fill(store, "x")
    pooled = store.pooled()
    pooled[:] = 0
    expect_rows(store, "x")


def test_a_store_from_before_there_was_a_choice_is_read(tmp_path):
    store = open_store(tmp_path, "s", SETTINGS, (2, 4, 3))
    meta = json.loads((store.path / "meta.json").read_text())
    for name in ("mirrored", "precision", "cache", "zoomed"):
        del meta[name]
    (store.path / "meta.json").write_text(json.dumps(meta))
    assert open_store(tmp_path, "s", SETTINGS, (2, 4, 3)) == store
    assert list_stores(tmp_path) == [store]


def test_another_meaning_of_values_has_a_key_of_its_own_and_others_keep_theirs(tmp_path):
    # That of the first release: caches stay valid.
    plain = FeatureSettings("filterbank", "f" * 64, (16, 32), "crop", "bilinear")
    same = replace(plain, white_levels=(65535,) * 4, alpha_channel="blend")
    assert plain.key == same.key
    assert plain.key.startswith("09f8dfe7efc904d9")
    twelve, ignoring = (
        replace(plain, white_levels=(4095,) * 4),
        replace(plain, alpha_channel="ignore"),
    )
    assert len({plain.key, twelve.key, ignoring.key}) == 3
    for settings in (twelve, ignoring):
        open_store(tmp_path, "a", settings, SHAPE)
    found = {one.settings for one in list_stores(tmp_path)}
    assert found == {twelve, ignoring}
