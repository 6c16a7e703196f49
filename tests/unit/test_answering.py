"""A site's answers, from its folder on disk, without Flower; and that they are a simulation's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusseg.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LocalConfig,
    ModelConfig,
)
from fusseg.core.errors import FederationError, FussegError
from fusseg.core.randomness import SERVER, round_generator
from fusseg.core.version import VERSION
from fusseg.deployment.site.answering import answer_packet
from fusseg.deployment.site.join import describe_line
from fusseg.deployment.site.site_data import prepare_site, recall_client, remember_features
from fusseg.deployment.site.site_disk import (
    Preparation,
    SiteSettings,
    load_memory,
    load_offer,
    run_folder,
    save_preparation,
    save_settings,
)
from fusseg.deployment.wire.ledger import describe_message, read_ledger
from fusseg.deployment.wire.offer import make_offer, pack_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import (
    Request,
    check_answers,
    pack_task,
    unpack_hello,
    unpack_task,
    unpack_update,
)
from fusseg.deployment.wire.raw_tensors import dtype_name, from_bytes, to_bytes
from fusseg.evaluation.held_out import evaluate
from fusseg.features.backbones import load_backbone
from fusseg.federation.checks import ClientFacts, check_hello, check_plausible
from fusseg.federation.gathering import aggregate
from fusseg.federation.head_precision import narrow_parts, widen_update
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.protocol import sent_parts
from fusseg.federation.rounds import Round, initial_state, num_updates, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import Traffic, make_delivery
from fusseg.runs.load import load_run
from fusseg.runs.model_scores import GLOBAL
from fusseg.segmentation.assignment import build_segmenter
from fusseg.segmentation.objective import Carry, Model
from fusseg.segmentation.objectives import OBJECTIVES

FILTERBANK = load_backbone("filterbank")
STEGO = {"positions": 9, "random_supports": 1, "shift_batches": 2, "shift": "auto"}
LOCAL = LocalConfig(steps=2, batch_size=2, tables={"stego": STEGO})
CONFIG = Config(
    seed=7,
    data=DataConfig(image_size=(64, 64)),
    model=ModelConfig(init="random", num_clusters=3, code_dim=4),
    local=LOCAL,
    federation=FederationConfig(strategy="fedavg", rounds=2, positions_per_image=5),
)
MOON = replace(LOCAL, fedmoon_weight=1.0)
AT_SITES = EvaluationConfig(at_sites=True)
FEDERATIONS = {
    "fedavg": {"strategy": "fedavg"},
    "fedavg, bfloat16": {"strategy": "fedavg", "wire": "bfloat16"},
    "fedcc-kmeans": {"strategy": "fedcc-kmeans"},
    "consensus": {"strategy": "consensus", "lloyd_rounds": 1},
    "consensus, bfloat16": {"strategy": "consensus", "wire": "bfloat16"},
    "lloyd": {"strategy": "lloyd"},
    "momentum": {"strategy": "lloyd", "server_optimizer": "momentum"},
    "adam, bfloat16": {
        "strategy": "fedavg",
        "server_optimizer": "adam",
        "server_learning_rate": 0.01,
        "wire": "bfloat16",
    },
    "lloyd, bfloat16": {"strategy": "lloyd", "wire": "bfloat16"},
    "pca": {"strategy": "pca", "lloyd_rounds": 2},
    "from pca": {"strategy": "fedavg"},
    "from pca, bfloat16": {"strategy": "fedavg", "wire": "bfloat16"},
    "from pca, last": {"strategy": "fedavg", "keep": "last"},
    "from pca, regions": {"strategy": "fedcc-maximin"},
    "from pca, own heads": {"strategy": "fedavg", "aggregate_heads": False, "lloyd_rounds": 1},
    "own heads": {"strategy": "fedavg", "aggregate_heads": False, "lloyd_rounds": 1},
    "own centroids": {"strategy": "fedavg", "aggregate_centroids": False, "lloyd_rounds": 1},
    "neither": {"strategy": "fedavg", "aggregate_heads": False, "aggregate_centroids": False},
}


def federated(name, local=LOCAL):
    federation = FederationConfig(rounds=2, positions_per_image=5, **FEDERATIONS[name])
    model = CONFIG.model
    if "pca" in name:
        model = replace(model, init="pca", init_steps=2, init_clusters=2)
    if "regions" in name:
        model = replace(model, num_regions=2)
    return replace(CONFIG, federation=federation, local=local, model=model)


def offer_of(config, run="run1"):
    return make_offer(config, run, FILTERBANK.fingerprint, center=True)


def carry(packet):
    """Write a packet's tensors as bytes and read them again, as the network does."""
    return Packet(
        dict(packet.fields),
        {
            name: from_bytes(name, dtype_name(tensor), tuple(tensor.shape), to_bytes(tensor))
            for name, tensor in packet.tensors.items()
        },
    )


