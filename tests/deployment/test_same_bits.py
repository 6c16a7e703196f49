"""Promise 1: server and three sites, TLS and keys on, end in the bits of the simulation.

`test_what_leaves.py` and `test_own_script.py` check the same with other settings.
"""


def test_a_deployment_ends_in_the_bits_of_the_simulation(make_federation, same_bits):
    # One start, judged against the trained model: few exchanges, as each takes seconds.
    federation = make_federation("model.init=pca", "model.init_steps=2", "model.whitening=0")
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of")
    federation.check_that_secrets_are_for_their_owner_only()
    assert federation.finish() == 0, federation.log("serve")
    found, expected = federation.final_state(), federation.simulate()
    assert found.round_number == expected.round_number == 3
    assert same_bits(found.model, expected.model)
    assert found.candidates == expected.candidates
    assert len(found.candidates) == 2
    federation.check_that_the_run_is_complete()
