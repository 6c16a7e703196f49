"""What a deployment sends: counted as in simulation, and what sites keep only once."""

import re

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from loopback import (
    SITES,
    LoopbackGrid,
    content_bytes,
    edit,
    federation_in,
    hurry,
    simulated,
)

from fusseg.core.errors import ConfigError
from fusseg.deployment.server.server_rounds import serve_rounds
from fusseg.deployment.wire.ledger import read_ledger
from fusseg.runs.directory import load_record
from fusseg.runs.saved_state import load_state

FEDAVG = "federation.strategy=fedavg"
THREE_STEPS = (FEDAVG, "federation.rounds=1", "federation.lloyd_rounds=3")
NORTH = SITES.index("north")
WEIGHT, PLAN = "head.linear.weight", "mean_feature"


@pytest.fixture(autouse=True)
def _in_a_flower_process(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def federation(tmp_path, make_sites, make_config):
    """A run directory, the configuration in it, and a folder per site that has joined."""
    root = make_sites(sites=(*SITES, "west"), num_images=6)
    for site in SITES:
        # A site does not see the file beside its folder.
        (root / site / "classes.toml").write_bytes((root / "classes.toml").read_bytes())
    return federation_in(tmp_path, root, make_config)


@pytest.fixture
def deploy(federation, tmp_path):
    """Run a deployment; its run directory, its configuration and the folders of the sites."""

    def run(*overrides, **lies):
        run_dir, config, folders = federation(*overrides)
        grid = LoopbackGrid(folders, {site: lie(folders) for site, lie in lies.items()})
        serve_rounds(grid, run_dir, tmp_path / "cache")
        return run_dir, config, folders

    return run


JUDGED = ("model.init=pca", "model.init_steps=2")
START = (*JUDGED, "model.whitening=0", "federation.keep=last")
"""A start that is computed in round 0."""
KINDS = {
    "start": [FEDAVG, *START],
    "start, its shifts": [FEDAVG, *START, "local.stego.shift_from_start=true"],
    "start, own heads": [FEDAVG, *START, "federation.aggregate_heads=false"],
    "start, drawn sites": [FEDAVG, *START, "federation.clients_per_round=2"],
    "start, merged": [*START, "model.num_clusters=6", "model.num_regions=3"],
    "judged": [FEDAVG, *JUDGED, "federation.clients_per_round=2"],
    "training": [FEDAVG],
    "taught": [FEDAVG, "federation.teach=true"],
    "consensus": ["federation.strategy=consensus", "federation.lloyd_rounds=1"],
    "lloyd": ["federation.strategy=lloyd", "federation.lloyd_rounds=2"],
    "pca": ["federation.strategy=pca", "federation.lloyd_rounds=2", *START],
    "bfloat16": [FEDAVG, "federation.wire=bfloat16", "federation.lloyd_rounds=2"],
    "own heads": [FEDAVG, "federation.aggregate_heads=false", "federation.lloyd_rounds=2"],
    "own centroids": [FEDAVG, "federation.aggregate_centroids=false", "federation.lloyd_rounds=2"],
    "drawn sites": [FEDAVG, "federation.clients_per_round=2", "federation.lloyd_rounds=2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_has_the_bytes_of_the_simulation(kind, deploy, tmp_path):
    run_dir, config, _ = deploy(*KINDS[kind])
    found, expected = load_record(run_dir), load_record(simulated(config, tmp_path))
    assert traffic(found) == traffic(expected)
    assert found["hello"] == expected["hello"]
    # And what was counted is what was sent.
    lines, _ = read_ledger(run_dir)
    for number, clients in enumerate(traffic(found), found["rounds"][0]["round"]):
        for site, up, down in clients:
            sent = {"to server": 0, "to site": 0}
            for line in lines:
                if (line.site, line.round) == (site, number) and line.task not in (
                    "hello",
                    "finish",
                ):
                    sent[line.direction] += content_bytes(line)
            assert (up, down) == (sent["to server"], sent["to site"])


def traffic(record):
    return [
        [(one["client_id"], one["bytes_up"], one["bytes_down"]) for one in entry["clients"]]
        for entry in record["rounds"]
    ]


@pytest.mark.parametrize(
    ("overrides", "heads"),
    [
        (
            THREE_STEPS,
            [("train", 1), ("lloyd", 2), None, None, None],
        ),
        (
            ("federation.strategy=lloyd", "federation.rounds=2", "federation.lloyd_rounds=1"),
            # The head of a round's steps is the one that the next round starts from.
            [("train", 1), ("lloyd", 1), None, None, None, ("lloyd", 2), None, None, None, None],
        ),
        (
            ("federation.strategy=pca", "federation.lloyd_rounds=1", *START),
            [None, ("lloyd", 0), None, None, None],
        ),
    ],
)
def test_a_head_is_sent_once_for_all_exchanges_that_need_the_same(overrides, heads, deploy):
    run_dir, _, _ = deploy(*overrides)
    for site in SITES:
        sent = [line for line in sent_to(run_dir, site) if line.task != "hello"]
        with_head = [has(line, WEIGHT) for line in sent]
        assert with_head == [head is not None for head in heads]
        found = [(line.task, line.round) for line in sent if has(line, WEIGHT)]
        assert found == [head for head in heads if head is not None]
        # And the plan with the first exchange, however little that needs.
        assert [has(line, PLAN) for line in sent] == [True] + [False] * (len(sent) - 1)
        assert sent[-1].task == "finish"


def test_the_moments_need_neither_head_nor_centroids(deploy):
    run_dir, _, _ = deploy("federation.strategy=pca", *START)
    for site in SITES:
        (line,) = [line for line in sent_to(run_dir, site) if line.task == "moments"]
        assert [tensor.name for tensor in line.tensors] == [PLAN]


def sent_to(run_dir, site):
    lines, _ = read_ledger(run_dir)
    return [line for line in lines if (line.site, line.direction) == (site, "to site")]


def has(line, name):
    return name in [tensor.name for tensor in line.tensors]


def remove(path):
    path.unlink()


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def after(task, number, lose, *names):
    """A site that loses what it keeps once it has answered a task of a round."""

    def of(folders):
        done = []

        def act(message, reply):
            fields = message.content["fields"]
            if (fields["task"], fields["round"]) == (task, number) and not done:
                done.append(task)
                for name in names:
                    (path,) = folders[NORTH].glob(f"runs/*/received/{name}.safetensors")
                    lose(path)
            return reply

        return act

    return of


@pytest.mark.parametrize("lose", [remove, damage, cut])
@pytest.mark.parametrize(
    ("task", "number", "names"),
    [
        ("train", 1, ["plan"]),
        ("lloyd", 2, ["plan"]),
        ("lloyd", 2, ["head"]),
        ("lloyd", 3, ["plan", "head"]),
        ("lloyd", 4, ["head"]),
    ],
)
def test_a_site_that_lost_what_it_keeps_is_sent_it_again_at_once(
    lose, task, number, names, deploy, tmp_path, same_bits
):
    run_dir, config, folders = deploy(*THREE_STEPS, north=after(task, number, lose, *names))
    (said,) = (line for line in read_ledger(run_dir)[0] if line.fields.get("state") == "lacks")
    assert (said.site, said.round) == ("north", min(number + 1, 4))
    first, again = (
        line
        for line in sent_to(run_dir, "north")
        if (line.task, line.round) == (said.task, said.round)
    )
    assert not has(first, PLAN)
    assert has(again, PLAN)
    assert has(again, WEIGHT)
    record, expected = load_record(run_dir), simulated(config, tmp_path)
    assert [entry["incidents"] for entry in record["rounds"]] == [[]] * 4
    model = load_state(expected).state.model
    assert same_bits(load_state(run_dir).state.model, model)
    for folder in folders:
        (result,) = folder.glob("runs/*/result")
        assert same_bits(load_state(result).state.model, model)
    if said.task == "lloyd":
        # What had to be sent once more is counted.
        sent, wanted = (dict(by_site(one, said.round)) for one in (record, load_record(expected)))
        up, down = wanted["north"]
        assert sent == {**wanted, "north": (up, down + content_bytes(again))}


def by_site(record, number):
    return [(site, (up, down)) for site, up, down in traffic(record)[number - 1]]


def always_lacking(_folders):
    def act(message, reply):
        fields = dict(message.content["fields"])
        if fields["task"] != "train":
            return reply
        said = {name: fields[name] for name in ("run", "offer", "task", "round", "place")}
        said |= {"version": fields["version"], "state": "lacks", "reason": "no memory"}
        reply.content = RecordDict({"tensors": ArrayRecord(), "fields": ConfigRecord(said)})
        return reply

    return act


def test_a_site_that_always_lacks_something_is_left_out_and_the_others_stand(deploy):
    quorum = ("federation.min_sites=2", "federation.rounds=2")
    run_dir, _, _ = deploy(*quorum, north=always_lacking)
    for entry in load_record(run_dir)["rounds"]:
        assert [one["client_id"] for one in entry["clients"]] == ["east", "south"]
        (incident,) = entry["incidents"]
        assert incident["client_id"] == "north"
        assert "the site lacks: no memory" in incident["reason"]
        asked = [line for line in sent_to(run_dir, "north") if line.round == entry["round"]]
        assert [has(line, PLAN) for line in asked if line.task == "train"] == [True, True]


BAD = {
    "another head": ({"head": "0" * 32}, "a head with the digest"),
    "another plan": ({"plan": "0" * 32}, "a plan with the digest"),
    "other steps": ({"num_steps": 5}, "a plan of 5 steps, but the settings say"),
    "other numbers": ({"shift_self": 0.5}, "a plan with the digest"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_site_refuses_what_its_digest_does_not_name(name, federation, tmp_path):
    """As if the message had been changed on its way; nothing of it is kept."""
    change, reason = BAD[name]
    run_dir, _, folders = federation("federation.min_sites=2", "federation.rounds=1")
    grid = LoopbackGrid(folders)
    answer = grid._answer

    def alter(message, folder):
        fields = dict(message.content["fields"])
        if folder.name == "north" and fields["task"] == "train":
            content = RecordDict(dict(message.content))
            content["fields"] = ConfigRecord({**fields, **change})
            message.content = content
        return answer(message, folder)

    grid._answer = alter
    serve_rounds(grid, run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    (incident,) = entry["incidents"]
    assert incident["client_id"] == "north"
    assert f"the site refused: the server sent {reason}" in incident["reason"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("strategy", '"consensus"', "federation.strategy is 'consensus'"),
        ("seed", "7", "seed is 7, but the run was started with 0"),
        ("dropout", "0.3", "local.stego.dropout is 0.3"),
    ],
)
def test_a_server_with_edited_settings_asks_nobody(key, value, said, deploy, tmp_path):
    run_dir, _, folders = deploy(FEDAVG, "federation.rounds=1")
    edit(run_dir, key, value)
    kept = {name: (run_dir / name).read_bytes() for name in ("record.json", "ledger.jsonl")}
    grid = LoopbackGrid(folders)
    grid.get_node_ids = lambda: pytest.fail("looked for sites")
    with pytest.raises(ConfigError, match=re.escape(said)):
        serve_rounds(grid, run_dir, tmp_path / "cache")
    assert {name: (run_dir / name).read_bytes() for name in kept} == kept


def test_server_and_sites_compute_with_the_threads_of_the_settings(federation, tmp_path):
    before, seen = torch.get_num_threads(), []

    def note():
        seen.append(torch.get_num_threads())
        # As a process of its own would begin.
        torch.set_num_threads(before)

    def look(_message, reply):
        note()
        return reply

    run_dir, _, folders = federation(f"compute.threads={before + 1}", "federation.rounds=1")
    grid = LoopbackGrid(folders, dict.fromkeys(SITES, look))
    connected = grid.get_node_ids

    def first_look():
        if not seen:
            note()
        return connected()

    grid.get_node_ids = first_look
    try:
        serve_rounds(grid, run_dir, tmp_path / "cache")
    finally:
        torch.set_num_threads(before)
    # The server before it has asked anybody; each site twice at a hello, in training, at the end.
    assert seen == [before + 1] * (1 + 4 * len(SITES))
