"""Promises 1 and 6: what crosses the edge is in the ledger, and the bits are the simulation's."""

from recorded import check_that_every_request_is_in_the_ledger, join_through_proxy

from fusseg.runs.regions import NamedCluster, load_regions, write_named

KEPT = (
    "federation.strategy=consensus",
    "federation.wire=bfloat16",
    "federation.lloyd_rounds=1",
    "local.fedmoon_weight=1",
)
"""Settings under which sites and server keep something from one message to the next."""


def test_only_declared_tensors_leave_sites_that_start_from_a_saved_model_and_keep_what_they_have(
    make_federation, same_bits, tmp_path
):
    federation = make_federation("federation.rounds=1", sites=("east", "north"))
    saved = save_model(federation)
    federation.overrides = (*KEPT, "model.start=saved", "seed=7")
    recorded = join_through_proxy(federation, tmp_path)
    federation.serve()
    federation.wait_for_event("round 1 of 3")
    federation.check_that_secrets_are_for_their_owner_only()
    assert federation.finish() == 0, federation.log("serve")
    federation.stop()

    check_that_every_request_is_in_the_ledger(federation, recorded)
    check_that_no_name_or_file_left(federation, recorded)
    found, expected = federation.final_state(), federation.simulate()
    assert found.round_number == expected.round_number == 3
    assert same_bits(found.model, expected.model)
    federation.check_that_the_run_is_complete()
    assert not same_bits(found.model, saved.model)
    check_that_the_names_of_regions_came_with_the_start(federation)


def save_model(federation):
    """Train a model to start from, in the folder `saved`, and name its regions."""
    saved = federation.simulate("saved")
    names = [NamedCluster(0, "noise", (1, 2, 3)), NamedCluster(1, "plate", (4, 5, 6))]
    write_named(federation.folder / "saved" / "regions.toml", names, "contact_sheet.png")
    return saved


def check_that_the_names_of_regions_came_with_the_start(federation):
    assert federation.record()["start"]["name"] == "saved"
    assert load_regions(federation.run_dir, 2).names == ("noise", "plate")
    assert "plate" in (federation.run_dir / "report.html").read_text()


def check_that_no_name_or_file_left(federation, recorded):
    """Neither names nor contents of files are in what was recorded."""
    images = federation.folder / "images"
    secrets = [b"secret-", b"\x89PNG", str(federation.folder).encode()]
    secrets += [path.read_bytes()[60:100] for path in images.rglob("*.png")]
    for path in recorded.iterdir():
        content = path.read_bytes()
        for secret in secrets:
            assert secret not in content, (path, secret)
