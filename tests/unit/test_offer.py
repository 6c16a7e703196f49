from dataclasses import replace

import pytest

from fusseg.config.file import dump_config
from fusseg.config.schema import (
    BackboneConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LocalConfig,
    ModelConfig,
)
from fusseg.core.errors import ConfigError, FederationError
from fusseg.core.version import VERSION
from fusseg.deployment.wire.offer import (
    Offer,
    check_deployable,
    differing_settings,
    make_offer,
    pack_offer,
    shared_settings,
    unpack_offer,
)
from fusseg.deployment.wire.packet import Packet
from fusseg.federation.strategies import STRATEGIES
from fusseg.segmentation.objectives import OBJECTIVES

CONFIG = Config(
    seed=5,
    data=DataConfig(root="/srv/images", held_out_sites=("west",), image_size=(64, 96)),
    backbone=BackboneConfig(name="onnx:/srv/dino.onnx"),
    model=ModelConfig(num_clusters=3),
)
OFFER = make_offer(CONFIG, "run1", "f" * 64, center=True)


def with_fields(**changes):
    fields = {**pack_offer(OFFER).fields, **changes}
    return Packet({name: value for name, value in fields.items() if value is not None})


def refused(packet):
    with pytest.raises(FederationError) as caught:
        unpack_offer(packet)
    return str(caught.value)


def settings(**sections):
    return dump_config(replace(OFFER.config, **sections))


def test_only_what_all_sites_share_is_offered():
    own = DataConfig(
        layout="coco-stuff",
        root="/srv/images",
        splits="other.csv",
        scenes="streets",
        images_per_site=7,
        scene_seed=3,
        train_sites=("a",),
        held_out_sites=("b",),
        held_out_split="val",
        train_list="train.txt",
        held_out_list="val.txt",
        partition="iid",
        num_clients=4,
        alpha=0.1,
        partition_seed=2,
    )
    shared = {
        "train_split": "train",
        "crops": "five",
        "image_size": (32, 48),
        "fit": "stretch",
        "interpolation": "bicubic",
        "white_level": {"1": 4095, "3": 1023},
        "alpha_channel": "ignore",
    }
    config = replace(CONFIG, data=replace(own, **shared))
    assert shared_settings(config).data == DataConfig(**shared)
    assert replace(shared_settings(config), data=config.data) == config


def test_sites_do_not_learn_where_the_first_model_is_from():
    config = Config(model=ModelConfig(num_clusters=5, start="runs/saved"))
    assert shared_settings(config).model == ModelConfig(num_clusters=5, init="random")


def test_threads_and_precision_are_shared_and_processors_are_not():
    """Both decide how sums are rounded."""
    config = Config(
        compute=ComputeConfig(device="cpu", precision="bfloat16", threads=3, clients_at_once=4)
    )
    assert shared_settings(config).compute == ComputeConfig(precision="bfloat16", threads=3)
    offer = make_offer(config, "run1", "f", center=True)
    assert unpack_offer(pack_offer(offer)).config.compute.threads == 3
    fewer = replace(config, compute=replace(config.compute, threads=2))
    assert make_offer(fewer, "run1", "f", center=True).digest != offer.digest
    assert differing_settings(shared_settings(fewer), offer.config) == ["compute.threads"]


def test_an_offer_is_read_as_it_was_made():
    assert unpack_offer(pack_offer(OFFER)) == OFFER
    plain = make_offer(Config(), "0aZ", "", center=False)
    assert unpack_offer(pack_offer(plain)) == plain


def test_an_offer_asks_for_a_hello_before_round_1():
    packet = pack_offer(OFFER)
    assert packet.tensors == {}
    assert packet.fields["task"] == "hello"
    assert packet.fields["round"] == 0
    assert packet.fields["center"] == 1
    assert "/srv/images" not in str(packet.fields)
    assert "west" not in str(packet.fields)


def test_the_settings_keep_every_kind_of_value():
    config = Config(
        data=DataConfig(train_split='a "b"\n\\ä', crops="five"),
        backbone=BackboneConfig(center=False),
        local=LocalConfig(epochs=0.3, tables={"stego": {"shift": (0.1, -0.2, 1e-9)}}),
        federation=FederationConfig(wait_timeout=1e5, wire="bfloat16"),
        evaluation=EvaluationConfig(image_size=(16, 32), at_sites=True),
    )
    offer = make_offer(config, "run", "f", center=True)
    assert unpack_offer(pack_offer(offer)).config == config


