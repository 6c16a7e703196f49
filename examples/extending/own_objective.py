"""The fusseg command with an objective of our own: python own_objective.py COMMAND ..."""

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from fusseg.cli.app import main
from fusseg.segmentation.head import narrow, project
from fusseg.segmentation.losses import center_correspondence, correspondence_loss
from fusseg.segmentation.objective import Carry, Draw, Losses, Objective
from fusseg.segmentation.objectives import OBJECTIVES
from fusseg.segmentation.sampling import query_batches


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The table [local.teacher]."""

    positions: int = 100
    shift: float = 0.2
    momentum: float = 0.99


def draw(num_images, map_shape, _prepared, local, generator):
    """Draw a batch of images, and positions in each."""
    for images in query_batches(num_images, local.batch_size, generator):
        shape = (len(images), local.settings.positions)
        positions = torch.randint(map_shape[0] * map_shape[1], shape, generator=generator)
        yield Draw(images, positions, {})


def loss(weights, centroids, step, _agreed, settings, precision):
    """Let codes agree within an image; the teacher says which centroid a code belongs to."""
    inputs = step.features.to(precision)
    codes = project(narrow(weights, precision), inputs).to(step.features.dtype)
    features, units = normalize(step.features, dim=2), normalize(codes, dim=2)
    wanted = center_correspondence(features @ features.mT)
    head_loss = correspondence_loss(wanted, units @ units.mT, settings.shift)
    rows = units.detach().flatten(0, 1)
    chosen = (rows @ normalize(step.carried["teacher"], dim=1).T).argmax(dim=1)
    centroid_loss = -(rows * normalize(centroids, dim=1)[chosen]).sum(dim=1).mean()
    return Losses(head_loss, centroid_loss, inputs, codes)


def begin(model, kept, _settings):
    """Start from the teacher of the client's last round, or from the first centroids."""
    return {"teacher": kept.get("teacher", model.centroids).clone()}


def follow(carried, _weights, centroids, settings):
    """Let the teacher follow the centroids slowly."""
    return {"teacher": torch.lerp(centroids, carried["teacher"], settings.momentum)}


OBJECTIVES["teacher"] = Objective(Settings, draw, loss, carry=Carry(begin, follow))

if __name__ == "__main__":
    main()
