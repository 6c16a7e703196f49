"""Leave one site out: each site in turn is held out from training on the others."""

from dataclasses import replace

from fusseg.config.schema import Camera, DataConfig
from fusseg.core.errors import ConfigError
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import check_names, check_split, select


def leave_one_out(config: DataConfig) -> dict[str, DataConfig]:
    """Hold out each site, or value of the column, in turn; all others train.

    Args:
        config: The data set. If set, `train_sites` limits which sites take part, and
            `held_out_sites` which of them are held out. Splits and lists are kept.

    Returns:
        By held-out site, the settings that hold it out. A site takes no part where it has no
        images in the split that is needed.

    Raises:
        ConfigError: If a site or split is unknown, or fewer than two sites can take part.
        DataError: If the data set cannot be opened.

    Examples:
        >>> config = DataConfig(layout="synthetic", images_per_site=2, train_sites=("hall", "yard"))
        >>> {site: turn.train_sites for site, turn in leave_one_out(config).items()}
        {'hall': ('yard',), 'yard': ('hall',)}
    """
    dataset = open_dataset(config)
    for key in ("train", "held_out"):
        check_names(dataset, getattr(config, f"{key}_sites"), f"data.{key}_sites")
        check_split(dataset, getattr(config, f"{key}_split"), f"data.{key}_split")
    known = dataset.sites
    training = [site for site in known if select(dataset, [site], config.train_split)]
    training = [site for site in training if site in (config.train_sites or known)]
    held_out = [site for site in known if select(dataset, [site], config.held_out_split)]
    chosen = config.held_out_sites or config.train_sites or known
    turns = {
        site: tuple(other for other in training if other != site)
        for site in held_out
        if site in chosen
    }
    if not turns or not all(turns.values()):
        raise ConfigError(
            f"leaving one site out needs at least 2 sites with images in their splits, got "
            f"{', '.join(training) or 'none'} to train and {', '.join(turns) or 'none'} to hold "
            "out; choose other data.train_sites, data.held_out_sites or splits"
        )
    return {
        site: replace(
            config,
            train_sites=others,
            held_out_sites=(site,),
            cameras=_without(config.cameras, site),
        )
        for site, others in turns.items()
    }


def _without(cameras: dict[str, Camera] | None, site: str) -> dict[str, Camera] | None:
    """Leave out the camera of a held-out site: only clients that train have one."""
    return cameras and {name: camera for name, camera in cameras.items() if name != site}
