import json
import re
from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config
from fusseg.core.errors import DataError
from fusseg.deployment.site.site_disk import (
    Preparation,
    SiteSettings,
    load_memory,
    load_offer,
    load_preparation,
    load_settings,
    run_folder,
    save_memory,
    save_offer,
    save_preparation,
    save_settings,
)
from fusseg.deployment.wire.offer import make_offer
from fusseg.federation.state import Memory
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model

SETTINGS = SiteSettings("Köln", "/srv/images", "/var/cache", "onnx:/srv/dino.onnx", "pinned.toml")
OFFER = make_offer(Config(), "run1", "f" * 64, center=True)


@pytest.fixture
def memory(seeded):
    generator = seeded(0)
    return Memory(Model(initial_head(4, 3, generator), torch.randn(2, 3, generator=generator)))


def numbered(memory, number):
    model = memory.model
    return Memory(replace(model, centroids=torch.full_like(model.centroids, number)))


def first_number(folder, round_number):
    """A number of the centroids that a round goes on from."""
    return load_memory(folder, round_number).model.centroids[0, 0]


def refused(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("settings", [SETTINGS, SiteSettings("a", "/srv/images", "/var/cache")])
def test_settings_are_read_back(tmp_path, settings):
    save_settings(tmp_path / "new" / "folder", settings)
    assert load_settings(tmp_path / "new" / "folder") == settings


def test_an_offer_is_read_back(tmp_path):
    assert load_offer(tmp_path) is None
    save_offer(tmp_path, OFFER)
    assert load_offer(tmp_path) == OFFER
    other = replace(OFFER, run="run2")
    save_offer(tmp_path, other)
    assert load_offer(tmp_path) == other


@pytest.mark.parametrize("change", [{"version": "0.0.0"}, {"settings": "x"}, {"run": "../up"}])
def test_an_offer_of_another_version_does_not_hold(tmp_path, change):
    save_offer(tmp_path, OFFER)
    path = tmp_path / "offer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert load_offer(tmp_path) is None


@pytest.mark.parametrize(
    "noted",
    [
        Preparation(OFFER.digest, "ready"),
        Preparation(OFFER.digest, "refused", reason="the wrong backbone"),
        Preparation(OFFER.digest, "preparing", done=3, total=9),
    ],
)
def test_how_far_the_features_are_is_read_back(tmp_path, noted):
    save_preparation(tmp_path, noted)
    assert load_preparation(tmp_path, OFFER) == noted


def test_features_of_another_offer_are_not_begun(tmp_path):
    expected = Preparation(OFFER.digest, "preparing", "", 0, 0)
    assert load_preparation(tmp_path, OFFER) == expected
    save_preparation(tmp_path, Preparation("0" * 64, "ready"))
    assert load_preparation(tmp_path, OFFER) == expected


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("site.json", load_settings),
        ("offer.json", load_offer),
        ("ready.json", lambda folder: load_preparation(folder, OFFER)),
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"3"])
def test_a_damaged_file_is_named(tmp_path, name, load, content):
    (tmp_path / name).write_bytes(content)
    message = refused(load, tmp_path)
    assert message.startswith(f"damaged file: {tmp_path / name} (")
    assert message.endswith("); remove it and restart")


@pytest.mark.parametrize("content", [b"{}", b'{"name": "a"}', b'{"other": 1}'])
def test_a_file_with_other_keys_is_damaged_too(tmp_path, content):
    for name in ("site.json", "ready.json"):
        (tmp_path / name).write_bytes(content)
    assert refused(load_settings, tmp_path).startswith(f"damaged file: {tmp_path / 'site.json'} (")
    assert refused(load_preparation, tmp_path, OFFER).startswith(
        f"damaged file: {tmp_path / 'ready.json'} ("
    )


def test_missing_settings_are_named(tmp_path):
    path = tmp_path / "site.json"
    assert refused(load_settings, tmp_path) == f"cannot read {path}: No such file or directory"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "site"
    assert re.fullmatch(
        rf"cannot write {re.escape(str(folder))}/site.json: Not a directory",
        refused(save_settings, folder, SETTINGS),
    )


