"""Secure sums over Flower's own messages, in this process: bits, drop-outs, and servers that lie.

Real processes, keys and TLS are tested in tests/deployment.
"""

import json
import re
from dataclasses import replace
from datetime import date, timedelta

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Message
from loopback import SITES, LoopbackGrid, events, federation_in, hurry, simulated

from fusseg.core.errors import FederationError
from fusseg.deployment.keys.credentials import public_line
from fusseg.deployment.server.admission import NODES
from fusseg.deployment.server.server_rounds import serve_rounds
from fusseg.deployment.wire.ledger import read_ledger
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

SECURE = "privacy.secure_sum=true"
JUDGED = ("model.init=pca", "model.init_steps=2")
KINDS = {
    "fedavg": ["federation.strategy=fedavg"],
    "fedcc": [*JUDGED],
    "consensus": ["federation.strategy=consensus", "federation.weights=uncertainty"],
    "lloyd": ["federation.strategy=lloyd", "federation.lloyd_rounds=1", *JUDGED],
    "pca": ["federation.strategy=pca", *JUDGED, "federation.lloyd_rounds=1"],
    "own heads": ["federation.strategy=fedavg", "federation.aggregate_heads=false", *JUDGED],
    "merged": [*JUDGED, "model.num_clusters=6", "model.num_regions=auto"],
    "equal": ["federation.strategy=fedavg", "federation.weights=equal"],
}


@pytest.fixture(autouse=True)
def _in_a_flower_process(monkeypatch):
    hurry(monkeypatch)
    # Sites that are gone are not waited for to store the result.
    monkeypatch.setattr("fusseg.deployment.server.asking_all.ABSENT_SECONDS", 0.01)


@pytest.fixture
def federation(tmp_path, make_sites, make_config):
    """A run directory, the configuration in it, and a folder per site with a key and a roster."""
    make = federation_in(tmp_path, make_sites(sites=(*SITES, "west"), num_images=6), make_config)

    def with_keys(*overrides, **options):
        run_dir, config, folders = make(SECURE, *overrides, **options)
        lines = []
        until = date.today() + timedelta(days=30)
        for folder in folders:
            key = ec.generate_private_key(ec.SECP384R1())
            content = key.private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            )
            (folder / "site.key").write_bytes(content)
            (folder / "site.key").chmod(0o600)
            lines.append(
                f'[sites.{folder.name}]\npublic_key = "{public_line(key)}"\nexpires = {until}\n'
            )
        nodes = json.loads((run_dir / "flower" / NODES).read_text())
        for folder, line in zip(folders, lines, strict=True):
            nodes[folder.name]["public_key"] = line.split('"')[1]
        (run_dir / "flower" / NODES).write_text(json.dumps(nodes))
        for folder in folders:
            (folder / "roster.toml").write_text("".join(lines))
            settings = json.loads((folder / "site.json").read_text())
            settings |= {
                "roster": str(folder / "roster.toml"),
                "key": str(folder / "site.key"),
            }
            (folder / "site.json").write_text(json.dumps(settings))
        return run_dir, config, folders

    return with_keys


def same_model(left, right):
    left, right = load_state(left).state, load_state(right).state
    assert left.model.head.keys() == right.model.head.keys()
    for name, weight in left.model.head.items():
        assert torch.equal(weight, right.model.head[name]), name
    assert torch.equal(left.model.centroids, right.model.centroids)
    assert left.candidates == right.candidates


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployment_ends_with_the_bits_of_the_simulation(kind, federation, tmp_path):
    run_dir, config, folders = federation(*KINDS[kind])
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    other = simulated(config, tmp_path)
    same_model(run_dir, other)
    left, right = load_record(run_dir), load_record(other)
    for mine, theirs in zip(left["rounds"], right["rounds"], strict=True):
        # A server cannot score models that stay at the sites.
        scores = () if kind == "own heads" else ("mean_iou",)
        for key in ("loss", *scores, "bytes_up", "bytes_down", "num_images", "clients"):
            assert mine[key] == theirs[key], key
        assert not mine["incidents"]
    assert left["hello"] == {**right["hello"], "refused": []}
    assert left["num_images"] == right["num_images"] == 18
    assert [one["num_images"] for one in left["clients"]] == [None] * 3


