"""Promise 1: server and two sites, TLS and keys on, end in the bits of the simulation.

`test_what_leaves.py` and `test_own_script.py` check the same with other settings.
"""

import torch


def test_a_deployment_ends_in_the_bits_of_the_simulation(make_federation, same_bits):
    # One start, judged against the trained model, and classes with a given shrinkage: few
    # exchanges, as each takes seconds. Sites send their own clusters, and how well their codes fit.
    federation = make_federation(
        "model.init=pca",
        "model.init_steps=2",
        "model.whitening=0",
        "federation.site_clusters=used",
        "federation.min_cluster_share=0.3",
        "federation.weights=uncertainty",
        "federation.max_weight_share=1",
        "federation.teach=true",
        "teach.shrinkage=0.1",
        sites=("east", "north"),
    )
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of")
    federation.check_that_secrets_are_for_their_owner_only()
    assert federation.finish() == 0, federation.log("serve")
    found, expected = federation.final_state(), federation.simulate()
    assert found.round_number == expected.round_number == 4
    assert same_bits(found.model, expected.model)
    assert found.candidates == expected.candidates
    assert len(found.candidates) == 2
    assert found.taught.names == ("0", "1")
    assert torch.equal(found.taught.classifier.weight, expected.taught.classifier.weight)
    federation.check_that_the_run_is_complete()
