"""The rounds over Flower's own messages, in this process: every strategy, and answers that lie.

Real processes, keys and TLS are tested in tests/deployment.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fusseg.cli.deploying import left_out_of_score
from fusseg.cli.running import summary
from fusseg.config_file import load_config
from fusseg.deployment import client_app
from fusseg.deployment.ledger import read_ledger
from fusseg.deployment.post import NODES
from fusseg.deployment.server_rounds import FLOWER, run_federation
from fusseg.deployment.site import (
    Preparation,
    SiteSettings,
    load_offer,
    save_preparation,
    save_settings,
)
from fusseg.deployment.site_data import prepare_site, remember_features
from fusseg.errors import FederationError
from fusseg.experiment import run_experiment
from fusseg.federation.participation import draw_participants
from fusseg.gallery import write_report
from fusseg.runs import create_run, has_state, load_record, load_state
from fusseg.trained_run import load_run

SITES = ("east", "north", "south")
FAST = ("federation.round_timeout=5", "federation.wait_timeout=5")


class LoopbackGrid(Grid):
    """Hands every message to the site's app at once; replies come in reverse order."""

    def __init__(self, folders, lies=None):
        self.nodes = dict(enumerate(folders, 10))
        self.lies = lies or {}
        self.offline = set()
        self._replies = {}
        self._count = 0

    def set_run(self, run):
        raise AssertionError

    @property
    def run(self):
        raise AssertionError

    def create_message(self, *args, **settings):
        raise AssertionError

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError

    def get_node_ids(self):
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._count}"
            ids.append(message.metadata.message_id)
            folder = self.nodes[message.metadata.dst_node_id]
            reply = self._answer(message, folder)
            if reply is not None:
                self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids):
        return [self._replies.pop(one) for one in reversed(message_ids) if one in self._replies]

    def _answer(self, message, folder):
        context = Context(0, 1, {client_app.SITE_DIR: str(folder)}, RecordDict(), {})
        reply = client_app.app(message, context)
        prepare(folder)
        lie = self.lies.get(folder.name)
        return reply if lie is None else lie(message, reply)


def prepare(folder):
    """What `fusseg join` does beside the answers: extract the features of an offer."""
    offer = load_offer(folder)
    if offer is None or (folder / "features.json").exists():
        return
    settings = SiteSettings(**json.loads((folder / "site.json").read_text()))
    stages = prepare_site(settings, offer)
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            remember_features(folder, offer, stop.value)
            break
    save_preparation(folder, Preparation(offer.digest, "ready"))


