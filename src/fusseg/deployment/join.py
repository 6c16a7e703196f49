"""`fusseg join`: prepare a site's features, and keep it connected."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from filelock import FileLock, Timeout

from fusseg.data.site_folder import open_site
from fusseg.data.small_clients import MIN_IMAGES
from fusseg.deployment import flower
from fusseg.deployment.client_app import SITE_DIR
from fusseg.deployment.credentials import check_private, read_certificate_expiry, read_owner
from fusseg.deployment.ledger import LEDGER, LedgerLine, read_ledger
from fusseg.deployment.offer import HELLO, Offer
from fusseg.deployment.payloads import FINISH
from fusseg.deployment.processes import free_port, last_lines, start_process, stop_process
from fusseg.deployment.site import (
    Preparation,
    SiteSettings,
    load_offer,
    save_preparation,
    save_settings,
)
from fusseg.deployment.site_data import PreparedSite, prepare_site, remember_features
from fusseg.deployment.sites_file import check_site_name
from fusseg.errors import ConfigError, DataError, FederationError, FussegError
from fusseg.features.backbones import check_backbone_name
from fusseg.features.extraction import Progress

_LOOK_SECONDS = 0.5
_NOTE_SECONDS = 1.0
_PAUSES = (1.0, 2.0, 5.0, 10.0, 15.0)
"""Seconds before Flower's process is started again; the last holds from then on."""
_STEADY_SECONDS = 120.0
"""A process that lived so long starts the pauses anew."""


@dataclass(frozen=True)
class JoinOptions:
    """What the command line says."""

    server: str
    """HOST:PORT of the server's edge."""
    folder: Path
    """The site's own folder."""
    key: Path
    authority: Path
    once: bool
    """End when a federation is finished, instead of waiting for the next."""


@dataclass(frozen=True)
class SiteEvent:
    """Something that happened at the site, in a line for people."""

    text: str


