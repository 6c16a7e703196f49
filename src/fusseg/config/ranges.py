"""Checks of the range of one setting, with messages that name its key."""

from fusseg.core.errors import ConfigError


def at_least(name: str, value: int | float, bound: int | float, most: int | float = 10**9) -> None:
    """Refuse a setting below its lower bound or above the largest sensible value.

    Args:
        name: Dotted key of the setting, for the message.
        value: The setting.
        bound: Its lower bound.
        most: Its upper bound.

    Raises:
        ConfigError: If the value is out of bounds.

    Examples:
        >>> at_least("model.num_clusters", 1, 2, 255)
        Traceback (most recent call last):
            ...
        fusseg.core.errors.ConfigError: model.num_clusters must be at least 2, got 1
    """
    if not value >= bound:
        raise ConfigError(f"{name} must be at least {bound}, got {value}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most}, got {value}")


def above_zero(name: str, value: int | float) -> None:
    """Refuse a setting that is not positive.

    Raises:
        ConfigError: If the value is zero or below.
    """
    if not value > 0:
        raise ConfigError(f"{name} must be above 0, got {value}")


def check_sides_range(name: str, size: tuple[int, int]) -> None:
    """Refuse an image size outside 16 to 16384 pixels a side.

    Raises:
        ConfigError: If a side is too small or too large.
    """
    if not all(16 <= side <= 16384 for side in size):
        raise ConfigError(f"{name} must be 16 to 16384 pixels a side, got {list(size)}")


def check_white_level(white_level: int | dict[str, int] | None) -> None:
    """Refuse a white level that no image could have, for all images or by number of bands.

    Raises:
        ConfigError: If a level is out of range, or a key is not a number of bands.
    """
    table = white_level if isinstance(white_level, dict) else {"": white_level}
    for bands, level in table.items():
        name = f"data.white_level.{bands}" if bands else "data.white_level"
        if bands not in ("", "1", "2", "3", "4"):
            raise ConfigError(
                f"data.white_level has the key {bands!r}; the keys are numbers of bands: 1 for "
                "gray, 3 for RGB, 2 and 4 for the same with transparency"
            )
        if level is not None:
            at_least(name, level, 1, 65535)