def prepared(folder, site, offer):
    """Do what the site's long-lived process does between a hello and the next."""
    stages = prepare_site(site, offer)
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            found = stop.value
            break
    remember_features(folder, offer, found)
    save_preparation(folder, Preparation(offer.digest, "ready"))
    return found


@pytest.fixture
def join(write_site, tmp_path):
    """Set up a site's folder; images, and features unless told otherwise."""

    def begin(config=CONFIG, name="north", ready=True, **images):
        folder = tmp_path / "state" / name
        site = SiteSettings(name, str(write_site(name, **images)), str(tmp_path / "cache"))
        save_settings(folder, site)
        if ready:
            answer_packet(pack_offer(offer_of(config)), folder)
            prepared(folder, site, offer_of(config))
        return folder, site

    return begin


def first_state(config, clients):
    protocol = resolve(config)
    hellos = [say_hello(client, protocol, center=True) for client in clients]
    plan = agree(hellos, protocol, FILTERBANK.fingerprint, center=True)
    return initial_state(protocol, plan)


def task_of(config, name="train", round_number=1):
    """A task of a round by its name; None where the model is scored or kept."""
    found = {task.name: task for task in resolve(config).tasks(round_number)}
    return found.get(name)


def client_of(folder, site, config=CONFIG):
    """The same client in memory, its neighbors kept elsewhere."""
    found = recall_client(folder, site, offer_of(config))
    return replace(found, cache=Path(site.cache) / "simulated")


def packet_of(state, config=CONFIG, task="train", round_number=1, place=0, held=None):
    """What the server sends a site that holds bundles by name and digest."""
    request = Request("run1", offer_of(config).digest, task, round_number, place)
    task = task_of(config, task, round_number)
    delivery = make_delivery(state, task, resolve(config))
    return pack_task(state, request, delivery, delivery.news(held or {}))


def ask(state, folder, config=CONFIG, task="train", round_number=1, place=0, held=None):
    packet = carry(packet_of(state, config, task, round_number, place, held))
    answered = carry(answer_packet(packet, folder))
    check_answers(answered, Request("run1", offer_of(config).digest, task, round_number, place))
    assert answered.fields["state"] == "done"
    return answered


def read(packet, state, config, task, name):
    protocol = resolve(config)
    parts = sent_parts(task, state, protocol)
    update = unpack_update(packet, name, narrow_parts(parts, protocol.wire), task)
    return widen_update(update, parts, protocol.wire)


def same_update(left, right):
    mine, others = left.parts, right.parts
    return (
        mine.keys() == others.keys()
        and all(mine[name].dtype == others[name].dtype for name in mine)
        and all(torch.equal(mine[name], others[name]) for name in mine)
        and (left.client_id, left.num_images, left.loss)
        == (right.client_id, right.num_images, right.loss)
    )


def deployed(folders, config):
    """Exchange that asks sites by packets, and sends only what they have not."""
    counted, traffic = {}, Traffic()

    def exchange(state, task):
        number = state.round_number + 1
        place = counted[number] = counted.get(number, -1) + 1
        delivery = make_delivery(state, task, resolve(config))
        for name, folder in folders.items():
            held = traffic.held.get(name)
            packet = ask(state, folder, config, task.name, number, place, held)
            traffic.arrived(name, delivery)
            yield read(packet, state, config, task, name)

    return exchange