@pytest.mark.parametrize(
    "change",
    [
        {"run": "run2"},
        {"config": replace(OFFER.config, seed=6)},
        {"fingerprint": "e" * 64},
        {"center": False},
        {"version": "0.0.0"},
    ],
)
def test_the_digest_covers_the_whole_offer(change):
    assert replace(OFFER, **change).digest != OFFER.digest
    assert replace(OFFER).digest == OFFER.digest
    assert len(OFFER.digest) == 64


@pytest.mark.parametrize("version", ["0.0.0", VERSION + "1"])
def test_another_version_is_refused(version):
    assert refused(with_fields(version=version)) == (
        f"the server runs fusseg {version}, this site {VERSION}; install the same version"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed = ", "Invalid value (at end of document)"),
        ("rounds = 3", "unknown key 'rounds'; did you mean 'federation.rounds'?"),
        ("seed = 'a'", "seed must be a whole number, got 'a'"),
        ("seed = -1", "seed must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_configuration_are_refused(text, reason):
    message = refused(with_fields(settings=text))
    if reason.startswith("unknown"):
        reason = reason.split(";")[0]
    assert message.startswith(f"the server's settings cannot be read: {reason}")


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 60_000, "seed = " + "9" * 5000, "seed = 0x" + "f" * 5000, "data = 3", "\0"],
)
def test_settings_that_nobody_writes_are_refused_too(text):
    assert refused(with_fields(settings=text)).startswith("the server's settings cannot be read: ")


@pytest.mark.parametrize("run", ["", "a/b", "..", "a b", "ä", "a" * 65, "²"])
def test_the_run_is_a_plain_name_for_a_folder(run):
    assert refused(with_fields(run=run)) == f"field 'run' must be letters and digits, got {run!r}"
    assert unpack_offer(pack_offer(make_offer(CONFIG, "a" * 64, "f", center=True))).run == "a" * 64


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(root="/home"),
        DataConfig(layout="synthetic"),
        DataConfig(train_list="list.txt"),
        DataConfig(train_sites=("a",)),
        DataConfig(held_out_sites=("a",)),
    ],
)
def test_a_server_cannot_set_what_is_the_sites_own_business(data):
    assert refused(with_fields(settings=settings(data=data))) == (
        "the server sent settings that are a site's own business"
    )


@pytest.mark.parametrize(
    "federation",
    [
        FederationConfig(strategy="none"),
        FederationConfig(strategy="local"),
        FederationConfig(strategy="centralized"),
    ],
)
def test_settings_that_no_server_can_run_are_refused(federation):
    with pytest.raises(FederationError):
        unpack_offer(
            pack_offer(replace(OFFER, config=replace(OFFER.config, federation=federation)))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"center": 2}, "field 'center' must be 0 to 1, got 2"),
        ({"center": None}, "field 'center' must be a whole number, got None"),
        ({"fingerprint": None}, "field 'fingerprint' must be a word, got None"),
        ({"version": None}, "field 'version' must be a word, got None"),
        ({"settings": None}, "field 'settings' must be a word, got None"),
        ({"run": 3}, "field 'run' must be a word, got 3"),
        ({"offer": None}, f"field 'offer' must be '{OFFER.digest}', got None"),
        ({"offer": "0" * 64}, f"field 'offer' must be '{OFFER.digest}', got '{'0' * 64}'"),
    ],
)
def test_fields_of_an_offer_are_checked(change, message):
    assert refused(with_fields(**change)) == message


@pytest.mark.parametrize(
    "change",
    [
        {"run": "run2"},
        {"settings": settings(seed=6)},
        {"fingerprint": "e" * 64},
        {"center": 0},
    ],
)
def test_the_digest_has_to_be_that_of_what_is_offered(change):
    assert refused(with_fields(**change)).startswith("field 'offer' must be ")


def deployable(**sections):
    check_deployable(replace(CONFIG, **sections))


def not_deployable(**sections):
    with pytest.raises(ConfigError) as caught:
        deployable(**sections)
    with pytest.raises(ConfigError):
        make_offer(replace(CONFIG, **sections), "run", "f", center=True)
    return str(caught.value)


