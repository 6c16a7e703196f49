"""The rounds over Flower's own messages, in this process: every strategy, and answers that lie.

Real processes, keys and TLS are tested in tests/deployment.
"""

import dataclasses
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typed_form import check_form

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from loopback import SITES, LoopbackGrid, content_bytes, events, federation_in, hurry, simulated

from fusseg.cli.serve import left_out_of_score
from fusseg.cli.summaries import describe_run
from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.deployment.server.admission import NODES
from fusseg.deployment.server.server_rounds import FLOWER, serve_rounds
from fusseg.deployment.server.site_scores import read_counts
from fusseg.deployment.wire.ledger import read_ledger
from fusseg.deployment.wire.packet import Packet
from fusseg.federation.rounds import draw_participants
from fusseg.federation.strategies import resolve
from fusseg.report.gallery import write_report
from fusseg.runs.directory import load_record
from fusseg.runs.load import load_run
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import has_state, load_state


@pytest.fixture(autouse=True)
def _in_a_flower_process(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def federation(tmp_path, make_sites, make_config):
    """A run directory, the configuration in it, and a folder per site that has joined."""
    return federation_in(tmp_path, make_sites(sites=(*SITES, "west"), num_images=6), make_config)


QUORUM = "federation.min_sites=2"
FINISH = "federation.lloyd_rounds=1"
JUDGED = ("model.init=pca", "model.init_steps=2")
START = (*JUDGED, "model.whitening=0", "federation.keep=last")
KINDS = {
    "fedavg": ["federation.strategy=fedavg"],
    "bfloat16": ["federation.wire=bfloat16", FINISH],
    "consensus and FedMOON": ["federation.strategy=consensus", "local.fedmoon_weight=1"],
    "lloyd": ["federation.strategy=lloyd", FINISH],
    "momentum, bfloat16": [
        "federation.server_optimizer=momentum",
        "federation.wire=bfloat16",
        FINISH,
    ],
    "start": START,
    "start, merged": [*START, "model.num_clusters=6", "model.num_regions=3", FINISH],
    "merged by borders": [
        "model.num_clusters=6",
        "model.num_regions=auto",
        "model.merge_by=borders",
        "federation.clients_per_round=2",
    ],
    "judged": [*JUDGED, FINISH],
    "judged, merged": [*JUDGED, "model.num_clusters=6", "model.num_regions=auto"],
    "judged, drawn sites": [*JUDGED, "federation.clients_per_round=1", "federation.wire=bfloat16"],
    "start, its shifts": [*START, "local.stego.shift_from_start=true"],
    "start, drawn sites": [*START, "federation.clients_per_round=2", "federation.wire=bfloat16"],
    "start, own heads": [*START, "federation.strategy=fedavg", "federation.aggregate_heads=false"],
    "pca": ["federation.strategy=pca", "federation.lloyd_rounds=2", *START],
    "own heads": ["federation.strategy=fedavg", "federation.aggregate_heads=false", FINISH],
    "own centroids": ["federation.strategy=fedavg", "federation.aggregate_centroids=false", FINISH],
    "drawn sites": ["federation.clients_per_round=2", "local.fedmoon_weight=1", FINISH],
    "drawn sites, lloyd": ["federation.clients_per_round=2", "federation.strategy=lloyd"],
    "drawn sites, own heads": [
        "federation.clients_per_round=1",
        "federation.strategy=fedavg",
        "federation.aggregate_heads=false",
    ],
    "contrastive": ["local.objective=contrastive", "local.contrastive.negatives=random"],
    "smooseg": ["local.objective=smooseg", "local.fedmoon_weight=1", FINISH],
    "centroids only": ["local.objective=primaps", FINISH],
    "centroids only, bfloat16": ["local.objective=primaps", "federation.wire=bfloat16"],
    "used clusters": ["federation.site_clusters=used", "federation.min_cluster_share=0.2"],
    "used clusters, drawn sites, consensus": [
        "federation.site_clusters=used",
        "federation.min_cluster_share=0.3",
        "federation.strategy=consensus",
        "federation.clients_per_round=2",
    ],
    "by uncertainty": [
        "federation.strategy=fedavg",
        "federation.weights=uncertainty",
        "federation.centroid_weights=equal",
        "federation.wire=bfloat16",
        FINISH,
    ],
    "five crops": ["data.crops=five", "data.image_size=[32, 48]"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployment_ends_in_the_bits_of_the_simulation(
    kind, federation, tmp_path, same_bits, all_zoomable
):
    run_dir, config, folders = federation(*KINDS[kind])
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    deployed, expected = load_state(run_dir), load_state(simulated(config, tmp_path))
    assert deployed.state.round_number == expected.state.round_number
    assert same_bits(deployed.state.model, expected.state.model)
    assert torch.equal(deployed.state.plan.mean_feature, expected.state.plan.mean_feature)
    record, simulated_record = load_record(run_dir), load_record(tmp_path / "simulated")
    check_form(record, Record, "record")
    assert record["engine"] == "flower"
    for folder in folders if expected.memories else ():
        (result,) = (folder / "runs").glob("*/result")
        own = load_state(result).memories
        assert own.keys() == expected.memories.keys() & {folder.name}
        assert all(same_bits(own[name].model, expected.memories[name].model) for name in own)
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
    assert record["candidates"] == simulated_record["candidates"]
    losses = [[entry["loss"] for entry in one["rounds"]] for one in (record, simulated_record)]
    assert losses[0] == losses[1]
    for folder in folders:
        (result,) = (folder / "runs").glob("*/result")
        assert same_bits(load_state(result).state.model, widened(deployed, config))
        assert load_run(result).rounds_done == expected.state.round_number


def widened(saved, config):
    from fusseg.federation.head_precision import receive_state

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
    "NaN": (with_array("head.linear.weight", filled(float("nan"))), "not finite"),
    "inf": (with_array("centroids", filled(float("inf"))), "not finite"),
    "a huge norm": (with_array("head.linear.weight", filled(1e30)), "moved by 1e"),
    "a norm that is too large": (with_array("head.hidden.bias", filled(0.9)), "moved by 0"),
    "another shape": (with_array("centroids", reshaped), "of shape"),
    "another dtype": (with_array("centroids", retyped), "as torch.float64"),
    "another format": (with_array("centroids", pickled), "written as 'numpy.ndarray'"),
    "a missing array": (dropped, "expected ['centroids'"),
    "an extra array": (extra, "'image'"),
    "a negative count": (with_field("num_images", -3), "must be 1 to"),
    "an absurd count": (with_field("num_images", 10**6), "in its hello, but sent"),
    "a replayed round": (with_field("round", 7), "'round' must be"),
    "another run": (with_field("run", "abc"), "'run' must be"),
    "a foreign seed": (with_field("offer", "0" * 64), "'offer' must be"),
    "a foreign version": (
        with_field("version", "9.9"),
        f"'version' must be '{VERSION}', got '9.9'",
    ),
    "no loss": (with_field("loss", None), "'loss' must be a finite number"),
    "a loss that is no number": (with_field("loss", float("nan")), "'loss' must be a finite"),
    "silence": (silent, "no answer within"),
    "an error": (broken, "out of memory"),
}


def test_a_fit_beyond_a_cosine_is_refused(federation, tmp_path):
    run_dir, _, folders = federation(
        QUORUM, "federation.rounds=1", "federation.weights=uncertainty"
    )
    lie = with_array("fit", lambda old: Array("float64", (), old.stype, np.float64(2).tobytes()))
    serve_rounds(LoopbackGrid(folders, {"north": lie}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    (incident,) = entry["incidents"]
    assert "fit of 2.0, which must be" in incident["reason"]


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_lies_is_left_out_and_the_others_stand(
    name, federation, tmp_path, make_sites
):
    lie, reason = LIES[name]
    run_dir, config, folders = federation(
        QUORUM, "federation.round_timeout=3", "federation.rounds=1"
    )
    serve_rounds(LoopbackGrid(folders, {"north": lie}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    (incident,) = entry["incidents"]
    assert (incident["client_id"], incident["task"]) == ("north", "train")
    assert reason in incident["reason"]
    assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]
    assert "Sites that were asked and left out" in report_of(run_dir, config)
    model = load_state(run_dir).state.model
    assert all(part.isfinite().all() for part in (*model.head.values(), model.centroids))


NASTY = "\x1b[2J\r\n\u202e" * 100_000


def body(kind, old, new, count=-1):
    """Replace a part of the body of Flower's objects of one kind, as bytes."""

    def tamper(found, content):
        if found != kind:
            return content
        assert old in content
        return content.replace(old, new, count)

    return tamper


def shape(text):
    """Write another shape into the header of every tensor."""

    def tamper(found, content):
        if found != "Array":
            return content
        head, rest = content.split(b'"shape": [')
        return head + b'"shape": [' + text + b"]" + rest[rest.index(b"]") + 1 :]

    return tamper


def replaced(kind, content):
    """Put other bytes in the place of an object's body."""

    def tamper(found, old):
        return old[: old.index(b"\x00") + 1] + content if found == kind else old

    return tamper


def renamed(old, new):
    """Call an object one of another kind."""

    def tamper(found, content):
        return new + content.removeprefix(old) if found == old.decode() else content

    return tamper


def with_fields(**more):
    def lie(message, reply):
        def rewrite(content):
            content["fields"] = ConfigRecord({**content["fields"], **more})

        return change(reply, rewrite) if message.content["fields"]["task"] == "train" else reply

    return lie


def failing(message, reply):
    if message.content["fields"]["task"] != "train":
        return reply
    return Message(Error(code=0, reason=NASTY), reply_to=message)


WIRE_LIES = {
    "sides of 4000 digits": (shape(b",".join([b"9" * 4000] * 8)), "has a side of 99999"),
    "a side of 5000 digits": (shape(b"9" * 5000), "Exceeds the limit"),
    "a side of True": (shape(b"true"), "has a side of True"),
    "a side of 1.5": (shape(b"1.5"), "TypeError"),
    "a side that is a word": (shape(b'"x"'), "TypeError"),
    "a side beyond 2^31": (shape(b"2147483649"), "has a side of 2147483649"),
    "a side below 0": (shape(b"-1"), "has a side of -1"),
    "100,000 sides": (shape(b",".join([b"7" * 3] * 100_000)), "has 100000 sides, must be 0 to 8"),
    "200,000 sides": (shape(b",".join([b"1"] * 200_000)), "has 200000 sides, must be 0 to 8"),
    "sides without end": (shape(b"[" * 200_000 + b"]" * 200_000), "RecursionError"),
    "no shape": (body("Array", b'"shape"', b'"space"'), "KeyError"),
    "an unknown type": (body("Array", b'"float32"', b'"float16"'), "is 'float16', must be"),
    "a type without end": (body("Array", b'"float32"', b'"' + b"f" * 10**6 + b'"'), "is 'fff"),
    "a format without end": (
        body("Array", b'"fusseg.raw"', json.dumps(NASTY).encode()),
        "is written as '\\x1b[2J",
    ),
    "pieces that are not there": (body("Array", b"[0]", b"[7]"), "IndexError"),
    "no tensor at all": (replaced("Array", b"[]"), "TypeError"),
    "no JSON": (replaced("Array", b"{"), "JSONDecodeError"),
    "no text": (replaced("Array", b"\xff\xfe"), "UnicodeDecodeError"),
    "tensors without names": (replaced("ArrayRecord", b"[]"), "AttributeError"),
    "fields of other bytes": (replaced("ConfigRecord", b"\xff" * 99), "DecodeError"),
    "records that are no records": (replaced("RecordDict", b"7"), "Error"),
    "an unknown object": (renamed(b"ArrayRecord", b"Pickle"), "KeyError"),
    "an object of another kind": (renamed(b"RecordDict", b"ArrayRecord"), "Error"),
    "no message": (renamed(b"Message", b"RecordDict"), "Error"),
    "a head without a body": (body("Array", b"\x00", b""), "ValueError"),
    "a name without end": (
        body("ArrayRecord", b'"centroids"', json.dumps(NASTY).encode()),
        "a message names '\\x1b[2J",
    ),
    "a name twice": (body("ArrayRecord", b'"head.hidden.bias"', b'"centroids"'), "expected"),
}


def reasons(federation, tmp_path, rounds, **liars):
    """Run as many rounds in which north lies; the reasons, once all that was written is read."""
    run_dir, config, folders = federation(
        QUORUM, "federation.round_timeout=3", f"federation.rounds={rounds}"
    )
    started = time.process_time()
    serve_rounds(LoopbackGrid(folders, **liars), run_dir, tmp_path / "cache")
    assert time.process_time() - started < 60
    record = load_record(run_dir)
    found = []
    for entry in record["rounds"]:
        (incident,) = entry["incidents"]
        assert (incident["client_id"], incident["task"]) == ("north", "train")
        assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]
        found.append(incident["reason"])
    assert len(found) == rounds
    assert all(len(text) <= 500 and text.isprintable() for text in found)
    said = [event["text"] for event in events(run_dir)]
    assert all(len(text) <= 500 and text.isprintable() for text in said)
    for name in ("events.jsonl", "ledger.jsonl", "record.json"):
        assert (run_dir / name).stat().st_size < 20_000 * rounds
    assert "\x1b" not in report_of(run_dir, config)
    return found


def test_answers_of_other_bytes_are_left_out_with_short_reasons(federation, tmp_path, caplog):
    tampers = [tamper for tamper, _ in WIRE_LIES.values()]
    grid_tampers = {("north", round_number): one for round_number, one in enumerate(tampers, 1)}
    found = reasons(federation, tmp_path, len(tampers), tampers=grid_tampers)
    for (name, (_, expected)), reason in zip(WIRE_LIES.items(), found, strict=True):
        assert expected in reason, name
    # what no check foresaw may be a bug: its traceback is in the log, and nothing of any length
    unforeseen = [reason for reason in found if "the message cannot be read" in reason]
    assert len(caplog.records) == len(unforeseen)
    for record in caplog.records:
        assert record.getMessage().startswith("cannot read the answer of north\n  File ")
        assert len(record.getMessage()) < 10_000


FIELD_LIES = {
    "a reason without end": (with_fields(state="refused", reason="x" * 65_536), "refused: xxx"),
    "a reason to move the cursor": (with_fields(state="\x1b[2J\n", reason=NASTY[:60_000]), "x1b"),
    "a state without end": (with_fields(state="x" * 65_536, reason="r"), "the site xxxx"),
    "an error without end": (failing, "no answer: \\x1b[2J"),
    "a word too long": (with_fields(run="x" * 10**6), "has 1000000 characters"),
    "a giant number": (with_fields(round=2**63 - 1), "'round' must be 6, got 9223372036854775807"),
    "a negative number": (with_fields(num_images=-(2**63)), "must be 1 to"),
    "a number for a word": (with_fields(run=2**63 - 1), "'run' must be"),
    "a list": (with_fields(more=[2**62] * 100_000), "must be a number or a word"),
    "bytes": (with_fields(more=bytes(10**6)), "must be a number or a word"),
    "true": (with_fields(num_images=True), "must be a number or a word, got True"),
    "minus infinity": (with_fields(loss=float("-inf")), "'loss' must be a finite number"),
    "many fields": (with_fields(**{f"f{n}": n for n in range(10**4)}), "10009 fields"),
    "a long key": (with_fields(**{"k" * 10**6: 1}), "a message names 'kkk"),
    "a key to move the cursor": (with_fields(**{NASTY: 1}), "a message names '\\x1b[2J"),
}


def test_answers_of_other_fields_are_left_out_with_short_reasons(federation, tmp_path, caplog):
    lies = [lie for lie, _ in FIELD_LIES.values()]

    def lie(message, reply):
        fields = message.content["fields"]
        return lies[fields["round"] - 1](message, reply) if fields["task"] == "train" else reply

    found = reasons(federation, tmp_path, len(lies), lies={"north": lie})
    for (name, (_, expected)), reason in zip(FIELD_LIES.items(), found, strict=True):
        assert expected in reason, name
    assert not caplog.records


def test_a_hello_of_other_bytes_keeps_the_site_out_with_a_short_reason(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.rounds=1")
    tamper = shape(b",".join([b"9" * 4000] * 8))
    grid = LoopbackGrid(folders, tampers={("north", 0): tamper})
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert [one["client_id"] for one in load_record(run_dir)["clients"]] == ["east", "south"]
    *_, said = (event["text"] for event in events(run_dir) if event["site"] == "north")
    assert "north: tensor 'feature_sum' has a side of 99999" in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (with_field("num_images", 10**9, "hello"), "must be 2 to 10000000"),
        (with_field("feature_count", 5, "hello"), "feature_count of 5 positions"),
        (with_field("fingerprint", "0" * 64, "hello"), "backbone with fingerprint 000"),
        (with_field("version", "9.9", "hello"), "runs fusseg 9.9"),
        (with_field("shift_self", 50.0, "hello"), "must lie in [-2, 2]"),
        (with_field("feature_spread", -1.0, "hello"), "feature_spread of -1"),
        (with_field("feature_spread", "wide", "hello"), "'feature_spread' must be a finite"),
    ],
)
def test_a_hello_that_lies_keeps_the_site_out(lie, said, federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=4", "federation.rounds=1")
    serve_rounds(LoopbackGrid(folders, {"north": lie}), run_dir, tmp_path / "cache")
    assert [one["client_id"] for one in load_record(run_dir)["clients"]] == ["east", "south"]
    assert any(said in event["text"] for event in events(run_dir))


def lie_at_hello(tell):
    """A site whose hello says something else: `tell` gets its fields and its sum."""

    def lie(message, reply):
        if message.content["fields"]["task"] != "hello":
            return reply

        def rewrite(content):
            if content["fields"]["state"] != "done":
                return
            array = content["tensors"]["feature_sum"]
            total = torch.frombuffer(bytearray(array.data), dtype=torch.float64)
            fields, total = tell(dict(content["fields"]), total)
            content["fields"] = ConfigRecord(fields)
            told = Array(array.dtype, array.shape, array.stype, total.numpy().tobytes())
            content["tensors"] = ArrayRecord({"feature_sum": told})

        return change(reply, rewrite)

    return lie


def false_sum(fields, total):
    return fields, torch.full_like(total, 1000.0 * fields["feature_count"])


def ten_million_images(fields, total):
    times = 10**7 // fields["num_images"]
    claimed = {name: times * fields[name] for name in ("num_images", "feature_count")}
    return {**fields, **claimed}, total * times


def test_a_false_feature_sum_is_refused_with_its_distance_and_the_others_go_on(
    federation, tmp_path, same_bits
):
    run_dir, config, folders = federation(QUORUM, "federation.rounds=2")
    grid = LoopbackGrid(folders, {"north": lie_at_hello(false_sum)})
    serve_rounds(grid, run_dir, tmp_path / "cache")
    record = load_record(run_dir)
    (refused,) = record["hello"]["refused"]
    assert refused["client_id"] == "north"
    assert re.match(r"its mean feature lies [\d.e+]+ standard deviations", refused["reason"])
    assert "federation.max_mean_distance 10 allows" in refused["reason"]
    said = [one["text"] for one in events(run_dir)]
    assert said.count(f"north: refused: {refused['reason']}") == 1
    for entry in record["rounds"]:
        assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]
    # As if it had never been there.
    data = replace(config.data, train_sites=("east", "south"))
    expected = load_state(simulated(replace(config, data=data), tmp_path)).state
    found = load_state(run_dir).state
    assert torch.equal(found.plan.mean_feature, expected.plan.mean_feature)
    assert same_bits(found.model, expected.model)


def test_a_refused_site_stays_refused_when_the_server_starts_again(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=10")
    grid = LoopbackGrid(folders, {"north": lie_at_hello(false_sum)})

    def vanish(message, reply):
        if message.content["fields"].get("round") == 2:
            grid.offline.add(12)
            return None
        return reply

    grid.lies["south"] = vanish
    with pytest.raises(FederationError, match="1 of 2 sites are ready"):
        serve_rounds(grid, run_dir, tmp_path / "cache")
    again = LoopbackGrid(folders, {"north": lie_at_hello(false_sum)})
    serve_rounds(again, run_dir, tmp_path / "cache")
    for entry in load_record(run_dir)["rounds"]:
        assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]


def test_a_run_that_needs_the_refused_site_stops_and_says_so(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=1")
    grid = LoopbackGrid(folders, {"north": lie_at_hello(false_sum)})
    with pytest.raises(
        FederationError, match=r"2 of 3 sites are left, others were refused \(north"
    ):
        serve_rounds(grid, run_dir, tmp_path / "cache")
    assert not has_state(run_dir)


def test_ten_million_claimed_images_count_as_the_others_together(federation, tmp_path):
    run_dir, _, folders = federation(
        QUORUM, "federation.rounds=1", "federation.round_timeout=3", "local.batch_size=2"
    )
    text = (run_dir / "config.toml").read_text()
    (run_dir / "config.toml").write_text(text.replace("steps = 4\n", ""))
    grid = LoopbackGrid(folders, {"north": lie_at_hello(ten_million_images)})
    serve_rounds(grid, run_dir, tmp_path / "cache")
    # Three steps over the six images of the median site, ten times.
    assert load_record(run_dir)["hello"]["local_steps"] == 30
    said = [one["text"] for one in events(run_dir) if one["text"].startswith("north: says")]
    assert said == [
        "north: says it has 9999996 images and counts with 12: federation.max_weight_share is 0.5"
    ]


def test_more_images_than_the_list_of_sites_allows_are_refused(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=10", "federation.rounds=1")
    nodes = run_dir / FLOWER / NODES
    listed = json.loads(nodes.read_text())
    listed["north"]["max_images"] = 5
    listed["south"]["max_images"] = 6
    nodes.write_text(json.dumps(listed))
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    assert [one["client_id"] for one in load_record(run_dir)["clients"]] == ["east", "south"]
    said = "client 'north' says it has 6 images, but max_images of [sites.north] in the server's"
    assert any(said in one["text"] for one in events(run_dir))


def test_fewer_sites_than_the_quorum_stop_the_run_and_it_goes_on_later(
    federation, tmp_path, same_bits
):
    run_dir, config, folders = federation()
    grid = LoopbackGrid(folders)

    def vanish(message, reply):
        if message.content["fields"].get("round") == 2:
            grid.offline.add(12)
            return None
        return reply

    grid.lies = {"south": vanish}
    with pytest.raises(
        FederationError, match=r"round 2 has 2 usable answers of 3 after 5 s; continue"
    ):
        serve_rounds(grid, run_dir, tmp_path / "cache")
    assert load_state(run_dir).state.round_number == 1
    waiting = [event["text"] for event in events(run_dir) if event["kind"] == "waiting"]
    assert "2 usable answers, 3 are needed; asking again" in waiting
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    expected = load_state(simulated(config, tmp_path)).state.model
    assert same_bits(load_state(run_dir).state.model, expected)
    assert [entry["round"] for entry in load_record(run_dir)["rounds"]] == [1, 2, 3]


def test_only_who_is_missing_is_asked_again(federation, tmp_path, same_bits):
    run_dir, config, folders = federation("federation.rounds=1", "federation.round_timeout=3")
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
    serve_rounds(grid, run_dir, tmp_path / "cache")
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
        "federation.round_timeout=3",
        "federation.wait_timeout=4",
    )
    drawn = draw_participants(SITES, 1, resolve(config))
    (spare,) = set(SITES) - set(drawn)
    with pytest.raises(FederationError, match="round 1 has 1 usable answers of 2"):
        serve_rounds(LoopbackGrid(folders, {drawn[0]: silent}), run_dir, tmp_path / "cache")
    serve_rounds(LoopbackGrid(folders, {spare: silent}), run_dir, tmp_path / "cache")
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
        "federation.round_timeout=3",
    )
    drawn = draw_participants(SITES, 1, resolve(config))
    serve_rounds(LoopbackGrid(folders, {drawn[0]: silent}), run_dir, tmp_path / "cache")
    (entry,) = load_record(run_dir)["rounds"]
    assert [client["client_id"] for client in entry["clients"]] == [drawn[1]]
    assert [incident["client_id"] for incident in entry["incidents"]] == [drawn[0]]


def test_many_answers_that_wait_are_pulled_one_at_a_time(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=1")
    grid, pulled = LoopbackGrid(folders), []
    pull = grid.pull_messages

    def watch(message_ids):
        found = pull(message_ids)
        pulled.append(len(found))
        return found

    grid.pull_messages = watch
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert max(pulled) == 1
    assert len(load_record(run_dir)["rounds"][0]["clients"]) == 3


class BusyGrid(LoopbackGrid):
    """Refuses a part of every message as often as told, as a SuperLink with a locked database."""

    def __init__(self, folders, refusals):
        super().__init__(folders)
        self.refusals = refusals
        self._seen = {}

    def push_messages(self, messages):
        (message,) = messages
        number = self._seen[message.object_id] = self._seen.get(message.object_id, 0) + 1
        if number <= self.refusals:
            raise ObjectPushError("part", 0, "session")
        return super().push_messages(messages)


def test_a_message_that_the_superlink_takes_in_part_is_pushed_again(
    federation, tmp_path, same_bits
):
    run_dir, config, folders = federation()
    serve_rounds(BusyGrid(folders, refusals=2), run_dir, tmp_path / "cache")
    expected = load_state(simulated(config, tmp_path))
    assert same_bits(load_state(run_dir).state.model, expected.state.model)


def test_a_message_that_the_superlink_never_takes_ends_the_run(federation, tmp_path):
    run_dir, _, folders = federation()
    with pytest.raises(ObjectPushError):
        serve_rounds(BusyGrid(folders, refusals=3), run_dir, tmp_path / "cache")


def test_a_site_that_comes_late_joins_once_its_features_are_there(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.wait_timeout=4")
    grid = LoopbackGrid(folders)
    grid.offline.add(11)

    def arrive(message, reply):
        if message.content["fields"]["task"] == "train":
            grid.offline.clear()
        return reply

    grid.lies = {"east": arrive}
    serve_rounds(grid, run_dir, tmp_path / "cache")
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

    serve_rounds(LoopbackGrid(folders, {"north": come_back}), run_dir, tmp_path / "cache")
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

    serve_rounds(LoopbackGrid(folders, {"north": come_back}), run_dir, tmp_path / "cache")
    taking_part = [
        [client["client_id"] for client in entry["clients"]]
        for entry in load_record(run_dir)["rounds"]
    ]
    assert taking_part == [[*SITES], *[["east", "south"]] * 3]
    said = [event["text"] for event in events(run_dir) if event.get("site") == "north"]
    assert any("north: refused: num_images is 5, but the site came with 6" in text for text in said)


class Images:
    """A site's images, of which one can be lost and found again."""

    def __init__(self, folder):
        self.folder = folder
        self.path = Path(json.loads((folder / "site.json").read_text())["data"]) / "images/005.png"
        self.content = self.path.read_bytes()

    def lose(self):
        forget_everything(self.folder)
        self.path.unlink(missing_ok=True)

    def find(self):
        forget_everything(self.folder)
        self.path.write_bytes(self.content)


def after_training(**by_round):
    """A site that does something when it has trained in a round: `round_1=...`."""

    def act(message, reply):
        fields = message.content["fields"]
        if fields["task"] == "train":
            by_round.pop(f"round_{fields['round']}", lambda: None)()
        return reply

    return act


def who_took_part(run_dir):
    rounds = load_record(run_dir)["rounds"]
    return [[client["client_id"] for client in entry["clients"]] for entry in rounds]


CHANGED = "it came back with other images: num_images is 5, but the site came with 6"


def test_where_all_are_needed_a_site_with_other_images_is_left_out_and_named(federation, tmp_path):
    run_dir, _, folders = federation()
    grid = LoopbackGrid(folders, {"north": after_training(round_1=Images(folders[1]).lose)})
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert who_took_part(run_dir) == [[*SITES], ["east", "south"], ["east", "south"]]
    for entry in load_record(run_dir)["rounds"][1:]:
        *_, incident = entry["incidents"]
        assert (incident["client_id"], incident["task"]) == ("north", "train")
        assert CHANGED in incident["reason"]
    said = [event for event in events(run_dir) if event["kind"] == "incident"]
    assert sum(f"north is left out of train: {CHANGED}" in event["text"] for event in said) == 2
    assert results(folders) == ["east", "south"]


def test_a_site_that_has_its_images_again_takes_part_again(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=5")
    images = Images(folders[1])
    lies = {
        "north": after_training(round_1=images.lose),
        "south": after_training(round_3=images.find),
    }
    serve_rounds(LoopbackGrid(folders, lies), run_dir, tmp_path / "cache")
    first, second, third, *_, last = who_took_part(run_dir)
    assert (first, second, third) == ([*SITES], ["east", "south"], ["east", "south"])
    assert last == [*SITES]
    assert load_record(run_dir)["rounds"][-1]["incidents"] == []
    assert results(folders) == [*SITES]


def test_a_site_that_keeps_its_state_and_not_its_images_is_left_out_all_the_same(
    federation, tmp_path
):
    run_dir, _, folders = federation("federation.rounds=2")
    images = Images(folders[1])

    def lose():
        (folders[1] / "features.json").unlink()
        images.path.unlink()

    grid = LoopbackGrid(folders, {"north": after_training(round_1=lose)})
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert who_took_part(run_dir) == [[*SITES], ["east", "south"]]
    assert CHANGED in load_record(run_dir)["rounds"][1]["incidents"][-1]["reason"]


def test_a_drawn_site_with_other_images_is_not_waited_for(federation, tmp_path):
    overrides = ("federation.rounds=1", "federation.clients_per_round=2")
    run_dir, config, folders = federation(*overrides)
    drawn = draw_participants(SITES, 1, resolve(config))
    folder = folders[SITES.index(drawn[0])]
    grid, images = LoopbackGrid(folders), Images(folder)
    answer = grid._answer

    def lose_before(message, to):
        if message.content["fields"]["task"] == "train" and to == folder and images.path.exists():
            images.lose()
        return answer(message, to)

    grid._answer = lose_before
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert who_took_part(run_dir) == [[drawn[1]]]
    assert CHANGED in load_record(run_dir)["rounds"][0]["incidents"][-1]["reason"]


def test_a_server_that_starts_again_knows_how_many_images_each_site_had(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=2")
    grid, images = LoopbackGrid(folders), Images(folders[1])

    def vanish(message, reply):
        if message.content["fields"].get("round") == 2:
            grid.offline.add(12)
            return None
        return reply

    grid.lies = {"south": vanish}
    with pytest.raises(FederationError, match="round 2 has 2 usable answers of 3"):
        serve_rounds(grid, run_dir, tmp_path / "cache")
    images.lose()
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    assert who_took_part(run_dir) == [[*SITES], ["east", "south"]]
    assert CHANGED in load_record(run_dir)["rounds"][1]["incidents"][-1]["reason"]


def test_a_default_that_is_left_out_of_the_configuration_stops_no_server(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=1")
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    path, offered = run_dir / "config.toml", (folders[0] / "offer.json").read_bytes()
    text, times = re.subn(r"(?m)^separation_weight = .*\n", "", path.read_text())
    assert times == 1
    path.write_text(text)
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    assert (folders[0] / "offer.json").read_bytes() == offered


def test_a_plan_is_made_when_as_many_are_there_as_a_round_needs(federation, tmp_path):
    run_dir, _, folders = federation("federation.min_sites=4")
    with pytest.raises(FederationError, match="3 of 4 sites are ready after 5 s"):
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
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

    serve_rounds(LoopbackGrid(folders, {"east": revoke}), run_dir, tmp_path / "cache")
    taking_part = [
        [client["client_id"] for client in entry["clients"]]
        for entry in load_record(run_dir)["rounds"]
    ]
    assert taking_part == [[*SITES], ["east", "south"], ["east", "south"]]


def test_sites_count_their_labeled_pixels_like_the_simulation(federation, tmp_path):
    run_dir, config, folders = federation("evaluation.at_sites=true", held_out=())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_sites=SITES))
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
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


def test_sites_score_and_keep_the_regions_of_merged_clusters(federation, tmp_path):
    more = ("evaluation.at_sites=true", "federation.strategy=lloyd", "model.num_clusters=5")
    first, _, folders = federation(*more, "model.num_regions=3", held_out=(), name="first")
    serve_rounds(LoopbackGrid(folders), first, tmp_path / "cache")
    region_of = load_state(first).state.model.region_of
    assert len(load_record(first)["final"]["confusion"]) == 3
    run_dir, config, folders = federation(
        *more, f'model.start="{first}"', held_out=(), name="second"
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_sites=SITES))
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    record, expected = load_record(run_dir), load_record(simulated(config, tmp_path))
    assert record["num_regions"] == expected["num_regions"] == 3
    assert len(record["final"]["confusion"]) == 3
    assert record["final"]["confusion"] == expected["final"]["confusion"]
    for folder in (run_dir, *(next(folder.glob("runs/*/result")) for folder in folders)):
        assert torch.equal(load_state(folder).state.model.region_of, region_of)


def test_a_site_with_other_names_of_classes_is_left_out_of_the_score(federation, tmp_path):
    run_dir, _, folders = federation("evaluation.at_sites=true", "federation.rounds=1", held_out=())
    south = Path(json.loads((folders[2] / "site.json").read_text())["data"])
    (south / "classes.toml").write_text('names = ["gravel", "steel"]\n')
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    record = load_record(run_dir)
    assert [*record["final"]["sites"]] == ["east", "north"]
    assert left_out_of_score(record) == ["scored at 2 of 3 sites; left out: south"]
    record["rounds"][-1]["incidents"] = []
    assert left_out_of_score(record) == []


def test_the_classes_that_most_sites_have_are_scored(federation, tmp_path):
    """Whoever is first by name cannot put the others out of the score."""
    run_dir, _, folders = federation("evaluation.at_sites=true", "federation.rounds=1", held_out=())
    lie = with_field("classes", '["gravel", "steel"]', "evaluate")
    serve_rounds(LoopbackGrid(folders, {"east": lie}), run_dir, tmp_path / "cache")
    record = load_record(run_dir)
    assert [*record["final"]["sites"]] == ["north", "south"]
    (incident,) = record["rounds"][0]["incidents"]
    assert incident["reason"].startswith("its classes are ('gravel', 'steel'), others' (")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("[" + "9" * 5000 + "]", "must be a list of names"),
        ("[" * 30_000, "must be a list of names"),
        ('{"a": 1}', "must be a list of names"),
        ("[1]", "must be a list of names"),
        ("[]", "it has 0 classes, must be 1 to 256"),
        (
            json.dumps([str(number) for number in range(257)]),
            "it has 257 classes, must be 1 to 256",
        ),
        ('["a", "a"]', "must differ and have 1 to 100 characters, got 'a'"),
        ('["a", ""]', "must differ and have 1 to 100 characters, got ''"),
        (json.dumps(["x" * 60_000, "a"]), "must differ and have 1 to 100 characters, got 'xxx"),
        ('["a", "b", "c"]', "sent confusion of shape (2, 2), expected (2, 3)"),
    ],
)
def test_classes_that_are_none_leave_a_site_out_of_the_score(classes, said):
    names = {"classes": classes, "state": "done", "num_images": 1}
    counts = {"confusion": torch.ones(2, 2, dtype=torch.int64)}
    with pytest.raises(FederationError) as caught:
        read_counts(Packet(names, counts), "north", 2, 6)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def report_of(run_dir, config):
    """The page as `fusseg serve` writes it where the server has no images."""
    write_report(run_dir, config, load_record(run_dir), load_state(run_dir))
    return (run_dir / "report.html").read_text()


def test_without_labels_scores_are_null(federation, tmp_path):
    run_dir, config, folders = federation("federation.rounds=1", held_out=())
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    final = load_record(run_dir)["final"]
    assert (final["mean_iou"], final["quality"]) == (None, None)
    page = report_of(run_dir, config)
    assert "Sent by the sites" in page
    assert "Mean margin" not in page
    assert describe_run(load_record(run_dir))[0] == "no labels: scores are null"


def test_both_ends_note_the_same_messages(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=2", FINISH)
    serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    at_server, damaged = read_ledger(run_dir)
    assert damaged == 0
    for folder in folders:
        here = sorted((line.direction, line.sha256) for line in read_ledger(folder)[0])
        there = sorted(
            (line.direction, line.sha256) for line in at_server if line.site == folder.name
        )
        assert here == there
    for name, direction in (("bytes_up", "to server"), ("bytes_down", "to site")):
        for entry in load_record(run_dir)["rounds"]:
            sent = [
                one
                for one in at_server
                if (one.direction, one.round) == (direction, entry["round"])
                and one.task in ("train", "lloyd")
            ]
            assert entry[name] == sum(map(content_bytes, sent))


def test_a_failure_at_a_site_does_not_tell_its_file_names(federation, tmp_path):
    run_dir, _, folders = federation(QUORUM, "federation.rounds=1")

    def lose_features(message, reply):
        if message.content["fields"]["task"] == "hello":
            (folders[1] / "features.json").write_text("{}")
        return reply

    serve_rounds(LoopbackGrid(folders, {"north": lose_features}), run_dir, tmp_path / "cache")
    sent = "".join(
        str(line.fields) for line in read_ledger(run_dir)[0] if line.direction == "to server"
    )
    assert str(tmp_path) not in sent
    assert "features.json" not in sent


def at_the_last(task, do):
    """Do something as soon as a message of the last exchange is there, before it is answered."""

    def wrap(grid):
        answer, done = grid._answer, []

        def intercept(message, folder):
            if message.content["fields"]["task"] == task and not done:
                done.append(task)
                do()
            return answer(message, folder)

        grid._answer = intercept
        return grid

    return wrap


def results(folders):
    return [folder.name for folder in folders if [*(folder / "runs").glob("*/result")]]


def test_a_site_that_loses_its_state_after_the_last_round_is_given_the_model(federation, tmp_path):
    run_dir, _, folders = federation("federation.rounds=1")
    lose = at_the_last("finish", lambda: forget_everything(folders[1]))
    serve_rounds(lose(LoopbackGrid(folders)), run_dir, tmp_path / "cache")
    assert results(folders) == [*SITES]
    said = [event["text"] for event in events(run_dir)]
    assert sum("north: ready with 6" in text for text in said) == 2
    assert not any("left out" in text for text in said)


def test_a_site_that_loses_its_state_before_the_scores_counts_in_them(federation, tmp_path):
    run_dir, _, folders = federation("evaluation.at_sites=true", "federation.rounds=1", held_out=())
    lose = at_the_last("evaluate", lambda: forget_everything(folders[1]))
    serve_rounds(lose(LoopbackGrid(folders)), run_dir, tmp_path / "cache")
    record = load_record(run_dir)
    assert [*record["final"]["sites"]] == [*SITES]
    assert record["rounds"][-1]["incidents"] == []


def test_a_site_that_loses_its_state_is_waited_for_while_another_is_silent(
    federation, tmp_path, monkeypatch
):
    """Neither holds the other: both have the whole time."""
    monkeypatch.setattr("fusseg.deployment.server.server_rounds._FINISH_SECONDS", 3.0)
    run_dir, _, folders = federation("federation.rounds=1")
    lose = at_the_last("finish", lambda: forget_everything(folders[1]))

    def keep_quiet(message, reply):
        return None if message.content["fields"]["task"] == "finish" else reply

    grid = lose(LoopbackGrid(folders, {"east": keep_quiet}))
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert "north" in results(folders)
    left_out = [one["site"] for one in events(run_dir) if one["kind"] == "incident"]
    assert left_out == ["east"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_site_that_is_away_after_the_last_round_is_given_the_model_when_it_is_back(
    lost, federation, tmp_path
):
    run_dir, _, folders = federation("federation.rounds=1")
    grid = LoopbackGrid(folders)
    look, looks = grid.get_node_ids, []

    def come_back_after_a_while():
        looks.append(1)
        if len(looks) > 3:
            grid.offline.clear()
        return look()

    def go(message, reply):
        if message.content["fields"]["task"] == "train":
            grid.offline.add(11)
            grid.get_node_ids = come_back_after_a_while
            if lost:
                forget_everything(folders[1])
        return reply

    grid.lies = {"north": go}
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert results(folders) == [*SITES]


def test_a_server_that_starts_again_for_the_finish_greets_all_and_gives_them_the_model(
    federation, tmp_path, monkeypatch
):
    run_dir, _, folders = federation("federation.rounds=1")
    with monkeypatch.context() as patched:
        patched.setattr("fusseg.deployment.server.server_rounds._finish", lambda *_: None)
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    assert results(folders) == []
    forget_everything(folders[1])
    grid = LoopbackGrid(folders)
    look, looks = grid.get_node_ids, []

    def connect_one_by_one():
        looks.append(1)
        return look()[: len(looks) // 3]

    grid.get_node_ids = connect_one_by_one
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert results(folders) == [*SITES]


def test_a_site_that_is_gone_holds_the_finish_no_longer_than_it_may_last(
    federation, tmp_path, monkeypatch
):
    monkeypatch.setattr("fusseg.deployment.server.server_rounds._FINISH_SECONDS", 2.0)
    run_dir, _, folders = federation("federation.rounds=1")
    grid, times = LoopbackGrid(folders), []

    def go(message, reply):
        if message.content["fields"]["task"] == "train":
            grid.offline.add(11)
        if message.content["fields"]["task"] == "finish":
            times.append(time.monotonic())
        return reply

    grid.lies = {"north": go, "east": go}
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert 1.5 < time.monotonic() - times[0] < 4
    assert results(folders) == ["east", "south"]
    (said,) = [one["text"] for one in events(run_dir) if one["kind"] == "incident"]
    assert "north is left out of finish: it is not connected" in said


def test_sites_that_were_never_part_are_not_waited_for_at_the_finish(
    federation, tmp_path, monkeypatch
):
    """The finish may last long, and does not."""
    monkeypatch.setattr("fusseg.deployment.server.server_rounds._FINISH_SECONDS", 300.0)
    run_dir, _, folders = federation(QUORUM, "federation.rounds=1")
    grid = LoopbackGrid(folders)
    grid.offline.add(11)
    started = time.monotonic()
    serve_rounds(grid, run_dir, tmp_path / "cache")
    assert time.monotonic() - started < 60
    assert results(folders) == ["east", "south"]
    assert not [one for one in events(run_dir) if one["kind"] == "incident"]
