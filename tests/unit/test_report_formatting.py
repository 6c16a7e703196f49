import pytest

from fusseg.report import formatting


def test_scores_have_three_decimals_and_losses_four():
    assert formatting.score(0.20349) == "0.203"
    assert formatting.loss(0.12345) == "0.1235"


def test_negative_numbers_have_a_true_minus():
    assert formatting.score(-0.5) == "\N{MINUS SIGN}0.500"
    assert formatting.loss(-0.5) == "\N{MINUS SIGN}0.5000"


def test_what_is_missing_is_a_dash():
    assert formatting.score(None) == formatting.loss(None) == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_940, "999.9 kB"),
        (999_960, "1.0 MB"),
        (2_812_345, "2.8 MB"),
        (3_000_000_000, "3.0 GB"),
        (5_000_000_000_000_000, "5000.0 TB"),
    ],
)
def test_sizes_have_the_unit_that_fits(num_bytes, text):
    assert formatting.size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 00 s"),
        (141.9, "2 min 22 s"),
        (3600, "1 h 00 min"),
        (7325, "2 h 02 min"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds, text):
    assert formatting.duration(seconds) == text


def test_counts_have_their_thousands_apart():
    assert formatting.count(1234567) == "1,234,567"
    assert formatting.share(0.1239) == "12.4 %"


def test_listings_read_like_a_sentence():
    assert formatting.listing([]) == ""
    assert formatting.listing(["a"]) == "a"
    assert formatting.listing(["a", "b"]) == "a and b"
    assert formatting.listing(["a", "b", "c"]) == "a, b and c"
    assert formatting.listing(["a", "b", "c", "d"], longest=3) == "a, b and 2 more"


def test_one_thing_has_no_plural():
    assert formatting.plural(1, "round") == "1 round"
    assert formatting.plural(2000, "round") == "2,000 rounds"
