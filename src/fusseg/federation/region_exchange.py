"""The last exchange of every round: clusters are merged to regions, from sums (section 3b)."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.config.schema import ModelConfig, NumRegions
from fusseg.federation.checks import borders_of_clusters
from fusseg.federation.lloyd_steps import code_parts, measure_codes
from fusseg.federation.parts import Part
from fusseg.federation.points import sample_positions, unit_codes
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.region_merging import border_counts, merge_clusters, suggest_num_regions
from fusseg.federation.state import GlobalState
from fusseg.segmentation.objective import Model

REGIONS = "regions"


def region_tasks(model: ModelConfig) -> tuple[Task, ...]:
    """List the exchanges that end every round: one that merges clusters, or none.

    It ends every round, not only the last, because every round is saved, may be scored, and may be
    the last of a run that is stopped or continued. A map of the round before would not do: a
    strategy may number the clusters anew.
    """
    if model.num_regions is None:
        return ()
    merge = partial(merge_regions, model.num_regions)
    if model.merge_by == "borders":
        return (Task(REGIONS, border_parts, measure_borders, merge),)
    return (Task(REGIONS, code_parts, measure_codes, merge),)


def border_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the parts of a Lloyd step, and how often two clusters meet; all are summed."""
    clusters, check = len(state.model.centroids), borders_of_clusters("borders")
    borders = Part((clusters, clusters), torch.int64, "sum", check)
    return {**code_parts(state, protocol), "borders": borders}


def measure_borders(work: Work) -> dict[str, Tensor]:
    """Sum the codes of the sampled positions, and count borders in the whole feature maps."""
    client, model = work.client, work.model
    height, width, _ = client.features.map_shape
    everywhere = sample_positions(client.features, 0, work.protocol.seed)
    directions = normalize(model.centroids, dim=1)
    borders = torch.zeros(len(directions), len(directions), dtype=torch.int64)
    for codes in unit_codes(model.head, client.features, everywhere, work.state.plan.mean_feature):
        clusters = (codes @ directions.T).argmax(dim=1).reshape(-1, height, width)
        borders += border_counts(clusters, len(directions))
    return {**measure_codes(work), "borders": borders}


def merge_regions(num_regions: NumRegions, gathered: Gathered) -> Model:
    """Give the model a region for each cluster: the server's side.

    Args:
        num_regions: Number of regions; `auto`: as many as the clusters suggest.
        gathered: Sums over all clients; borders count if they are among them.

    Raises:
        FederationError: If fewer than 2 clusters have positions.
    """
    model, totals = gathered.state.model, gathered.totals
    counts, sums = totals["counts"], totals["sums"]
    if not isinstance(num_regions, int):
        num_regions = suggest_num_regions(model.centroids, counts, sums=sums)
    borders = totals.get("borders")
    region_of = merge_clusters(model.centroids, counts, num_regions, borders, sums=sums)
    return replace(model, region_of=region_of)