def test_a_site_says_it_is_preparing_and_how_far_it_is_until_its_features_are_there(join):
    folder, site = join(ready=False)
    offer = offer_of(CONFIG)
    answered = answer_packet(pack_offer(offer), folder)
    expected = {"task": "hello", "round": 0, "run": "run1", "offer": offer.digest}
    assert answered.fields == {**expected, "state": "preparing", "done": 0, "total": 0}
    assert answered.tensors == {}
    save_preparation(folder, Preparation(offer.digest, "preparing", done=3, total=4))
    assert answer_packet(pack_offer(offer), folder).fields == {
        **expected,
        "state": "preparing",
        "done": 3,
        "total": 4,
    }
    prepared(folder, site, offer)
    assert answer_packet(pack_offer(offer), folder).fields["state"] == "done"


def test_a_hello_is_what_a_simulated_client_says(join):
    folder, site = join()
    answered = carry(answer_packet(pack_offer(offer_of(CONFIG)), folder))
    found = unpack_hello(answered, "north", FILTERBANK.feature_dim, resolve(CONFIG))
    # Three clusters: the first two quantiles are at most 1 - 1/3.
    stego = {**STEGO, "shift_quantiles": [2 / 3, 2 / 3, 0.95]}
    spelled = resolve(replace(CONFIG, local=replace(LOCAL, tables={"stego": stego})))
    expected = say_hello(client_of(folder, site), spelled, center=True)
    assert torch.equal(found.feature_sum, expected.feature_sum)
    assert replace(found, feature_sum=expected.feature_sum) == expected
    assert (found.num_images, found.feature_count) == (4, 4 * 8 * 8)
    check_hello(found, positions_per_image=64)


def test_shifts_that_are_given_are_not_estimated(join):
    stego = {**STEGO, "shift": [0.1, 0.2, 0.3]}
    given = replace(CONFIG, local=replace(LOCAL, tables={"stego": stego}))
    folder, _ = join(given)
    answered = answer_packet(pack_offer(offer_of(given)), folder)
    assert answered.fields["state"] == "done"
    assert not any(name.startswith("shift") for name in answered.fields)


def test_whole_numbers_and_those_of_numpy_travel_as_any_other(join, monkeypatch):
    """As an objective of somebody's own may give and estimate them."""
    numbers = {"whole": 3, "half": np.float32(0.5)}
    own = replace(
        OBJECTIVES["stego"],
        given=lambda _settings: {"given": 2},
        estimated=lambda _settings: dict.fromkeys(numbers, (0.0, 9.0)),
        estimate=lambda *_: numbers,
    )
    monkeypatch.setitem(OBJECTIVES, "stego", own)
    folder, _ = join()
    answered = carry(answer_packet(pack_offer(offer_of(CONFIG)), folder))
    hello = unpack_hello(answered, "north", FILTERBANK.feature_dim, resolve(CONFIG))
    assert hello.numbers == numbers
    plan = agree([hello], resolve(CONFIG), FILTERBANK.fingerprint, center=True)
    assert plan.agreed == {**numbers, "given": 2}
    packet = carry(packet_of(initial_state(resolve(CONFIG), plan)))
    found = unpack_task(packet, task_of(CONFIG), resolve(CONFIG), FILTERBANK.feature_dim, folder)
    assert found.plan.agreed == plan.agreed


def test_a_site_that_refuses_says_why(join):
    folder, _ = join(ready=False)
    offer = offer_of(CONFIG)
    save_preparation(folder, Preparation(offer.digest, "refused", reason="other weights"))
    answered = answer_packet(pack_offer(offer), folder)
    assert (answered.fields["state"], answered.fields["reason"]) == ("refused", "other weights")


def test_another_offer_starts_over(join):
    folder, _ = join()
    other = offer_of(CONFIG, run="run2")
    assert answer_packet(pack_offer(other), folder).fields["state"] == "preparing"
    assert load_offer(folder) == other


def test_a_hello_of_another_version_is_refused(join):
    folder, _ = join(ready=False)
    packet = pack_offer(offer_of(CONFIG))
    answered = answer_packet(Packet({**packet.fields, "version": "0.0.0"}), folder)
    reason = f"the server runs fusseg 0.0.0, this site {VERSION}; install the same version"
    assert answered == Packet({"task": "hello", "round": 0, "state": "refused", "reason": reason})
    (_, line), _ = read_ledger(folder)
    assert describe_line(line).endswith(f" (refused: {reason})")
    assert load_offer(folder) is None


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_deployment_gives_the_bits_of_a_simulation(name, join, same_bits):
    check_same_rounds(federated(name), join, same_bits)