def test_every_run_has_its_folder(tmp_path):
    assert run_folder(tmp_path, "run1") == tmp_path / "runs" / "run1"


def test_an_own_model_is_read_back(tmp_path, memory, same_bits):
    assert load_memory(tmp_path, 1) is None
    save_memory(tmp_path, 1, memory)
    found = load_memory(tmp_path, 2)
    assert same_bits(found.model, memory.model)
    assert found.carried == {}


def test_what_the_objective_left_is_read_back_in_the_same_bits(tmp_path, memory, same_bits):
    """By names of its own, also those that the model has."""
    carried = {
        "centroids": torch.tensor([[0.1, float("inf")]]),
        "head.linear.weight": torch.tensor([1, -2]),
        "teacher.carried.bias": torch.tensor(3.0).bfloat16(),
        "none": torch.zeros(0, 4),
    }
    save_memory(tmp_path, 1, replace(memory, carried=carried))
    found = load_memory(tmp_path, 2)
    assert same_bits(found.model, memory.model)
    assert found.carried.keys() == carried.keys()
    for name, part in carried.items():
        assert found.carried[name].dtype == part.dtype
        assert torch.equal(found.carried[name], part)


def test_an_own_model_whose_parts_share_memory_is_read_back(tmp_path, seeded, same_bits):
    generator = seeded(0)
    head = initial_head(4, 3, generator)
    shared = Model(head, head["linear.weight"].T[:2, :3])
    save_memory(tmp_path, 1, Memory(shared, {"teacher": head["linear.weight"]}))
    found = load_memory(tmp_path, 2)
    assert same_bits(found.model, shared)
    assert torch.equal(found.carried["teacher"], head["linear.weight"])


def test_a_round_goes_on_from_the_model_before_it_also_when_it_is_repeated(tmp_path, memory):
    for number in (1, 2, 3):
        save_memory(tmp_path, number, numbered(memory, number))
    assert load_memory(tmp_path, 1) is None
    for number in (2, 3, 4):
        found = first_number(tmp_path, number)
        assert found == number - 1
    save_memory(tmp_path, 2, numbered(memory, 20))
    assert first_number(tmp_path, 2) == 1
    assert first_number(tmp_path, 3) == 20


def test_a_site_that_missed_rounds_goes_on_from_its_last_model(tmp_path, memory):
    save_memory(tmp_path, 2, numbered(memory, 2))
    assert first_number(tmp_path, 9) == 2


def test_models_of_the_last_five_rounds_are_kept(tmp_path, memory):
    for number in range(1, 8):
        save_memory(tmp_path, number, memory)
    kept = sorted(path.name for path in (tmp_path / "own").iterdir())
    assert kept == [f"round-{number:05d}.safetensors" for number in (3, 4, 5, 6, 7)]


def test_rounds_in_which_a_site_has_no_part_do_not_make_it_forget(tmp_path, memory):
    for number in (3, 20, 41):
        save_memory(tmp_path, number, numbered(memory, number))
    # a restarted server repeats round 41, and then round 20
    assert first_number(tmp_path, 41) == 20
    assert first_number(tmp_path, 20) == 3


def test_a_repeated_round_is_not_dropped_for_the_later_ones_of_the_first_try(tmp_path, memory):
    for number in range(1, 8):
        save_memory(tmp_path, number, numbered(memory, number))
    save_memory(tmp_path, 3, numbered(memory, 30))
    assert first_number(tmp_path, 4) == 30


def test_rounds_of_more_than_five_digits_are_ordered_by_number(tmp_path, memory):
    for number in (99_999, 100_000, 100_001):
        save_memory(tmp_path, number, numbered(memory, number))
    assert first_number(tmp_path, 100_002) == 100_001
    assert first_number(tmp_path, 100_000) == 99_999


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_damaged_own_model_is_named(tmp_path, memory, content):
    save_memory(tmp_path, 1, memory)
    path = tmp_path / "own" / "round-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    assert refused(load_memory, tmp_path, 2).startswith(f"damaged model: {path} (")
