import torch

from fusseg.config.compute import EXACT
from fusseg.features.resident import keep_resident, make_resident


def test_resident_features_are_gathered_as_from_disk(random_features, seeded):
    features = random_features(0)
    resident = make_resident(features, EXACT)
    images = torch.tensor([4, 0, 4])
    positions = torch.randint(12, (3, 7), generator=seeded(1))
    found = resident.gather(images, positions)
    assert torch.equal(found, features.gather(images, positions))
    assert found.dtype == torch.float32
    assert len(resident) == len(features)
    assert resident.map_shape == features.map_shape


def test_what_does_not_fit_is_read_from_disk(random_features):
    features = random_features(0)
    place = keep_resident(EXACT)  # the processor has no memory beside its own
    assert place("a", features) is features