@pytest.mark.parametrize(
    "name", ["fedavg", "fedavg, bfloat16", "consensus", "lloyd", "own centroids"]
)
def test_a_deployment_with_regularizers_gives_the_bits_of_a_simulation(name, join, same_bits):
    check_same_rounds(federated(name, replace(MOON, fedprox_weight=0.1)), join, same_bits)


def check_same_rounds(config, join, same_bits):
    """Every update of every exchange, and the state after every round."""
    sites = {"north": 4, "south": 3}
    joined = {
        name: join(config, name, num_images=count, seed=place)
        for place, (name, count) in enumerate(sites.items())
    }
    folders = {name: folder for name, (folder, _) in joined.items()}
    clients = [client_of(folder, site, config) for folder, site in joined.values()]
    protocol, start = resolve(config), first_state(config, clients)
    checked = []

    def plausible(exchange):
        """Check all that arrives, as the server does."""

        def ask_and_check(state, task):
            parts = sent_parts(task, state, protocol)
            for update in exchange(state, task):
                facts = ClientFacts(sites[update.client_id], positions_per_image=64)
                check_plausible(update, parts, facts)
                checked.append(update)
                yield update

        return ask_and_check

    expected = list(run_rounds(start, simulate(clients, {}, protocol), protocol))
    found = list(run_rounds(start, plausible(deployed(folders, config)), protocol))
    for left, right in zip(found, expected, strict=True):
        if isinstance(right, Round):
            assert left.state.round_number == right.state.round_number
            assert same_bits(left.state.model, right.state.model)
        else:
            assert same_update(left, right)
    assert len(checked) == num_updates(protocol.first_round, protocol.num_rounds, 2, protocol)


def test_a_repeated_round_gives_the_same_bits(join):
    check_repeated_round(CONFIG, join)


@pytest.mark.parametrize("name", ["fedavg", "own centroids"])
def test_a_repeated_round_starts_from_the_own_model_before_it(name, join):
    check_repeated_round(federated(name, MOON), join)


@pytest.mark.parametrize("name", ["own heads", "neither"])
def test_a_repeated_round_of_own_heads_starts_from_the_one_before_it(name, join):
    check_repeated_round(federated(name), join)


def check_repeated_round(config, join):
    """As after a restart of the server: round 2 again, and round 3 as if nothing had been."""
    config = replace(config, federation=replace(config.federation, rounds=3))
    folder, site = join(config)
    state = first_state(config, [client_of(folder, site, config)])
    task, updates, states = task_of(config), {}, {1: state}
    for number in (1, 2, 3):
        packet = ask(states[number], folder, config, "train", number)
        updates[number] = read(packet, states[number], config, task, "north")
        generator = round_generator(config.seed, number, SERVER)
        merged = aggregate(states[number], [updates[number]], resolve(config), task, generator)
        states[number + 1] = replace(merged, round_number=number)
    assert not same_update(updates[2], updates[3])
    for number in (3, 2, 2, 3, 1):
        packet = ask(states[number], folder, config, "train", number)
        again = read(packet, states[number], config, task, "north")
        assert same_update(again, updates[number])


def test_own_models_are_kept_only_where_they_are_needed(join):
    folder, site = join()
    ask(first_state(CONFIG, [client_of(folder, site)]), folder)
    kept = {path.name for path in run_folder(folder, "run1").iterdir()}
    assert kept == {"received"}


def test_a_lloyd_step_between_training_does_not_count_as_a_round_of_its_own(join):
    """FedMOON's previous head is that of the round before, whatever the exchanges between."""
    config = federated("lloyd", MOON)
    folder, site = join(config)
    state = first_state(config, [client_of(folder, site, config)])
    ask(state, folder, config)
    second = replace(state, round_number=1)
    ask(second, folder, config, round_number=2)
    kept = run_folder(folder, "run1") / "own"
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert sorted(before) == ["round-00001.safetensors", "round-00002.safetensors"]
    for place in (1, 2, 3):
        ask(second, folder, config, "lloyd", 2, place)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_counts_at_a_site_are_those_of_its_labeled_images(join):
    config = replace(CONFIG, evaluation=AT_SITES)
    folder, site = join(config, num_masks=3)
    state = replace(first_state(config, [client_of(folder, site, config)]), round_number=2)
    answered = ask(state, folder, config, "evaluate", 2)
    labeled = prepared(folder, site, offer_of(config)).labeled
    scores = evaluate(build_segmenter(state.model, state.plan.mean_feature), labeled).scores
    assert torch.equal(answered.tensors["confusion"], scores.confusion)
    assert answered.tensors["confusion"].dtype == torch.int64
    assert int(answered.tensors["confusion"].sum()) == 3 * 64 * 64
    assert list(answered.tensors) == ["confusion"]
    assert answered.fields["num_images"] == 3
    assert answered.fields["classes"] == '["gravel", "metal"]'


