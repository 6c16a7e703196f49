import torch

from fusseg.federation.traffic import num_bytes


def test_a_head_of_the_paper_and_its_centroids_weigh_2_8_megabytes_and_7_6_kilobytes():
    head = torch.zeros(698_252)
    assert num_bytes(head) == 2_793_008
    assert num_bytes(torch.zeros(27, 70)) == 7_560
    assert num_bytes(head, torch.zeros(27, 70)) == 2_800_568


def test_what_is_not_sent_weighs_nothing():
    assert num_bytes() == 0


def test_the_kind_of_number_counts():
    assert num_bytes(torch.zeros(3, dtype=torch.float64), torch.zeros(2).half()) == 28
