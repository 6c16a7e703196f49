"""The sentence that says which of the judged models a run kept, and why."""

import pytest

from fusseg.runs.choice import chosen_start, describe_choice, keeps_start

TRAINING = [{"loss": None}, {"loss": 0.5}, {"loss": None}]


def judged(name, agreement, margin, kept=False):
    return {"name": name, "agreement": agreement, "margin": margin, "kept": kept}


def said(*candidates, rounds=TRAINING):
    return describe_choice({"candidates": list(candidates), "rounds": rounds})


def test_a_trained_model_is_kept_for_its_margin():
    trained = judged("trained", 0.5, 0.42, kept=True)
    assert said(judged("start", 0.6, 0.28), trained) == (
        "The trained model was kept: its margin 0.420 is more than 5 % above the start's 0.280."
    )


def test_a_start_is_kept_where_training_did_not_improve_on_it():
    start, trained = judged("start", 0.6, 0.3, kept=True), judged("trained", 0.7, 0.31)
    assert said(start, trained) == (
        "Training did not improve on the start, which was kept: the trained model's margin 0.310 "
        "is not more than 5 % above the start's 0.300."
    )
    assert keeps_start([start, trained])
    assert not keeps_start([start])


def test_a_start_is_kept_for_its_agreement_where_the_trained_model_finds_its_regions_less_often():
    start, trained = judged("start", 0.6, 0.3, kept=True), judged("trained", 0.5, 0.9)
    assert said(start, trained).endswith(
        "the trained model's agreement 0.500 is more than 5 % below the start's 0.600."
    )


def test_the_margin_is_compared_with_that_of_the_start_that_training_began_with():
    # 0.64 is not 5 % above 0.62, 0.66 is; 0.69 is not 5 % above 0.66.
    starts = [
        judged("whitening 0", 0.62, 0.1),
        judged("whitening 0.5", 0.64, 0.2),
        judged("whitening 0.7", 0.66, 0.3),
        judged("whitening 1", 0.69, 0.4),
    ]
    assert chosen_start(starts)["name"] == "whitening 0.7"
    assert "the start's 0.300" in said(*starts, judged("trained", 0.5, 0.9, kept=True))


def test_without_a_choice_the_starts_are_told_apart_by_their_agreement():
    first, second = judged("whitening 0", 0.6, 0.1), judged("whitening 0.5", 0.62, 0.2)
    assert said(first, second) == (
        "Of 2 starts, whitening 0 was kept: no other's agreement is more than 5 % above its 0.600."
    )
    better = judged("whitening 1", 0.64, 0.2)
    assert said(first, second, better) == (
        "Of 3 starts, whitening 1 was kept: its agreement 0.640 is more than 5 % above the 0.600 "
        "of whitening 0."
    )


def test_a_finish_without_training_is_not_called_training():
    start, last = judged("start", 0.6, 0.3, kept=True), judged("trained", 0.7, 0.2)
    text = said(start, last, rounds=[{"loss": None}])
    assert "The Lloyd steps did not improve on the start" in text
    assert "the last model's margin 0.200" in text


@pytest.mark.parametrize(
    "record", [{"rounds": []}, {"candidates": []}, {"candidates": [judged("start", 0.5, 0.2)]}]
)
def test_where_nothing_is_chosen_there_is_nothing_to_say(record):
    assert describe_choice(record) is None