@pytest.mark.parametrize("strategy", ["local", "centralized"])
def test_a_baseline_is_nothing_to_exchange(strategy):
    assert not_deployable(federation=FederationConfig(strategy=strategy)) == (
        f"federation.strategy {strategy!r} is a baseline for fusseg run; sites have nothing to "
        "exchange under it"
    )


@pytest.mark.parametrize(
    ("data", "partition", "clients"),
    [
        (DataConfig(partition="iid"), "iid", 0),
        (DataConfig(num_clients=3), "site", 3),
        (DataConfig(partition="dirichlet", num_clients=3), "dirichlet", 3),
    ],
)
def test_images_are_not_dealt_out_anew(data, partition, clients):
    assert not_deployable(data=data) == (
        f"data.partition is {partition!r} with data.num_clients {clients}, but each site holds "
        "its own images; set them to 'site' and 0"
    )


def test_every_site_has_a_folder():
    assert not_deployable(data=DataConfig(layout="cityscapes")) == (
        "data.layout is 'cityscapes', but every site has a folder of images; set it to 'sites'"
    )


def test_the_server_knows_no_file_names():
    assert not_deployable(data=DataConfig(train_list="train.txt")) == (
        "data.train_list is 'train.txt', but the server does not know the sites' file names; "
        "leave it empty"
    )


def test_one_site_is_no_consensus():
    def consensus(**sites):
        return FederationConfig(strategy="consensus", **sites)

    deployable(federation=consensus(min_sites=0))
    deployable(federation=consensus(min_sites=2))
    deployable(federation=FederationConfig(strategy="fedavg", min_sites=1))
    for key in ("min_sites", "clients_per_round"):
        message = not_deployable(federation=consensus(**{key: 1}))
        assert f"federation.{key} is 1, but federation.strategy 'consensus' needs" in message
        assert "set it to 2 or more" in message


def test_settings_that_cannot_be_combined_are_refused_before_they_are_offered():
    assert not_deployable(federation=FederationConfig(strategy="fedav")) == (
        "unknown federation.strategy 'fedav'; did you mean 'fedavg'?"
    )
    pca = FederationConfig(strategy="pca", lloyd_rounds=10)
    deployable(federation=pca)
    assert not_deployable(federation=pca, local=LocalConfig(fedmoon_weight=1.0)).startswith(
        "local.fedmoon_weight is 1.0, but federation.strategy 'pca' does not send a global head"
    )


def test_settings_are_compared_key_by_key_and_backbones_by_fingerprint():
    other = replace(
        OFFER.config,
        backbone=BackboneConfig(name="onnx:/data/dino.onnx"),
        model=ModelConfig(num_clusters=4),
        local=LocalConfig(steps=9),
    )
    assert differing_settings(other, OFFER.config) == ["model.num_clusters", "local.steps"]
    renamed = replace(OFFER.config, backbone=BackboneConfig(name="elsewhere"))
    assert differing_settings(renamed, OFFER.config) == []
    batches = replace(OFFER.config, backbone=BackboneConfig(name="elsewhere", batch_size=4))
    assert differing_settings(batches, OFFER.config) == ["backbone.batch_size"]


def test_an_offer_is_of_this_version_unless_told_otherwise():
    assert Offer("run", Config(), "f", center=True).version == VERSION


def test_a_strategy_that_only_the_server_has_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "largest", STRATEGIES["fedavg"])
    config = replace(CONFIG, federation=FederationConfig(strategy="largest"))
    packet = pack_offer(make_offer(config, "run1", "f", center=True))
    # where the entry was made too
    assert unpack_offer(packet).config.federation.strategy == "largest"
    monkeypatch.delitem(STRATEGIES, "largest")
    assert "cannot be run: unknown federation.strategy 'largest'" in refused(packet)


def test_an_objective_whose_numbers_name_fields_of_messages_cannot_be_deployed(monkeypatch):
    stego = OBJECTIVES["stego"]
    named = replace(stego, given=lambda _settings: {"num_steps": 1.0, "mine": 2.0})
    monkeypatch.setitem(OBJECTIVES, "stego", named)
    with pytest.raises(ConfigError, match="numbers called num_steps, which name other fields"):
        check_deployable(Config())
