"""Promises 2 and 3: sites and servers that die, and what becomes of the round."""

import time


def test_a_killed_site_is_missed_and_comes_back_as_itself(make_federation):
    # more rounds than the minute that Flower takes to let a killed site in again
    federation = make_federation(
        "federation.min_sites=2",
        "federation.round_timeout=90",
        "federation.rounds=60",
        "local.steps=100",
    )
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 60")
    federation.kill("north")
    federation.wait_for_event("north is left out of train")
    federation.join("north")
    federation.wait_for(lambda: rounds_with(federation, federation.sites)[-1] > missed(federation))
    rounds = federation.record()["rounds"]
    assert rounds_with(federation, federation.sites)[0] == 1
    without = rounds[missed(federation) - 1]
    assert [client["client_id"] for client in without["clients"]] == ["east", "south"]
    assert without["incidents"][0]["client_id"] == "north"
    assert without["incidents"][0]["task"] == "train"
    # the same identity: it was admitted once
    assert federation.log("serve").count("north is admitted") == 1


def rounds_with(federation, sites):
    """Numbers of the rounds that all these sites are part of."""
    return [
        entry["round"]
        for entry in federation.record()["rounds"]
        if {client["client_id"] for client in entry["clients"]} >= set(sites)
    ]


def missed(federation):
    """Number of the first round that somebody was left out of; far off where there is none."""
    found = [entry["round"] for entry in federation.record()["rounds"] if entry["incidents"]]
    return found[0] if found else 10**6


def test_too_few_sites_stop_the_run_and_it_goes_on_later(make_federation, same_bits):
    federation = make_federation("federation.wait_timeout=60")
    federation.join("east")
    federation.join("south")
    federation.serve()
    assert federation.finish() == 2
    said = federation.log("serve")
    assert "waiting for 3 sites" in said
    assert "missing: north" in said
    assert "of 3 sites are ready after 60 s" in said
    assert "--resume" in said
    federation.join("north")
    federation.serve(resume=True)
    assert federation.finish() == 0, federation.log("serve")
    assert same_bits(federation.final_state().model, federation.simulate().model)


def test_a_server_killed_in_a_round_goes_on_to_the_same_bits(make_federation, same_bits):
    federation = make_federation("local.fedmoon_weight=1")
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 2")
    time.sleep(2)
    federation.kill("serve")
    federation.serve(resume=True)
    assert federation.finish() == 0, federation.log("serve")
    assert [entry["round"] for entry in federation.record()["rounds"]] == [1, 2]
    assert same_bits(federation.final_state().model, federation.simulate().model)


def test_all_machines_killed_go_on_to_the_same_bits(make_federation, same_bits):
    federation = make_federation("federation.strategy=consensus")
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 2")
    time.sleep(1)
    for name in ("serve", *federation.sites):
        federation.kill(name)
    federation.join_all()
    federation.serve(resume=True)
    assert federation.finish() == 0, federation.log("serve")
    assert same_bits(federation.final_state().model, federation.simulate().model)


def test_removing_a_line_revokes_a_site_at_the_next_round(make_federation):
    federation = make_federation(
        "federation.min_sites=2", "federation.round_timeout=90", "federation.rounds=4"
    )
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 4")
    sites = federation.keys / "sites.toml"
    entries = sites.read_text().split("[sites.")
    sites.write_text("[sites.".join(one for one in entries if not one.startswith("north]")))
    federation.wait_for(lambda: "north is no longer admitted" in federation.log("serve"))
    assert federation.finish() == 0, federation.log("serve")
    last = federation.record()["rounds"][-1]
    assert [client["client_id"] for client in last["clients"]] == ["east", "south"]
    federation.wait_for(lambda: federation.log("north").count("the connection ended") > 0)
    assert "the server no longer takes messages signed with" in federation.log("north")


def test_a_site_that_agreed_to_other_settings_says_so_and_ends_with_once(make_federation):
    federation = make_federation("federation.rounds=3")
    federation.serve()
    # The file says two rounds.
    site = federation.join("north", "--config", "config.toml", "--once")
    federation.wait_for(lambda: site.poll() is not None)
    reason = "this site agreed to another configuration (differs in federation.rounds)"
    said = federation.log("north")
    assert site.returncode == 2, said
    assert f"error: this site takes no part: {reason}; without --once" in said
    assert "Traceback" not in said
    # The server knows, and goes on waiting for its sites.
    federation.wait_for(lambda: reason in federation.log("serve"))
    assert federation.processes["serve"].poll() is None
