import re

import pytest
import torch

from fusseg.errors import FederationError
from fusseg.federation.moments import principal_components, sum_moments


def test_moments_by_hand():
    chunks = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [-1.0, 1.0]])]
    found = sum_moments(chunks, 2)
    assert found.first.tolist() == [3.0, 3.0]
    assert found.second.tolist() == [[11.0, 1.0], [1.0, 5.0]]
    assert int(found.count) == 3


def test_the_sign_of_a_direction_is_fixed():
    found = sum_moments([torch.tensor([[-3.0, -1.0], [3.0, 1.0]])], 2)
    directions, variances, mean = principal_components(found, 1)
    assert directions[0, 0] > 0
    assert variances.tolist() == pytest.approx([10.0])
    assert mean.tolist() == [0.0, 0.0]


def test_more_components_than_channels_are_refused():
    found = sum_moments([torch.ones(2, 2)], 2)
    message = (
        "features of 2 channels have at most 2 principal components, got model.code_dim = 3; "
        "lower it"
    )
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        principal_components(found, 3)