def test_the_sums_differ_from_those_of_plain_updates_by_rounding_alone(federation, tmp_path):
    _, config, _ = federation("federation.strategy=lloyd", "federation.keep=last", *JUDGED)
    hidden = load_state(simulated(config, tmp_path)).state.model
    plain = replace(config, privacy=replace(config.privacy, secure_sum=False))
    (tmp_path / "plain").mkdir()
    shown = load_state(simulated(plain, tmp_path / "plain")).state.model
    for name, weight in hidden.head.items():
        assert torch.allclose(weight, shown.head[name], atol=1e-6, rtol=0), name
    assert torch.allclose(hidden.centroids, shown.centroids, atol=1e-6, rtol=0)
    # If nothing was rounded, nothing was added as integers.
    assert not torch.equal(hidden.centroids, shown.centroids)


SLOW = ("federation.round_timeout=1", "federation.min_sites=2", "federation.strategy=fedavg")


class Silent:
    """A site that does not answer one kind of message in one round."""

    def __init__(self, task, round_number):
        self.wanted = task, round_number
        self.heard = 0

    def __call__(self, message, reply):
        fields = message.content["fields"]
        if (fields["task"], fields["round"]) != self.wanted:
            return reply
        self.heard += 1
        return None


@pytest.mark.parametrize("stage", ["sum-keys", "sum-shares", "train", "sum-reveal"])
def test_a_site_that_drops_out_in_any_stage_costs_its_own_part_only(stage, federation, tmp_path):
    run_dir, _, folders = federation(*SLOW)
    silent = Silent(stage, 2)
    serve_rounds(LoopbackGrid(folders, {"south": silent}), run_dir, tmp_path / "server-cache")
    assert silent.heard == 1
    record = load_record(run_dir)
    first, second = record["rounds"][:2]
    assert [one["client_id"] for one in first["clients"]] == [*SITES]
    # Its term is in the sum if it fails to reveal only.
    left = [*SITES] if stage == "sum-reveal" else ["east", "north"]
    assert [one["client_id"] for one in second["clients"]] == left
    assert second["num_images"] == 6 * len(left)
    assert [one["task"] for one in second["incidents"]] == [stage]


def test_without_one_term_the_sum_is_that_of_the_others(federation, tmp_path):
    made = {}
    for name, hidden in (("hidden", True), ("plain", False)):
        options = () if hidden else ("privacy.secure_sum=false",)
        run_dir, _, folders = federation(*SLOW, *options, name=name)
        if not hidden:
            forget_roster(folders)
        grid = LoopbackGrid(folders, {"south": Silent("train", 2)})
        serve_rounds(grid, run_dir, tmp_path / "server-cache")
        made[name] = load_state(run_dir).state.model
    for name, weight in made["hidden"].head.items():
        assert torch.allclose(weight, made["plain"].head[name], atol=1e-6, rtol=0), name
    assert torch.allclose(made["hidden"].centroids, made["plain"].centroids, atol=1e-6, rtol=0)


def forget_roster(folders):
    for folder in folders:
        settings = json.loads((folder / "site.json").read_text())
        (folder / "site.json").write_text(json.dumps(settings | {"roster": None}))


def test_too_few_sites_end_the_run_with_their_number(federation, tmp_path):
    run_dir, _, folders = federation(*SLOW, "federation.wait_timeout=1", "privacy.threshold=1")
    grid = LoopbackGrid(folders, {"south": Silent("sum-shares", 1)})
    with pytest.raises(FederationError, match="too few terms for a secure sum"):
        serve_rounds(grid, run_dir, tmp_path / "server-cache")
    assert any("2 sites sent shares, 3 are needed" in one["text"] for one in events(run_dir))


class Stopping(Silent):
    """Stops the server when it asks a site to reveal, as a crash would."""

    def __call__(self, message, reply):
        if super().__call__(message, reply) is None:
            raise KeyboardInterrupt
        return reply