def test_counts_use_what_stays_with_the_site(join):
    config = replace(federated("own heads"), evaluation=AT_SITES)
    folder, site = join(config, num_masks=2)
    start = first_state(config, [client_of(folder, site, config)])
    memories, client = {}, client_of(folder, site, config)
    (update,) = simulate([client], memories, resolve(config))(start, task_of(config))
    ask(start, folder, config)
    centroids = update.parts["centroids"]
    state = replace(start, round_number=1, model=Model(start.model.head, centroids))
    answered = ask(state, folder, config, "evaluate", 1)
    labeled = prepared(folder, site, offer_of(config)).labeled
    model = Model(memories["north"].model.head, centroids)
    scores = evaluate(build_segmenter(model, state.plan.mean_feature), labeled).scores
    assert torch.equal(answered.tensors["confusion"], scores.confusion)


def test_where_nothing_is_labeled_no_counts_leave_the_site(join):
    config = replace(CONFIG, evaluation=AT_SITES)
    folder, site = join(config, num_masks=0)
    state = replace(first_state(config, [client_of(folder, site, config)]), round_number=1)
    answered = ask(state, folder, config, "evaluate", 1)
    assert answered.tensors == {}
    assert answered.fields["num_images"] == 0
    assert "classes" not in answered.fields


def test_a_site_counts_only_where_the_settings_say_so(join):
    folder, site = join(CONFIG, num_masks=3)
    state = replace(first_state(CONFIG, [client_of(folder, site)]), round_number=1)
    with pytest.raises(FederationError, match="no task 'evaluate' in round 1"):
        ask(state, folder, CONFIG, "evaluate", 1)


def test_in_the_end_a_site_has_a_run_that_can_be_used(join):
    folder, site = join()
    state = replace(first_state(CONFIG, [client_of(folder, site)]), round_number=2)
    answered = ask(state, folder, CONFIG, "finish", 2)
    assert answered.tensors == {}
    run = load_run(run_folder(folder, "run1") / "result")
    assert (list(run.segmenters), run.rounds_done) == ([GLOBAL], 2)
    assert (run.config.data.root, run.config.seed) == (site.data, 7)
    (found,) = run.segmenters.values()
    expected = build_segmenter(state.model, state.plan.mean_feature)
    assert torch.equal(found.centroids, expected.centroids)
    assert torch.equal(found.mean_feature, state.plan.mean_feature)
    assert torch.equal(found.head.linear.weight, state.model.head["linear.weight"])


def test_in_the_end_a_site_has_the_parts_that_stayed_with_it(join):
    config = federated("own heads")
    folder, site = join(config)
    start = first_state(config, [client_of(folder, site, config)])
    memories, client = {}, client_of(folder, site, config)
    list(simulate([client], memories, resolve(config))(start, task_of(config)))
    ask(start, folder, config)
    state = replace(start, round_number=1)
    ask(state, folder, config, "finish", 1)
    run = load_run(run_folder(folder, "run1") / "result")
    assert list(run.segmenters) == ["north"]
    found = run.segmenters["north"]
    assert torch.equal(found.head.linear.weight, memories["north"].model.head["linear.weight"])
    expected = build_segmenter(start.model, start.plan.mean_feature).centroids
    assert torch.equal(found.centroids, expected)


@pytest.fixture
def task(join):
    """A site, and a packet it would answer."""
    folder, site = join()
    return folder, packet_of(first_state(CONFIG, [client_of(folder, site)]))


def refused(packet, folder):
    with pytest.raises(FederationError) as caught:
        answer_packet(packet, folder)
    lines, _ = read_ledger(folder)
    assert lines[-1].direction == "to site"
    return str(caught.value)


