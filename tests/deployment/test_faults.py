"""Promises 2 and 3: sites and servers that die, and what becomes of the round."""

import time


def test_a_killed_site_comes_back_as_itself_and_a_removed_line_revokes_a_site(make_federation):
    # One round waits for both. The killed site starts again after it, which takes as long as a few
    # rounds, and is a site of others long before the last.
    federation = make_federation(
        "federation.min_sites=1", "federation.round_timeout=60", "federation.rounds=18"
    )
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 18")
    federation.kill("north")
    remove_line(federation, "south")
    federation.wait_for(lambda: "south is no longer admitted" in federation.log("serve"))
    federation.wait_for_event("north is left out of train")
    federation.join("north")
    assert federation.finish() == 0, federation.log("serve")
    check_that_the_killed_site_was_missed_and_came_back_as_itself(federation, "north")
    check_that_the_site_without_a_line_is_revoked(federation, "south")


def remove_line(federation, site):
    """Take a site out of the server's list."""
    sites = federation.keys / "sites.toml"
    entries = sites.read_text().split("[sites.")
    sites.write_text("[sites.".join(one for one in entries if not one.startswith(f"{site}]")))


def check_that_the_killed_site_was_missed_and_came_back_as_itself(federation, site):
    rounds = federation.record()["rounds"]
    assert members(rounds[0]) == [*federation.sites]
    missed = next(n for n, entry in enumerate(rounds) if site in left_out(entry))
    assert "east" in members(rounds[missed])
    assert site not in members(rounds[missed])
    assert left_out(rounds[missed])[site]["task"] == "train"
    assert any(site in members(entry) for entry in rounds[missed + 1 :])
    # the same identity: it was admitted once
    assert federation.log("serve").count(f"{site} is admitted") == 1


def check_that_the_site_without_a_line_is_revoked(federation, site):
    last = federation.record()["rounds"][-1]
    assert members(last) == [one for one in federation.sites if one != site]
    federation.wait_for(lambda: federation.log(site).count("the connection ended") > 0)
    assert "the server no longer takes messages signed with" in federation.log(site)


def members(entry):
    """Names of the sites that a round of the record has updates of."""
    return [client["client_id"] for client in entry["clients"]]


def left_out(entry):
    """Incidents of a round of the record, by site."""
    return {incident["client_id"]: incident for incident in entry["incidents"]}


def test_too_few_sites_stop_the_run_and_one_that_agreed_to_other_settings_can_join_later(
    make_federation, same_bits
):
    federation = make_federation(
        "federation.wait_timeout=60", "federation.rounds=1", sites=("east", "north")
    )
    federation.join("east")
    federation.serve()
    # Nearly the server's settings, but two rounds.
    settings = (federation.folder / "config.toml").read_text()
    other = federation.folder / "other.toml"
    other.write_text(settings.replace("wait_timeout = 600.0", "wait_timeout = 60.0"))
    site = federation.join("north", "--config", "other.toml", "--once")
    reason = "this site agreed to another configuration (differs in federation.rounds)"
    federation.wait_for(lambda: reason in federation.log("serve"))
    check_that_the_site_says_so_and_ends(federation, site, reason)
    check_that_the_server_waits_for_its_minute_and_stops(federation)
    federation.join("north")
    federation.serve(resume=True)
    assert federation.finish() == 0, federation.log("serve")
    assert same_bits(federation.final_state().model, federation.simulate().model)


def check_that_the_site_says_so_and_ends(federation, site, reason):
    federation.wait_for(lambda: site.poll() is not None)
    said = federation.log("north")
    assert site.returncode == 2, said
    assert f"error: this site takes no part: {reason}; without --once" in said
    assert "Traceback" not in said


def check_that_the_server_waits_for_its_minute_and_stops(federation):
    assert federation.finish() == 2
    said = federation.log("serve")
    assert "waiting for 2 sites" in said
    assert "missing: north" in said
    assert "1 of 2 sites are ready after 60 s" in said
    assert "--resume" in said


def test_a_server_and_then_all_machines_killed_in_a_round_go_on_to_the_same_bits(
    make_federation, same_bits
):
    federation = make_federation(
        "federation.strategy=consensus",
        "local.fedmoon_weight=1",
        "federation.rounds=3",
        sites=("east", "north"),
    )
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 3")
    time.sleep(2)
    federation.kill("serve")
    federation.serve(resume=True)
    federation.wait_for_event("round 2 of 3")
    time.sleep(1)
    for name in ("serve", *federation.sites):
        federation.kill(name)
    federation.join_all()
    federation.serve(resume=True)
    assert federation.finish() == 0, federation.log("serve")
    assert [entry["round"] for entry in federation.record()["rounds"]] == [1, 2, 3]
    assert same_bits(federation.final_state().model, federation.simulate().model)