def crash(federation, tmp_path, *overrides):
    """Stop a server in round 2, after some sites have revealed their part."""
    run_dir, config, folders = federation(*SLOW, "federation.rounds=3", *overrides)
    grid = LoopbackGrid(folders, {"south": Stopping("sum-reveal", 2)})
    with pytest.raises(KeyboardInterrupt):
        serve_rounds(grid, run_dir, tmp_path / "server-cache")
    assert load_state(run_dir).state.round_number == 1
    return run_dir, config, folders


def test_after_a_crash_the_round_is_asked_of_the_identical_sites(federation, tmp_path):
    run_dir, config, folders = crash(federation, tmp_path)
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    same_model(run_dir, simulated(config, tmp_path))


def test_if_one_of_them_is_gone_the_round_is_closed_unused_and_the_next_begins(
    federation, tmp_path
):
    run_dir, _, folders = crash(federation, tmp_path)
    grid = LoopbackGrid(folders)
    grid.offline = {12}
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    record = load_record(run_dir)
    assert [len(one["clients"]) for one in record["rounds"]] == [3, 0, 2]
    assert record["rounds"][1]["loss"] is None
    assert load_state(run_dir).state.round_number == 3


def test_sites_reveal_no_sum_twice_for_different_sites(federation, tmp_path):
    """A server that has lost its memory asks round 2 again, without one of its sites."""
    run_dir, _, folders = crash(federation, tmp_path, "federation.wait_timeout=1")
    (run_dir / "flower" / "sums.json").write_text('{"session": 1000}')
    grid = LoopbackGrid(folders)
    grid.offline = {12}
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    record = load_record(run_dir)
    assert [len(one["clients"]) for one in record["rounds"]] == [3, 0, 2]
    reasons = {one["reason"] for one in record["rounds"][1]["incidents"]}
    assert any("reveals it for no other" in reason for reason in reasons)


def test_sites_refuse_a_session_that_is_not_new(federation, tmp_path):
    run_dir, config, folders = crash(federation, tmp_path)
    (run_dir / "flower" / "sums.json").unlink()
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    reasons = [one["text"] for one in events(run_dir) if one["kind"] == "incident"]
    assert any("session 1 of secure sums is not new" in reason for reason in reasons)
    same_model(run_dir, simulated(config, tmp_path))


def test_a_site_without_a_roster_takes_no_part(federation, tmp_path):
    _, _, folders = federation(*SLOW)
    forget_roster(folders)
    run_dir = tmp_path / "deploy"
    with pytest.raises(FederationError, match="start fusseg join with --roster"):
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")


def test_a_site_with_a_roster_takes_part_in_nothing_else(federation, tmp_path):
    run_dir, _, folders = federation(*SLOW, "privacy.secure_sum=false")
    with pytest.raises(FederationError, match=r"privacy\.secure_sum is false"):
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")


class LyingServer(LoopbackGrid):
    """Changes what one site is told in one kind of message of round 2, and keeps its answers."""

    def __init__(self, folders, task, site, changes):
        super().__init__(folders)
        self.told = task, site, changes
        self.answers = []

    def _answer(self, message, folder):
        task, site, changes = self.told
        fields = message.content["fields"]
        told = (fields["task"], folder.name, fields["round"]) == (task, site, 2)
        if told:
            fields.update(changes)
        reply = super()._answer(message, folder)
        if told:
            self.answers.append(dict(reply.content["fields"]))
        return reply


OTHER_SETS = {
    "another set to reveal": ("sum-reveal", {"sites": '["east", "south"]'}, "has signed that"),
    "more signers than signatures": (
        "sum-reveal",
        {"signers": '["east", "north", "south"]'},
        r"sum\.agreed of shape",
    ),
    "signers who have not signed": (
        "sum-reveal",
        {"signers": '["north", "south"]'},
        "0 sites have signed",
    ),
    "a sum of the hellos": ("train", {"kind": "hello"}, "in a session of other sums"),
    "a sum that the session lacks": ("train", {"place": 7}, "at place 7"),
    "a hello in a round": (
        "train",
        {"task": "sum-hello"},
        "asked for a sum in a session of other sums",
    ),
    "keys of an older session": ("sum-keys", {"session": 1}, "session 1 of secure sums is not new"),
}


