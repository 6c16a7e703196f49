"""Lloyd: clients send heads; three steps of federated Lloyd give the centroids (section 3b)."""

from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.protocol import Strategy
from fusseg.federation.train_task import (
    each_round,
    keep_centroids,
    no_parts,
    send_nothing,
    train_task,
)

_HEADS_ONLY = train_task(keep_centroids, no_parts, send_nothing)

STRATEGY = Strategy(
    each_round(_HEADS_ONLY, LLOYD_STEP, LLOYD_STEP, LLOYD_STEP),
    one_model=True,
    uses_centroids=False,
)
