"""`fusseg join`: prepare a site's features, and keep the site connected."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from fusseg.core.errors import ConfigError, DataError, FederationError, FussegError
from fusseg.data.findings import Finding
from fusseg.data.layouts.site_folder import open_site
from fusseg.data.partitions.small_clients import MIN_IMAGES
from fusseg.deployment.keys.credentials import check_private, read_certificate_expiry, read_owner
from fusseg.deployment.keys.sites_file import check_site_name
from fusseg.deployment.site.site_data import PreparedSite, prepare_site, remember_features
from fusseg.deployment.site.site_disk import (
    Preparation,
    SiteSettings,
    load_offer,
    save_preparation,
    save_settings,
)
from fusseg.deployment.site.site_node import SiteNode
from fusseg.deployment.site.sum_answers import check_roster
from fusseg.deployment.wire.ledger import LEDGER, LedgerLine, read_ledger
from fusseg.deployment.wire.offer import HELLO, Offer
from fusseg.deployment.wire.payloads import FINISH
from fusseg.deployment.wire.server_address import ServerAddress, parse_address
from fusseg.features.backbones import check_backbone_name
from fusseg.features.extraction import Progress

_LOOK_SECONDS = 0.5
_NOTE_SECONDS = 1.0


@dataclass(frozen=True)
class JoinOptions:
    """Options of the command line."""

    server: str
    """Address of the server's edge, HOST:PORT."""
    folder: Path
    """The site's own folder."""
    key: Path
    authority: Path
    once: bool
    """End after one federation instead of waiting for the next."""


@dataclass(frozen=True)
class SiteEvent:
    """Something that happened at the site, as one line for people."""

    text: str


