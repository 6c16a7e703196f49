"""Secure sums over Flower's own messages, in this process: bits, drop-outs, and servers that lie.

Real processes, keys and TLS are tested in tests/deployment.
"""

import json
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
from loopback import SITES, LoopbackGrid, events, federation_in, hurry, simulated

from fusseg.core.errors import FederationError
from fusseg.deployment.keys.credentials import public_line
from fusseg.deployment.server.server_rounds import serve_rounds
from fusseg.deployment.wire.ledger import read_ledger
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
    assert any("reveals it for no other sites" in reason for reason in reasons)


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


def test_a_site_whose_roster_is_shorter_is_left_out(federation, tmp_path):
    run_dir, _, folders = federation(*SLOW, "privacy.threshold=1", "federation.wait_timeout=1")
    roster = folders[2] / "roster.toml"
    roster.write_text(roster.read_text().replace("[sites.east]", "[sites.elsewhere]", 1))
    with pytest.raises(FederationError, match="too few terms"):
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    assert any(
        "'east', which is not on this site's roster" in one["text"] for one in events(run_dir)
    )


def test_nothing_but_masked_terms_and_keys_leaves_a_site(federation, tmp_path):
    run_dir, _, folders = federation("federation.strategy=lloyd", "federation.lloyd_rounds=1")
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "server-cache")
    lines = [line for line in read_ledger(run_dir)[0] if line.direction == "to server"]
    assert {tensor.name for line in lines for tensor in line.tensors} == {
        *("sum.keys", "sum.signature", "sum.commitments", "sum.sealed", "sum.masked"),
        "sum.revealed",
    }
    numbers = {name for line in lines for name, value in line.fields.items() if value != line.round}
    assert not numbers & {"num_images", "loss", "feature_count", "feature_spread"}
