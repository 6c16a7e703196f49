"""Joining neighboring sites into one client, and cutting a site into several clients."""

from collections.abc import Sequence

from fusseg.core.errors import ConfigError


def split_evenly(length: int, num_parts: int) -> list[int]:
    """Divide a length into parts that differ by at most one, larger parts first.

    Examples:
        >>> split_evenly(7, 3)
        [3, 2, 2]
    """
    size, larger = divmod(length, num_parts)
    return [size + (part < larger) for part in range(num_parts)]


def apportion(sizes: Sequence[int], num_parts: int, least: int = 1) -> list[int]:
    """Distribute parts among groups in proportion to their sizes, by the largest remainder.

    Every group gets at least `least` parts: groups with a smaller fair share get that many, and the
    others share the rest. Of equal remainders, the first counts as the larger.

    Args:
        sizes: Size of each group, above 0.
        num_parts: Number of parts, at least `least` times the number of groups.
        least: Least number of parts of a group, at least 1.

    Examples:
        >>> apportion([10, 5, 1], 5)
        [3, 1, 1]
    """
    small: set[int] = set()
    while True:
        shared = [place for place in range(len(sizes)) if place not in small]
        rest = num_parts - least * len(small)
        total = sum(sizes[place] for place in shared)
        below = {place for place in shared if sizes[place] * rest < least * total}
        if not below:
            break
        small |= below
    parts = [least] * len(sizes)
    for place in shared:
        parts[place] = sizes[place] * rest // total
    remainders = sorted(shared, key=lambda place: (-(sizes[place] * rest % total), place))
    for place in remainders[: num_parts - sum(parts)]:
        parts[place] += 1
    return parts


def join_runs(names: Sequence[str], num_groups: int) -> dict[str, int]:
    """Join consecutive names to groups that differ by at most one in size.

    Returns:
        The group of each name, from 0.

    Examples:
        >>> join_runs(["a", "b", "c"], 2)
        {'a': 0, 'b': 0, 'c': 1}
    """
    groups = [
        group
        for group, size in enumerate(split_evenly(len(names), num_groups))
        for _ in range(size)
    ]
    return dict(zip(names, groups, strict=True))


def check_enough(num_clients: int, num_sites: int, kind: str) -> None:
    """Refuse more clients than sites where sites are joined, and fewer where they are cut.

    Raises:
        ConfigError: If the number does not suit the kind of partition.
    """
    if kind == "site" and num_clients > num_sites:
        raise ConfigError(
            f"data.num_clients {num_clients} is more than the {num_sites} training sites; set "
            'data.partition = "blocks" to cut sites up'
        )
    if kind == "blocks" and num_clients < num_sites:
        raise ConfigError(
            f"data.num_clients {num_clients} is less than the {num_sites} training sites; set "
            'data.partition = "site" to join sites'
        )