def join(settings: SiteSettings, options: JoinOptions) -> Iterator[SiteEvent | Progress]:
    """Take part in whatever the server has to offer, until stopped.

    Args:
        settings: What the site's operator decided.
        options: How the server is reached.

    Yields:
        What happens, and progress of the extraction.

    Raises:
        FussegError: If settings, key or data are wrong, before anything is started.
    """
    check_join(settings, options)
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options.folder.chmod(0o700)
    lock = FileLock(options.folder / "join.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FederationError(f"another fusseg join works in {options.folder}") from error
    save_settings(options.folder, settings)
    node = _Node(options)
    try:
        yield from _take_part(settings, options, node)
    finally:
        node.stop()
        lock.release()


def check_join(settings: SiteSettings, options: JoinOptions) -> None:
    """Look at everything that can be wrong before the server is asked.

    Raises:
        ConfigError: If the name, the address, the key, the certificate or the backbone cannot be
            used, or the key is another site's.
        DataError: If the folder holds no site.
    """
    check_site_name(settings.name)
    host, colon, port = options.server.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(f"the server must be HOST:PORT, got {options.server!r}")
    check_private(options.key)
    owner = read_owner(options.key)
    if owner not in (None, settings.name):
        # The server knows a site by its key alone.
        raise ConfigError(
            f"this key is {owner}'s, --name says {settings.name}; {options.key} goes with "
            f"{shlex.join(['--name', str(owner)])}"
        )
    read_certificate_expiry(options.authority)
    if settings.backbone is not None:
        try:
            check_backbone_name(settings.backbone)
        except ConfigError as error:
            raise ConfigError(f"--backbone {settings.backbone}: {error}") from error
    count = len(open_site(Path(settings.data), settings.name).items)
    if count < MIN_IMAGES:
        raise DataError(f"{settings.data} has {count} images, at least {MIN_IMAGES} are needed")


def _take_part(
    settings: SiteSettings, options: JoinOptions, node: "_Node"
) -> Iterator[SiteEvent | Progress]:
    ledger = _LedgerReader(options.folder)
    prepared_for = ""
    known = load_offer(options.folder)
    if known is not None:
        # What was ready once is looked at anew: the operator may have decided otherwise since.
        save_preparation(options.folder, Preparation(known.digest, "preparing"))
    while True:
        yield from node.keep_running()
        for line in ledger.read():
            yield SiteEvent(describe_line(line))
            if options.once and _is_last(line):
                # The answer needs a moment to get out.
                time.sleep(5)
                _check_took_part(line)
                return
        offer = load_offer(options.folder)
        if offer is not None and offer.digest != prepared_for:
            prepared_for = offer.digest
            yield from _prepare(settings, offer, options.folder)
        time.sleep(_LOOK_SECONDS)


def _is_last(line: LedgerLine) -> bool:
    """Tell whether the site is through with this federation: it is finished, or was refused."""
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
    """Extract the features of an offer, noting how far it is for whoever answers the server."""
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
            # The text may name files: it stays here.
            reason = "this site cannot use its data or backbone; its own output says why"
            save_preparation(folder, Preparation(offer.digest, "refused", reason))
            yield SiteEvent(f"error: {error}")
            return
        yield progress
        if time.monotonic() - noted > _NOTE_SECONDS:
            noted = time.monotonic()
            done = progress.done if progress.stage == "extract" else 0
            note = Preparation(offer.digest, "preparing", "", done, progress.total)
            save_preparation(folder, note)
    for skipped in prepared.skipped:
        yield SiteEvent(f"skipped {skipped.item.stem}: {skipped.reason}")
    remember_features(folder, offer, prepared)
    save_preparation(folder, Preparation(offer.digest, "ready"))
    yield SiteEvent(f"ready with {len(prepared.client.features)} images")


def describe_line(line: LedgerLine) -> str:
    """Say in words what a line of the ledger means."""
    verb = "received" if line.direction == "to site" else "sent"
    state = str(line.fields.get("state", ""))
    text = f"round {line.round}: {verb} {line.task or 'a message'}, {line.bytes:,} bytes"
    reason = line.fields.get("reason")
    if state in ("", "done"):
        return text
    return f"{text} ({state}: {reason})" if reason else f"{text} ({state})"


class _Node:
    """Flower's process at the site: started, and started again when it ends."""

    def __init__(self, options: JoinOptions) -> None:
        self._options = options
        self._process: Popen[bytes] | None = None
        self._started = self._next_start = 0.0
        self._failures = 0
        self._log = options.folder / "supernode.log"
        self._read = self._log.stat().st_size if self._log.exists() else 0

    def keep_running(self) -> Iterator[SiteEvent]:
        """Start the process if there is none and it is time to."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                if self._has_stale_answer():
                    self.stop()
                    yield SiteEvent("the server was started anew; connecting again")
                return
            self.stop()
            self._failures = 0 if now - self._started > _STEADY_SECONDS else self._failures + 1
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            self._next_start = now + pause
            said = last_lines(self._log, 2).replace("\n", " ")[-300:]
            yield SiteEvent(
                f"the connection ended (exit code {code}: {said}); next try in {pause:.0f} s"
            )
        elif now >= self._next_start:
            self._process = self._start()
            self._started = now
            yield SiteEvent(f"connecting to {self._options.server}")

    def _has_stale_answer(self) -> bool:
        """Look at what the process has written since the last look."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            written = file.read()
        # A line in the making is read again.
        whole = written[: written.rfind(b"\n") + 1]
        self._read += len(whole)
        return flower.STALE_MESSAGE in whole

    def stop(self) -> None:
        """Stop the process, and what it started."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def _start(self) -> "Popen[bytes]":
        options, programs = self._options, self._options.folder / "programs"
        flower.link_programs(programs, "flwr-clientapp", "fusseg.deployment.client_process")
        command = flower.supernode_command(
            options.server,
            options.authority.resolve(),
            options.key.resolve(),
            f"{SITE_DIR}={flower.quote(options.folder.resolve())}",
            free_port(),
        )
        home = options.folder / "flower"
        home.mkdir(exist_ok=True, mode=0o700)
        variables = flower.environment(home.resolve(), programs.resolve())
        # The backbone may be named relative to where the command was given.
        return start_process(command, variables, self._log, Path.cwd())


class _LedgerReader:
    """Reads the lines that were added to the ledger since it last looked."""

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
