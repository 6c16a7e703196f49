"""The command `fusseg ledger`: every message that a server or site sent or received."""

from collections.abc import Iterator
from pathlib import Path

from fusseg.cli.progress import Display
from fusseg.core.errors import ConfigError
from fusseg.deployment.wire.ledger import LedgerLine, read_ledger, total_bytes


def run_ledger(folder: Path, site: str | None) -> None:
    """Print what was sent and received, message by message, and the totals.

    Args:
        folder: Run directory of a server, or folder of a site.
        site: Site to show, or None for all.

    Raises:
        ConfigError: If there is no message of that site, or as `read_ledger`.
    """
    lines, damaged = read_ledger(folder)
    names = sorted({line.site for line in lines})
    if site is not None and site not in names:
        raise ConfigError(f"no message of site {site!r}; sites are {', '.join(names) or 'none'}")
    chosen = [line for line in lines if site is None or line.site == site]
    with Display() as display:
        for line in chosen:
            for text in _describe(line):
                display.line(text)
        for name, totals in sorted(total_bytes(chosen).items()):
            display.line(
                f"{name}: {totals['to site']:,} bytes to the site, "
                f"{totals['to server']:,} to the server"
            )
        if damaged:
            display.line(f"{damaged} lines could not be read: a crash cut them short")


def _describe(line: LedgerLine) -> Iterator[str]:
    tensors = ", ".join(
        f"{one.name} {'x'.join(map(str, one.shape)) or '1'} {one.dtype}" for one in line.tensors
    )
    fields = ", ".join(f"{name}={value}" for name, value in line.fields.items())
    yield (
        f"{line.time} {line.site} round {line.round} {line.task} {line.direction}: "
        f"{line.bytes} bytes, SHA-256 {line.sha256[:16]}"
    )
    yield f"    tensors: {tensors or 'none'}"
    yield f"    fields: {fields}"