def join(settings: SiteSettings, options: JoinOptions) -> Iterator[SiteEvent | Progress]:
    """Take part in every federation that the server offers, until stopped.

    Args:
        settings: The decisions of the site's operator.
        options: How to reach the server.

    Yields:
        What happens, and the progress of the extraction.

    Raises:
        FussegError: If settings, key or data are wrong; raised before anything is started.
    """
    address = check_join(settings, options)
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options.folder.chmod(0o700)
    lock = FileLock(options.folder / "join.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FederationError(f"another fusseg join works in {options.folder}") from error
    save_settings(options.folder, replace(settings, key=str(options.key.resolve())))
    node = SiteNode(address, options.folder, options.key, options.authority)
    try:
        yield from _take_part(settings, options, node)
    finally:
        node.stop()
        lock.release()


def check_join(settings: SiteSettings, options: JoinOptions) -> ServerAddress:
    """Check everything that can be checked before the server is contacted.

    Returns:
        The server's address.

    Raises:
        ConfigError: If the name, the address, the key, the certificate or the backbone cannot be
            used, or the key belongs to another site.
        DataError: If the folder holds no site.
    """
    check_site_name(settings.name)
    address = parse_address(options.server)
    check_private(options.key)
    owner = read_owner(options.key)
    if owner not in (None, settings.name):
        # The server identifies a site by its key alone.
        raise ConfigError(
            f"this key is {owner}'s, --name says {settings.name}; {options.key} goes with "
            f"{shlex.join(['--name', str(owner)])}"
        )
    read_certificate_expiry(options.authority)
    if settings.roster is not None:
        check_roster(Path(settings.roster), settings.name, options.key)
    if settings.backbone is not None:
        try:
            check_backbone_name(settings.backbone)
        except ConfigError as error:
            raise ConfigError(f"--backbone {settings.backbone}: {error}") from error
    count = len(open_site(Path(settings.data), settings.name).items)
    if count < MIN_IMAGES:
        raise DataError(f"{settings.data} has {count} images, at least {MIN_IMAGES} are needed")
    return address


def _take_part(
    settings: SiteSettings, options: JoinOptions, node: SiteNode
) -> Iterator[SiteEvent | Progress]:
    ledger = _LedgerReader(options.folder)
    prepared_for = ""
    known = load_offer(options.folder)
    if known is not None:
        # Prepare again: the operator may have changed the settings since.
        save_preparation(options.folder, Preparation(known.digest, "preparing"))
    while True:
        for text in node.keep_running():
            yield SiteEvent(text)
        for line in ledger.read():
            yield SiteEvent(describe_line(line))
            if options.once and _is_last(line):
                # Give the answer time to be sent.
                time.sleep(5)
                _check_took_part(line)
                return
        offer = load_offer(options.folder)
        if offer is not None and offer.digest != prepared_for:
            prepared_for = offer.digest
            yield from _prepare(settings, offer, options.folder)
        time.sleep(_LOOK_SECONDS)


def _is_last(line: LedgerLine) -> bool:
    """Tell whether this federation is over for the site: finished, or refused."""
    if line.direction != "to server":
        return False
    return line.task == FINISH or _is_refusal(line)


def _is_refusal(line: LedgerLine) -> bool:
    return line.task == HELLO and line.fields.get("state") == "refused"


def _check_took_part(line: LedgerLine) -> None:
    if _is_refusal(line):
        raise FederationError(
            f"this site takes no part: {line.fields.get('reason')}; without --once it waits for "
            "another offer"
        )


def _prepare(settings: SiteSettings, offer: Offer, folder: Path) -> Iterator[SiteEvent | Progress]:
    """Extract the features of an offer, and store the progress for the process that answers."""
    yield SiteEvent(f"the server offers run {offer.run}")
    stages = prepare_site(settings, offer)
    noted = 0.0
    while True:
        try:
            progress = next(stages)
        except StopIteration as stop:
            prepared: PreparedSite = stop.value
            break
        except FederationError as error:
            save_preparation(folder, Preparation(offer.digest, "refused", str(error)))
            yield SiteEvent(f"refused: {error}")
            return
        except FussegError as error:
            # The text may name files, so it is not sent.
            reason = "this site cannot use its data or backbone; its own output says why"
            save_preparation(folder, Preparation(offer.digest, "refused", reason))
            yield SiteEvent(f"error: {error}")
            return
        if isinstance(progress, Finding):
            yield SiteEvent(f"{progress.severity}: {progress.message} (the server sets data.*)")
            continue
        yield progress
        if time.monotonic() - noted > _NOTE_SECONDS:
            noted = time.monotonic()
            done = 0 if progress.stage == "read" else progress.done
            note = Preparation(offer.digest, "preparing", "", done, progress.total)
            save_preparation(folder, note)
    for skipped in prepared.skipped:
        yield SiteEvent(f"skipped {skipped.item.stem}: {skipped.reason}")
    remember_features(folder, offer, prepared)
    save_preparation(folder, Preparation(offer.digest, "ready"))
    yield SiteEvent(f"ready with {len(prepared.client.features)} images")


def describe_line(line: LedgerLine) -> str:
    """Describe a line of the ledger in words."""
    verb = "received" if line.direction == "to site" else "sent"
    state = str(line.fields.get("state", ""))
    text = f"round {line.round}: {verb} {line.task or 'a message'}, {line.bytes:,} bytes"
    reason = line.fields.get("reason")
    if state in ("", "done"):
        return text
    return f"{text} ({state}: {reason})" if reason else f"{text} ({state})"


class _LedgerReader:
    """Reads the lines that were added to the ledger since the last read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = len(read_ledger(folder)[0]) if (folder / LEDGER).exists() else 0
        self._size = -1

    def read(self) -> list[LedgerLine]:
        """List the new lines."""
        path = self._folder / LEDGER
        size = path.stat().st_size if path.exists() else -1
        if size == self._size:
            return []
        self._size = size
        lines, _ = read_ledger(self._folder)
        new, self._seen = lines[self._seen :], len(lines)
        return new
