"""Promise 1: server and three sites, TLS and keys on, end in the bits of the simulation."""

import pytest

from fusseg.deployment.wire.ledger import read_ledger
from fusseg.runs.regions import NamedCluster, load_regions, write_named

KINDS = {
    "defaults": [],
    "what is kept between rounds": [
        "federation.strategy=consensus",
        "federation.wire=bfloat16",
        "federation.lloyd_rounds=1",
        "local.fedmoon_weight=1",
    ],
    "centroids only": ["local.objective=primaps", "federation.rounds=2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployment_ends_in_the_bits_of_the_simulation(kind, make_federation, same_bits):
    federation = make_federation(*KINDS[kind])
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of")
    check_that_secrets_are_for_their_owner_only(federation)
    assert federation.finish() == 0, federation.log("serve")
    expected = federation.simulate()
    found = federation.final_state()
    assert found.round_number == expected.round_number
    assert same_bits(found.model, expected.model)
    assert (federation.run_dir / "report.html").exists()
    assert federation.record()["final"]["mean_iou"] is not None
    command = "fusseg serve config.toml --sites ../keys/sites.toml --keys ../keys"
    assert federation.record()["command"] == command
    # both ends noted the same messages
    at_server, damaged = read_ledger(federation.run_dir)
    assert damaged == 0
    for site in federation.sites:
        here = {(line.direction, line.sha256) for line in read_ledger(federation.state(site))[0]}
        there = {(line.direction, line.sha256) for line in at_server if line.site == site}
        assert here == there


def check_that_secrets_are_for_their_owner_only(federation):
    folders = [federation.run_dir / "flower", *map(federation.state, federation.sites)]
    keys = [federation.keys / name for name in ("ca.key", "server.key", "east.key")]
    ledgers = [federation.run_dir / "ledger.jsonl", federation.state("east") / "ledger.jsonl"]
    secret = federation.run_dir / "flower" / "superexec.secret"
    for path in (*folders, *keys, *ledgers, secret):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_federation_starts_from_a_saved_model(make_federation, same_bits):
    federation = make_federation("federation.rounds=1")
    saved = federation.simulate("saved")
    names = [NamedCluster(0, "noise", (1, 2, 3)), NamedCluster(1, "plate", (4, 5, 6))]
    write_named(federation.folder / "saved" / "regions.toml", names, "contact_sheet.png")
    federation.overrides = ("federation.rounds=1", "model.start=saved", "seed=7")
    federation.join_all()
    federation.serve()
    assert federation.finish() == 0, federation.log("serve")
    found = federation.final_state()
    assert same_bits(found.model, federation.simulate().model)
    assert not same_bits(found.model, saved.model)
    assert federation.record()["start"]["name"] == "saved"
    assert load_regions(federation.run_dir, 2).names == ("noise", "plate")
    assert "plate" in (federation.run_dir / "report.html").read_text()
