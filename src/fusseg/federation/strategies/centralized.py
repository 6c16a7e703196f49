"""The baseline without privacy: one client holds the images of all sites."""

from dataclasses import replace

from fusseg.federation.strategies import fedavg

STRATEGY = replace(fedavg.STRATEGY, aggregates=True, baseline=True, pools_images=True)