SAY_HELLO = "this site was not offered these settings; say hello first"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offer": "0" * 64}, SAY_HELLO),
        ({"run": "run2"}, SAY_HELLO),
        ({"version": "0.0.0"}, f"field 'version' must be {VERSION!r}, got '0.0.0'"),
        ({"round": -1}, "field 'round' must be 0 to 9007199254740992, got -1"),
        ({"round": "soon"}, "field 'round' must be a whole number, got 'soon'"),
        ({"round": float("nan")}, "field 'round' must be a whole number, got nan"),
        ({"task": "steal"}, "the agreed settings hold no task 'steal' in round 1 at place 0"),
        ({"task": ""}, "the agreed settings hold no task '' in round 1 at place 0"),
        ({"place": -1}, "field 'place' must be 0 to 9007199254740992, got -1"),
        ({"num_steps": 0}, "field 'num_steps' must be 1 to 1000000000, got 0"),
        (
            {"shift_self": float("inf")},
            "field 'shift_self' must be a finite number, got inf",
        ),
    ],
)
def test_fields_of_a_task_are_checked_and_the_message_is_in_the_ledger(task, change, message):
    folder, packet = task
    assert refused(Packet({**packet.fields, **change}, packet.tensors), folder) == message


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("centroids", torch.full((3, 4), torch.nan), "centroids with values that are not finite"),
        ("head.output.bias", torch.full((4,), torch.inf), "with values that are not finite"),
        ("mean_feature", torch.full((144,), torch.nan), "with values that are not finite"),
        ("centroids", torch.zeros(2, 4), "of shape (2, 4), expected (3, 4)"),
        ("mean_feature", torch.zeros(143), "of shape (143,), expected (144,)"),
        ("head.linear.bias", torch.zeros(4).bfloat16(), "as torch.bfloat16, expected"),
        ("more", torch.zeros(1), "'mean_feature', 'more'], expected ['centroids', 'head."),
        ("centroids", None, "sent ['head.hidden.bias'"),
    ],
)
def test_tensors_of_a_task_are_checked(task, name, tensor, message):
    folder, packet = task
    tensors = {**packet.tensors, name: tensor}
    tensors = {part: value for part, value in tensors.items() if value is not None}
    assert message in refused(Packet(packet.fields, tensors), folder)


def test_a_site_that_was_offered_nothing_asks_for_a_hello(join):
    folder, _ = join(ready=False)
    fields = Request("run1", "0" * 64, "train", 1, 0).fields()
    assert refused(Packet(fields), folder) == SAY_HELLO


def test_a_site_whose_features_are_not_there_yet_does_not_train(join):
    folder, _ = join(ready=False)
    answer_packet(pack_offer(offer_of(CONFIG)), folder)
    fields = Request("run1", offer_of(CONFIG).digest, "train", 1, 0).fields()
    with pytest.raises(FussegError):
        answer_packet(Packet(fields), folder)


def test_a_site_that_has_come_to_refuse_the_settings_does_not_train_on(task):
    """As after fusseg join was started again with another --pinned, in the midst of a run."""
    folder, packet = task
    answer_packet(packet, folder)
    digest = offer_of(CONFIG).digest
    save_preparation(folder, Preparation(digest, "refused", reason="another configuration"))
    assert "another configuration" in refused(packet, folder)


@pytest.mark.parametrize("change", [{"task": "moments"}, {"task": "lloyd"}, {"round": 3}])
def test_a_task_that_the_agreed_settings_do_not_hold_is_refused(task, change):
    """FedAvg for two rounds was agreed on: nobody may ask for moments, or for a third."""
    folder, packet = task
    assert refused(Packet({**packet.fields, **change}, packet.tensors), folder)