@pytest.mark.parametrize("kind", OTHER_SETS)
def test_a_site_that_is_told_something_else_refuses_and_the_others_go_on(
    kind, federation, tmp_path
):
    task, changes, reason = OTHER_SETS[kind]
    run_dir, _, folders = federation(*SLOW)
    grid = LyingServer(folders, task, "south", changes)
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    assert {answer["state"] for answer in grid.answers} == {"refused"}
    assert all(re.search(reason, answer["reason"]) for answer in grid.answers)
    record = load_record(run_dir)
    assert len(record["rounds"][1]["clients"]) >= 2


def test_a_site_signs_one_set_besides_that_of_the_dealers(federation, tmp_path):
    """Two sets of two sites each, signed by enough, would give the term of the site in between."""
    run_dir, _, folders = federation(*SLOW)
    asked = {}

    class Keeping(LyingServer):
        def _answer(self, message, folder):
            fields = message.content["fields"]
            stage = fields["task"], fields["round"]
            if stage == ("sum-agree", 2) and folder.name not in asked:
                summed = fields["sites"]
                fields["sites"] = '["east", "south"]' if folder.name == "east" else summed
                asked[folder.name] = dict(super()._answer(message, folder).content["fields"])
                # The first answer is thrown away, and the site is asked for the true set.
                fields["sites"] = summed
            return super()._answer(message, folder)

    grid = Keeping(folders, "none", "none", {})
    grid.lies["south"] = Silent("train", 2)
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    assert [answer["state"] for answer in asked.values()] == ["done", "done"]
    reasons = [one["reason"] for one in load_record(run_dir)["rounds"][1]["incidents"]]
    assert any("signs no other set" in reason for reason in reasons)


class NotReady(Silent):
    """A site that was started anew: it refuses once what it is asked."""

    def __call__(self, message, reply):
        if super().__call__(message, reply) is None and self.heard == 1:
            reply.content["fields"]["state"] = "refused"
            reply.content["fields"]["reason"] = "this site was not offered these settings"
        return reply


def test_a_site_that_was_started_anew_is_asked_again_to_reveal(federation, tmp_path):
    run_dir, config, folders = federation(*SLOW, "privacy.threshold=1")
    grid = LoopbackGrid(folders, {"south": NotReady("sum-reveal", 2)})
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    same_model(run_dir, simulated(config, tmp_path))


class Forging(Silent):
    """A site that reveals wrong shares, or signs with another key."""

    def __init__(self, tensor, *wanted):
        super().__init__(*wanted)
        self.tensor = tensor

    def __call__(self, message, reply):
        if super().__call__(message, reply) is None:
            words = unpack(reply.content)
            changed = {**words.tensors, self.tensor: words.tensors[self.tensor] ^ 255}
            reply = Message(pack(Packet(words.fields, changed)), reply_to=message)
        return reply


