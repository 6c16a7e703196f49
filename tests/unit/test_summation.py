import torch

from fusseg.federation.summation import RunningSum


def total_of(terms, factors=None):
    running = RunningSum({"w": terms[0]})
    for term, factor in zip(terms, factors or [1] * len(terms), strict=True):
        running.add({"w": term}, factor)
    return running.total()["w"]


def test_terms_are_added_as_often_as_they_count():
    found = total_of([torch.tensor([1.0, 2.0]), torch.tensor([10.0, -3.0])], [3, 2])
    assert found.dtype == torch.float64
    assert found.tolist() == [23.0, 0.0]


def test_what_an_addition_rounds_away_is_not_lost():
    """In float64 alone, 2 ** 53 + 1 is 2 ** 53."""
    terms = [torch.tensor([value]) for value in (2.0**53, 1.0, 1.0, -(2.0**53))]
    assert sum(float(term) for term in terms[:2]) == 2.0**53
    assert total_of(terms).tolist() == [2.0]


def test_whole_numbers_stay_whole_beyond_what_a_float_can_count():
    found = total_of([torch.tensor([2**60, 1]), torch.tensor([1, 2])])
    assert found.dtype == torch.int64
    assert found.tolist() == [2**60 + 1, 3]


def test_any_shape_and_more_numbers_than_a_block_are_added():
    long, single = torch.arange(70_000.0).reshape(7, 10_000), torch.tensor(2.0)
    running = RunningSum({"long": long, "single": single})
    for _ in range(3):
        running.add({"long": long.clone(), "single": single})
    assert torch.equal(running.total()["long"], 3 * long.double())
    assert running.total()["single"].shape == ()
    assert float(running.total()["single"]) == 6


def test_terms_that_are_not_contiguous_are_added_in_their_own_order():
    term = torch.arange(6.0).reshape(2, 3)
    assert total_of([term, term.T.contiguous().T]).tolist() == (2 * term).tolist()


def test_terms_stay_as_they_are_and_nothing_else_is_added():
    term = torch.tensor([1.0])
    running = RunningSum({"w": term})
    running.add({"w": term, "centroids": torch.tensor([5.0])}, 4)
    assert term.tolist() == [1.0]
    assert running.total().keys() == {"w"}