@pytest.mark.parametrize("name", ["plan", "head"])
def test_a_site_that_lost_what_it_was_sent_says_so_and_goes_on_once_it_has_it(task, name):
    folder, packet = task
    expected = answer_packet(packet, folder)
    again = Packet(packet.fields, {"centroids": packet.tensors["centroids"]})
    assert answer_packet(again, folder).tensors.keys() == expected.tensors.keys()
    (run_folder(folder, "run1") / "received" / f"{name}.safetensors").unlink()
    answered = answer_packet(again, folder)
    assert answered.tensors == {}
    assert answered.fields["state"] == "lacks"
    assert answered.fields["reason"] == f"this site does not have the {name} any more"
    # It answers the same request: the server asks once more at once.
    names = ("run", "offer", "task", "round", "place", "version")
    assert all(answered.fields[key] == packet.fields[key] for key in names)
    lines, _ = read_ledger(folder)
    assert lines[-1].fields["state"] == "lacks"
    found = answer_packet(packet, folder)
    assert found.fields == expected.fields
    assert all(torch.equal(found.tensors[key], part) for key, part in expected.tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "0" * 32}, "the server sent a head with the digest"),
        ({"plan": "0" * 32}, "the server sent a plan with the digest"),
        ({"plan": 7}, "field 'plan' must be a word, got 7"),
        ({"head": float("nan")}, "field 'head' must be a word, got nan"),
        ({"num_steps": 3}, "the server sent a plan of 3 steps, but the settings say local.steps ="),
        ({"shift_random": 1e300}, "which nothing can use"),
    ],
)
def test_a_plan_or_head_that_is_not_what_was_named_is_refused(change, message, task):
    folder, packet = task
    assert message in refused(Packet({**packet.fields, **change}, packet.tensors), folder)


def test_what_an_objective_leaves_is_kept_at_the_site_from_round_to_round(join, monkeypatch):
    """An objective that counts its steps: two in each of two rounds."""

    def begin(_model, kept, _settings):
        return dict(kept) or {"steps": torch.tensor(0)}

    def count(carried, _head, _centroids, _settings):
        return {"steps": carried["steps"] + 1}

    counting = replace(OBJECTIVES["stego"], carry=Carry(begin, count))
    monkeypatch.setitem(OBJECTIVES, "stego", counting)
    folder, site = join()
    state = first_state(CONFIG, [client_of(folder, site)])
    ask(state, folder)
    ask(replace(state, round_number=1), folder, round_number=2)
    kept = run_folder(folder, "run1")
    found = [load_memory(kept, number).carried["steps"] for number in (2, 3)]
    assert [int(steps) for steps in found] == [2, 4]
    # Round 2 is repeated from what was left before it.
    ask(replace(state, round_number=1), folder, round_number=2)
    assert int(load_memory(kept, 3).carried["steps"]) == 4


def test_the_ledger_has_one_line_per_message_and_both_ends_agree(join):
    config = replace(CONFIG, evaluation=AT_SITES)
    folder, site = join(config, ready=False, num_masks=2)
    offer = offer_of(config)
    server = []

    def exchange(packet):
        answered = answer_packet(carry(packet), folder)
        for direction, sent in (("to site", packet), ("to server", carry(answered))):
            server.append(describe_message("north", direction, sent.tensors, sent.fields))
        return answered

    exchange(pack_offer(offer))
    prepared(folder, site, offer)
    exchange(pack_offer(offer))
    state = first_state(config, [client_of(folder, site, config)])
    for task, number in [("train", 1), ("train", 2), ("evaluate", 2), ("finish", 2)]:
        sent = replace(state, round_number=number if task in ("evaluate", "finish") else number - 1)
        exchange(packet_of(sent, config, task, number))
    lines, damaged = read_ledger(folder)
    assert damaged == 0
    assert [line.direction for line in lines] == ["to site", "to server"] * 6
    assert [replace(line, time="") for line in lines] == [replace(line, time="") for line in server]
    assert [(line.task, line.round) for line in lines[::2]] == [
        ("hello", 0),
        ("hello", 0),
        ("train", 1),
        ("train", 2),
        ("evaluate", 2),
        ("finish", 2),
    ]
    assert {line.site for line in lines} == {"north"}


def test_a_backbone_that_the_operator_did_not_name_is_never_loaded(join):
    named = replace(CONFIG, backbone=BackboneConfig(name="facebook/dino-vitb8"))
    folder, site = join(ready=False)
    offer = make_offer(named, "run1", "f" * 64, center=True)
    assert answer_packet(pack_offer(offer), folder).fields["state"] == "preparing"
    with pytest.raises(FederationError, match="name this site's copy with fusseg join --backbone"):
        prepared(folder, site, offer)