@pytest.fixture(autouse=True)
def _in_a_flower_process(monkeypatch):
    for name, number in (("run_id", 0), ("node_id", 1), ("task_id", 0)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", number)
    monkeypatch.setattr("fusseg.deployment.post._POLL_SECONDS", 0.01)
    monkeypatch.setattr("fusseg.deployment.greeting._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("fusseg.deployment.exchange._RETRY_SECONDS", 0.01)


@pytest.fixture
def federation(tmp_path, make_sites, make_config):
    """A run directory, the configuration in it, and a folder per site that has joined."""
    root = make_sites(sites=(*SITES, "west"), num_images=6)

    def make(*overrides, held_out=("west",), name="deploy"):
        config = load_config(make_config(root, held_out=held_out), [*FAST, *overrides])
        run_dir = tmp_path / name
        create_run(run_dir, config)
        (run_dir / FLOWER).mkdir()
        nodes = {
            site: {"node": number, "public_key": site} for number, site in enumerate(SITES, 10)
        }
        (run_dir / FLOWER / NODES).write_text(json.dumps(nodes))
        folders = []
        for site in SITES:
            folder = tmp_path / name / "sites" / site
            folder.mkdir(parents=True)
            settings = SiteSettings(site, str(root / site), str(tmp_path / "cache"))
            save_settings(folder, settings)
            folders.append(folder)
        return run_dir, config, folders

    return make


def events(run_dir):
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def simulated(config, tmp_path):
    run_dir = tmp_path / "simulated"
    for _ in run_experiment(config, run_dir, tmp_path / "cache"):
        pass
    return run_dir


QUORUM = "federation.min_sites=2"
FINISH = "federation.lloyd_rounds=1"
KINDS = {
    "fedavg": ["federation.strategy=fedavg"],
    "bfloat16": ["federation.wire=bfloat16", FINISH],
    "consensus and FedMOON": ["federation.strategy=consensus", "local.fedmoon_weight=1"],
    "lloyd": ["federation.strategy=lloyd", FINISH],
    "pca": ["federation.strategy=pca", "federation.lloyd_rounds=2"],
    "own heads": ["federation.strategy=fedavg", "federation.aggregate_heads=false", FINISH],
    "own centroids": ["federation.strategy=fedavg", "federation.aggregate_centroids=false", FINISH],
    "drawn sites": ["federation.clients_per_round=2", "local.fedmoon_weight=1", FINISH],
    "drawn sites, lloyd": ["federation.clients_per_round=2", "federation.strategy=lloyd"],
    "drawn sites, own heads": [
        "federation.clients_per_round=1",
        "federation.strategy=fedavg",
        "federation.aggregate_heads=false",
    ],
    "five crops": ["data.crops=five", "data.image_size=[32, 48]"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployment_ends_in_the_bits_of_the_simulation(kind, federation, tmp_path, same_bits):
    run_dir, config, folders = federation(*KINDS[kind])
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    deployed, expected = load_state(run_dir), load_state(simulated(config, tmp_path))
    assert deployed.state.round_number == expected.state.round_number
    assert same_bits(deployed.state.model, expected.state.model)
    assert torch.equal(deployed.state.plan.mean_feature, expected.state.plan.mean_feature)
    record, simulated_record = load_record(run_dir), load_record(tmp_path / "simulated")
    assert record["engine"] == "flower"
    for folder in folders if expected.own_models else ():
        (result,) = (folder / "runs").glob("*/result")
        own = load_state(result).own_models
        assert own.keys() == expected.own_models.keys() & {folder.name}
        assert all(same_bits(own[name], expected.own_models[name]) for name in own)
    taking_part = [
        [[client["client_id"] for client in entry["clients"]] for entry in one["rounds"]]
        for one in (record, simulated_record)
    ]
    assert taking_part[0] == taking_part[1]
    if "own" in kind.split(", ")[-1]:
        # each site keeps its own part, and the server has none to score
        assert record["final"]["mean_iou"] is None
        return
    assert record["final"] == simulated_record["final"]
    losses = [[entry["loss"] for entry in one["rounds"]] for one in (record, simulated_record)]
    assert losses[0] == losses[1]
    for folder in folders:
        (result,) = (folder / "runs").glob("*/result")
        assert same_bits(load_state(result).state.model, widened(deployed, config))
        assert load_run(result).rounds_done == expected.state.round_number


def widened(saved, config):
    from fusseg.federation.wire import receive_state

    return receive_state(saved.state, config.federation.wire).model


def change(reply, change_packet):
    """Rewrite an answer as a site could that runs other code."""
    content = RecordDict(dict(reply.content))
    change_packet(content)
    reply.content = content
    return reply


def with_array(name, make):
    def lie(message, reply):
        if message.content["fields"]["task"] != "train":
            return reply

        def rewrite(content):
            arrays = dict(content["tensors"])
            arrays[name] = make(arrays[name])
            content["tensors"] = ArrayRecord(arrays)

        return change(reply, rewrite)

    return lie


def with_field(name, value, task="train"):
    def lie(message, reply):
        if message.content["fields"]["task"] != task:
            return reply

        def rewrite(content):
            fields = {**content["fields"], name: value}
            content["fields"] = ConfigRecord({k: v for k, v in fields.items() if v is not None})

        return change(reply, rewrite)

    return lie


def filled(value):
    def make(array):
        numbers = torch.full(array.shape, value)
        return Array("float32", array.shape, array.stype, numbers.numpy().tobytes())

    return make


def dropped(message, reply):
    def rewrite(content):
        arrays = dict(content["tensors"])
        arrays.pop("centroids", None)
        content["tensors"] = ArrayRecord(arrays)

    return change(reply, rewrite) if message.content["fields"]["task"] == "train" else reply


def extra(message, reply):
    def rewrite(content):
        arrays = dict(content["tensors"])
        arrays["image"] = Array("float32", (1,), "fusseg.raw", bytes(4))
        content["tensors"] = ArrayRecord(arrays)

    return change(reply, rewrite) if message.content["fields"]["task"] == "train" else reply


def reshaped(array):
    return Array("float32", (1, *array.shape), array.stype, array.data)


def retyped(array):
    return Array("float64", array.shape, array.stype, array.data * 2)


def pickled(array):
    return Array("float32", array.shape, "numpy.ndarray", array.data)


def silent(message, reply):
    return None if message.content["fields"]["task"] == "train" else reply


def broken(message, reply):
    if message.content["fields"]["task"] != "train":
        return reply
    return Message(Error(code=0, reason="out of memory"), reply_to=message)


LIES = {
    "NaN": (with_array("linear.weight", filled(float("nan"))), "not finite"),
    "inf": (with_array("centroids", filled(float("inf"))), "not finite"),
    "a huge norm": (with_array("linear.weight", filled(1e30)), "moved by 1e"),
    "a norm that is too large": (with_array("hidden.bias", filled(0.9)), "moved by 0"),
    "another shape": (with_array("centroids", reshaped), "of shape"),
    "another dtype": (with_array("centroids", retyped), "as torch.float64"),
    "another format": (with_array("centroids", pickled), "written as 'numpy.ndarray'"),
    "a missing array": (dropped, "expected ['centroids'"),
    "an extra array": (extra, "'image'"),
    "a negative count": (with_field("num_images", -3), "must be 1 to"),
    "an absurd count": (with_field("num_images", 10**6), "by its hello"),
    "a replayed round": (with_field("round", 7), "'round' must be"),
    "another run": (with_field("run", "abc"), "'run' must be"),
    "a foreign seed": (with_field("offer", "0" * 64), "'offer' must be"),
    "a foreign version": (with_field("version", "9.9"), "'version' must be '0.1.0', got '9.9'"),
    "no loss": (with_field("loss", None), "'loss' must be a finite number"),
    "a loss that is no number": (with_field("loss", float("nan")), "'loss' must be a finite"),
    "silence": (silent, "no answer within"),
    "an error": (broken, "out of memory"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_lies_is_left_out_and_the_others_stand(
    name, federation, tmp_path, make_sites
):
    lie, reason = LIES[name]
    run_dir, config, folders = federation(
        QUORUM, "federation.round_timeout=1", "federation.rounds=1"
    )
    run_federation(LoopbackGrid(folders, {"north": lie}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    (incident,) = entry["incidents"]
    assert (incident["client_id"], incident["task"]) == ("north", "train")
    assert reason in incident["reason"]
    assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]
    assert "Sites that were asked and left out" in report_of(run_dir, config)
    model = load_state(run_dir).state.model
    assert all(part.isfinite().all() for part in (*model.head.values(), model.centroids))


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (with_field("num_images", 10**9, "hello"), "must be 2 to 10000000"),
        (with_field("feature_count", 5, "hello"), "feature_count of 5 positions"),
        (with_field("fingerprint", "0" * 64, "hello"), "backbone with fingerprint 000"),
        (with_field("version", "9.9", "hello"), "runs fusseg 9.9"),
        (with_field("shift_0", 50.0, "hello"), "must lie in [-2, 2]"),
    ],
)
def test_a_hello_that_lies_keeps_the_site_out(lie, said, federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=2", "federation.rounds=1")
    run_federation(LoopbackGrid(folders, {"north": lie}), run_dir, tmp_path / "cache")
    assert [one["client_id"] for one in load_record(run_dir)["clients"]] == ["east", "south"]
    assert any(said in event["text"] for event in events(run_dir))


def test_fewer_sites_than_the_quorum_stop_the_run_and_it_goes_on_later(
    federation, tmp_path, same_bits
):
    run_dir, config, folders = federation("federation.wait_timeout=1")
    grid = LoopbackGrid(folders)

    def vanish(message, reply):
        if message.content["fields"].get("round") == 2:
            grid.offline.add(12)
            return None
        return reply

    grid.lies = {"south": vanish}
    with pytest.raises(
        FederationError, match=r"round 2 has 2 usable answers of 3 after 1 s; go on"
    ):
        run_federation(grid, run_dir, tmp_path / "cache")
    assert load_state(run_dir).state.round_number == 1
    waiting = [event["text"] for event in events(run_dir) if event["kind"] == "waiting"]
    assert "2 usable answers, 3 are needed; asking again" in waiting
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    expected = load_state(simulated(config, tmp_path)).state.model
    assert same_bits(load_state(run_dir).state.model, expected)
    assert [entry["round"] for entry in load_record(run_dir)["rounds"]] == [1, 2, 3]


def test_only_who_is_missing_is_asked_again(federation, tmp_path, same_bits):
    run_dir, config, folders = federation("federation.rounds=1", "federation.round_timeout=1")
    asked = []

    def miss_once(message, reply):
        if message.content["fields"]["task"] != "train":
            return reply
        asked.append("south")
        return None if asked.count("south") == 1 else reply

    def count(message, reply):
        if message.content["fields"]["task"] == "train":
            asked.append("others")
        return reply

    grid = LoopbackGrid(folders, {"south": miss_once, "east": count, "north": count})
    run_federation(grid, run_dir, tmp_path / "cache")
    assert sorted(asked) == ["others", "others", "south", "south"]
    (entry,) = load_record(run_dir)["rounds"]
    assert [incident["client_id"] for incident in entry["incidents"]] == ["south"]
    expected = load_state(simulated(config, tmp_path)).state.model
    assert same_bits(load_state(run_dir).state.model, expected)


def test_a_round_needs_an_answer_from_every_site_drawn_for_it(federation, tmp_path, same_bits):
    """One that is not drawn may be silent; one that is drawn is waited for."""
    run_dir, config, folders = federation(
        "federation.rounds=1",
        "federation.clients_per_round=2",
        "federation.round_timeout=1",
        "federation.wait_timeout=1",
    )
    drawn = draw_participants(SITES, 1, config.federation, config.seed)
    (spare,) = set(SITES) - set(drawn)
    with pytest.raises(FederationError, match="round 1 has 1 usable answers of 2"):
        run_federation(LoopbackGrid(folders, {drawn[0]: silent}), run_dir, tmp_path / "cache")
    run_federation(LoopbackGrid(folders, {spare: silent}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    assert [client["client_id"] for client in entry["clients"]] == list(drawn)
    assert entry["incidents"] == []
    expected = load_state(simulated(config, tmp_path)).state.model
    assert same_bits(load_state(run_dir).state.model, expected)


def test_a_quorum_below_the_draw_lets_a_round_close_without_a_drawn_site(federation, tmp_path):
    run_dir, config, folders = federation(
        "federation.rounds=1",
        "federation.clients_per_round=2",
        "federation.min_sites=1",
        "federation.round_timeout=1",
    )
    drawn = draw_participants(SITES, 1, config.federation, config.seed)
    run_federation(LoopbackGrid(folders, {drawn[0]: silent}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    assert [client["client_id"] for client in entry["clients"]] == [drawn[1]]
    assert [incident["client_id"] for incident in entry["incidents"]] == [drawn[0]]


def test_many_answers_that_wait_are_pulled_a_few_at_a_time(federation, tmp_path, monkeypatch):
    monkeypatch.setattr("fusseg.deployment.post._PULLED_AT_ONCE", 2)
    run_dir, _, folders = federation("federation.rounds=1")
    grid, pulled = LoopbackGrid(folders), []
    pull = grid.pull_messages

    def watch(message_ids):
        found = pull(message_ids)
        pulled.append(len(found))
        return found

    grid.pull_messages = watch
    run_federation(grid, run_dir, tmp_path / "cache")
    assert max(pulled) == 2
    assert len(load_record(run_dir)["rounds"][0]["clients"]) == 3


def test_a_site_that_comes_late_joins_once_its_features_are_there(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=1")
    grid = LoopbackGrid(folders)
    grid.offline.add(11)

    def arrive(message, reply):
        if message.content["fields"]["task"] == "train":
            grid.offline.clear()
        return reply

    grid.lies = {"east": arrive}
    run_federation(grid, run_dir, tmp_path / "cache")
    taking_part = [
        [client["client_id"] for client in entry["clients"]]
        for entry in load_record(run_dir)["rounds"]
    ]
    # offered in round 2, which waits for nobody that is still preparing
    assert taking_part == [["east", "south"], ["east", "south"], [*SITES]]
    assert [client["client_id"] for client in load_record(run_dir)["clients"]] == [*SITES]


def forget_everything(folder):
    """Leave what a fresh --state folder holds."""
    for path in folder.iterdir():
        if path.name in ("offer.json", "features.json", "ready.json"):
            path.unlink()


def test_a_site_that_comes_back_with_nothing_is_offered_the_settings_again(
    federation, tmp_path, same_bits
):
    run_dir, config, folders = federation()

    def come_back(message, reply):
        if message.content["fields"].get("round") == 1:
            forget_everything(folders[1])
        return reply

    run_federation(LoopbackGrid(folders, {"north": come_back}), run_dir, tmp_path / "cache")
    rounds = load_record(run_dir)["rounds"]
    assert [len(entry["clients"]) for entry in rounds] == [3, 3, 3]
    (incident,) = [one for entry in rounds for one in entry["incidents"]]
    assert (incident["client_id"], rounds[1]["incidents"]) == ("north", [incident])
    assert "say hello first" in incident["reason"]
    ready = [event for event in events(run_dir) if "north: ready with 6" in event["text"]]
    assert len(ready) == 2
    expected = load_state(simulated(config, tmp_path)).state.model
    assert same_bits(load_state(run_dir).state.model, expected)


def test_a_site_that_comes_back_with_other_images_is_left_out(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.rounds=4")
    images = Path(json.loads((folders[1] / "site.json").read_text())["data"]) / "images"

    def come_back(message, reply):
        if message.content["fields"].get("round") == 1:
            forget_everything(folders[1])
            (images / "005.png").unlink(missing_ok=True)
        return reply

    run_federation(LoopbackGrid(folders, {"north": come_back}), run_dir, tmp_path / "cache")
    taking_part = [
        [client["client_id"] for client in entry["clients"]]
        for entry in load_record(run_dir)["rounds"]
    ]
    assert taking_part == [[*SITES], *[["east", "south"]] * 3]
    said = [event["text"] for event in events(run_dir) if event.get("site") == "north"]
    assert any("north: refused: num_images is 5, but the site came with 6" in text for text in said)


def test_a_plan_is_made_when_as_many_are_there_as_a_round_needs(federation, tmp_path):
    run_dir, _, folders = federation("federation.min_sites=4", "federation.wait_timeout=1")
    with pytest.raises(FederationError, match="3 of 4 sites are ready after 1 s"):
        run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    assert not has_state(run_dir)
    waiting = [event["text"] for event in events(run_dir) if event["kind"] == "waiting"]
    assert all(text.startswith("waiting for 4 sites, ") for text in waiting)
    assert all(text.endswith("; only 3 are admitted") for text in waiting)
    assert waiting


def test_a_revoked_site_is_out_of_the_next_exchange(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM)
    nodes = run_dir / FLOWER / NODES

    def revoke(message, reply):
        if message.content["fields"].get("round") == 1:
            kept = json.loads(nodes.read_text())
            kept.pop("north", None)
            nodes.write_text(json.dumps(kept))
        return reply

    run_federation(LoopbackGrid(folders, {"east": revoke}), run_dir, tmp_path / "cache")
    taking_part = [
        [client["client_id"] for client in entry["clients"]]
        for entry in load_record(run_dir)["rounds"]
    ]
    assert taking_part == [[*SITES], ["east", "south"], ["east", "south"]]


def test_sites_count_their_labeled_pixels_like_the_simulation(federation, tmp_path):
    run_dir, config, folders = federation("evaluation.at_sites=true", held_out=())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_sites=SITES))
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    final = load_record(run_dir)["final"]
    expected = load_record(simulated(config, tmp_path))["final"]
    assert final["quality"] is None
    assert final["confusion"] == expected["confusion"]
    assert final["sites"] == expected["sites"]
    assert final["mean_iou"] == expected["mean_iou"]
    assert final["mean_iou"] > 0.5
    page = report_of(run_dir, config)
    assert f"{final['mean_iou']:.3f}" in page
    assert "Confusion" in page


def test_a_site_with_other_names_of_classes_is_left_out_of_the_score(federation, tmp_path):
    run_dir, _, folders = federation("evaluation.at_sites=true", "federation.rounds=1", held_out=())
    south = Path(json.loads((folders[2] / "site.json").read_text())["data"])
    (south / "classes.toml").write_text('names = ["gravel", "steel"]\n')
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    record = load_record(run_dir)
    assert [*record["final"]["sites"]] == ["east", "north"]
    assert left_out_of_score(record) == ["scored at 2 of 3 sites; left out: south"]
    record["rounds"][-1]["incidents"] = []
    assert left_out_of_score(record) == []


def report_of(run_dir, config):
    """The page as `fusseg serve` writes it where the server has no images."""
    write_report(run_dir, config, load_record(run_dir), load_state(run_dir))
    return (run_dir / "report.html").read_text()


def test_without_labels_scores_are_null(federation, tmp_path):
    run_dir, config, folders = federation("federation.rounds=1", held_out=())
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    final = load_record(run_dir)["final"]
    assert (final["mean_iou"], final["quality"]) == (None, None)
    page = report_of(run_dir, config)
    assert "Sent by the sites" in page
    assert "Mean margin" not in page
    assert summary(load_record(run_dir))[0] == "no labels: scores are null"


def test_both_ends_note_the_same_messages(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=2", FINISH)
    run_federation(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    at_server, damaged = read_ledger(run_dir)
    assert damaged == 0
    for folder in folders:
        here = sorted((line.direction, line.sha256) for line in read_ledger(folder)[0])
        there = sorted(
            (line.direction, line.sha256) for line in at_server if line.site == folder.name
        )
        assert here == there
    sums = {"bytes_up": 0, "bytes_down": 0}
    for entry in load_record(run_dir)["rounds"]:
        for name in sums:
            sums[name] += entry[name]
    tasks = ("train", "lloyd")
    for name, direction in (("bytes_up", "to server"), ("bytes_down", "to site")):
        sent = [one for one in at_server if one.direction == direction and one.task in tasks]
        assert sums[name] == sum(one.bytes for one in sent)


def test_a_failure_at_a_site_does_not_tell_its_file_names(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.rounds=1")

    def lose_features(message, reply):
        if message.content["fields"]["task"] == "hello":
            (folders[1] / "features.json").write_text("{}")
        return reply

    run_federation(LoopbackGrid(folders, {"north": lose_features}), run_dir, tmp_path / "cache")
    sent = "".join(
        str(line.fields) for line in read_ledger(run_dir)[0] if line.direction == "to server"
    )
    assert str(tmp_path) not in sent
    assert "features.json" not in sent