LIES = {
    "revealed": ("sum.revealed", "sum-reveal", 3, ""),
    "signature of its keys": ("sum.signature", "sum-keys", 2, "its keys are not signed"),
    "signature of the set": ("sum.agreed", "train", 3, "its signature does not belong"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_site_that_lies_in_the_protocol_does_not_stop_the_others(kind, federation, tmp_path):
    tensor, task, summed, reason = LIES[kind]
    run_dir, _, folders = federation(*SLOW)
    grid = LoopbackGrid(folders, {"south": Forging(tensor, task, 2)})
    serve_rounds(grid, run_dir, tmp_path / "server-cache")
    second = load_record(run_dir)["rounds"][1]
    assert len(second["clients"]) == summed
    # A wrong share is passed over, without a word.
    reasons = [one["reason"] for one in second["incidents"]]
    assert [reason in one for one in reasons] == ([True] if reason else [])


def test_a_site_that_deals_shares_nobody_can_open_is_named(federation, tmp_path):
    run_dir, _, folders = federation(*SLOW, "federation.wait_timeout=1")
    grid = LoopbackGrid(folders, {"south": Forging("sum.sealed", "sum-shares", 2)})
    with pytest.raises(FederationError, match="too few terms"):
        serve_rounds(grid, run_dir, tmp_path / "server-cache")
    told = [one for one in events(run_dir) if "shares of 'south' cannot be opened" in one["text"]]
    assert {one["site"] for one in told} == {*SITES}


ROSTERS = {
    "shorter": (lambda text: "[sites.north]" + text.split("[sites.north]")[1], 2),
    "with another name": (lambda text: text.replace("[sites.east]", "[sites.elsewhere]"), 3),
}


@pytest.mark.parametrize("kind", ROSTERS)
def test_a_site_whose_roster_differs_is_left_out_and_the_others_go_on(kind, federation, tmp_path):
    run_dir, _, folders = federation(*SLOW)
    roster = folders[2] / "roster.toml"
    roster.write_text(ROSTERS[kind][0](roster.read_text()))
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    record = load_record(run_dir)
    assert [len(one["clients"]) for one in record["rounds"]] == [2] * len(record["rounds"])
    assert any(
        "roster differs from that of 2 other sites" in one["text"] for one in events(run_dir)
    )


def test_nothing_but_masked_terms_and_keys_leaves_a_site(federation, tmp_path):
    run_dir, _, folders = federation("federation.strategy=lloyd", "federation.lloyd_rounds=1")
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    lines = [line for line in read_ledger(run_dir)[0] if line.direction == "to server"]
    assert {tensor.name for line in lines for tensor in line.tensors} == {
        *("sum.keys", "sum.signature", "sum.commitments", "sum.sealed", "sum.masked"),
        *("sum.agreed", "sum.revealed"),
    }
    numbers = {name for line in lines for name, value in line.fields.items() if value != line.round}
    assert not numbers & {"num_images", "loss", "feature_count", "feature_spread"}


NOISED = (
    "federation.strategy=pca",
    "federation.keep=last",
    "privacy.noise=image",
    "privacy.feature_norm=1",
    "privacy.epsilon=1e4",
    "model.init=pca",
    "model.whitening=0",
    "model.init_steps=2",
)


def test_noised_sums_are_learned_in_a_deployment_as_in_a_simulation(federation, tmp_path):
    run_dir, config, folders = federation(*NOISED)
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    left, right = load_record(run_dir), load_record(simulated(config, tmp_path))
    assert left["noise"] == right["noise"]
    assert left["noise"]["protects"] == "image"
    # Moments and two Lloyd steps.
    assert left["noise"]["exchanges"] == 3
    assert 9e3 < left["noise"]["epsilon"] <= 1e4
    assert left["final"]["mean_iou"] == pytest.approx(right["final"]["mean_iou"], abs=0.05)
    for folder in folders:
        lines = [line for line in read_ledger(folder)[0] if line.direction == "to server"]
        masked = [line for line in lines if "epsilon" in line.fields]
        assert [line.fields["task"] for line in masked] == ["moments", "lloyd", "lloyd"]
        assert masked[0].fields["epsilon"] == 1e4
        assert masked[0].fields["noise_multiplier"] == left["noise"]["noise_multiplier"]


def test_a_site_sends_no_more_noised_terms_than_the_budget_allows(federation, tmp_path):
    run_dir, _, folders = federation(*SLOW, *NOISED, "federation.wait_timeout=5")
    grid = LoopbackGrid(folders, {"south": Silent("lloyd", 0), "north": Silent("lloyd", 0)})
    with pytest.raises(FederationError, match="too few terms"):
        serve_rounds(grid, run_dir, tmp_path / "server-cache")
    told = {one["text"] for one in events(run_dir)}
    assert any("3 noised terms, all that privacy.epsilon allows" in text for text in told)


def test_a_site_refuses_noise_that_is_too_weak_for_the_budget(federation, tmp_path, monkeypatch):
    run_dir, _, folders = federation(*NOISED)
    monkeypatch.setattr("fusseg.federation.accounting.needed_multiplier", lambda *_: 1e-3)
    monkeypatch.setattr("fusseg.federation.noise.needed_multiplier", lambda *_: 1e-3)
    with pytest.raises(FederationError, match=r"3 exchanges spend"):
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
