from fusseg.report.gallery import spread_over_sites


def test_sites_share_the_examples_and_what_a_small_one_lacks_goes_to_the_others():
    sites = [*(2 * ["small"]), *(9 * ["large"]), *(9 * ["other"])]
    assert spread_over_sites(sites, 8) == [0, 1, 2, 6, 10, 11, 15, 19]


def test_with_more_sites_than_examples_the_sites_are_spread_too():
    assert spread_over_sites(list("abcdefghi"), 3) == [0, 4, 8]


def test_few_images_are_all_shown():
    assert spread_over_sites(list("aba"), 12) == [0, 1, 2]
