import re

import pytest

from fusseg.config.schema import Config, FederationConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.rounds import draw_participants, num_participants
from fusseg.federation.strategies import resolve

TEN = [f"client-{number}" for number in range(10)]


def settle(count, seed=0, **federation):
    federation = FederationConfig(clients_per_round=count, **federation)
    return resolve(Config(seed=seed, federation=federation))


def draw(count, round_number=1, seed=0, names=TEN):
    return draw_participants(names, round_number, settle(count, seed))


@pytest.mark.parametrize("count", [0, 10, 11, 100_000])
def test_all_take_part_where_none_or_too_many_are_asked_for(count):
    assert draw(count, names=TEN[::-1]) == tuple(TEN)
    assert num_participants(10, 1, settle(count)) == 10


def test_so_many_different_ones_are_drawn_and_sorted():
    drawn = draw(4)
    assert len(set(drawn)) == num_participants(10, 1, settle(4)) == 4
    assert list(drawn) == sorted(drawn)
    assert set(drawn) < set(TEN)


def test_a_draw_depends_on_seed_and_round_alone():
    assert draw(3) == draw(3, names=TEN[::-1]) == draw(3)
    rounds = {draw(3, round_number) for round_number in range(1, 20)}
    seeds = {draw(3, seed=seed) for seed in range(19)}
    assert min(len(rounds), len(seeds)) > 10


def test_every_client_is_drawn_as_often_as_any_other():
    times = dict.fromkeys(TEN, 0)
    for round_number in range(1, 2001):
        for name in draw(3, round_number):
            times[name] += 1
    # 600 expected of each, with a standard deviation of 20
    assert all(500 < count < 700 for count in times.values())


@pytest.mark.parametrize("strategy", ["local", "centralized"])
def test_a_baseline_has_nobody_to_draw(strategy):
    message = (
        f"federation.clients_per_round is 3, but federation.strategy {strategy!r} is a baseline "
        "that trains on all images in every round; set it to 0"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        settle(3, strategy=strategy)


def test_a_round_cannot_need_more_answers_than_it_asks_for():
    message = (
        "federation.min_sites is 4, but federation.clients_per_round asks 3 sites in a round; "
        "lower the first or raise the second"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        FederationConfig(min_sites=4, clients_per_round=3)
    assert FederationConfig(min_sites=3, clients_per_round=3).min_sites == 3


@pytest.mark.parametrize(("count", "bound"), [(-1, "at least 0"), (100_001, "at most 100000")])
def test_a_count_out_of_range_is_refused(count, bound):
    with pytest.raises(ConfigError, match=f"federation.clients_per_round must be {bound}"):
        FederationConfig(clients_per_round=count)
