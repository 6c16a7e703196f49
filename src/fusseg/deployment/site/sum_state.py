"""What a site remembers of its sums: the secrets of one session, and what it has revealed.

Flower starts a process for every message, so secrets wait on disk, readable only by the site, until
the sum is over. They are gone once the site has revealed its part, or the next session begins.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fusseg.core.errors import DataError, FederationError
from fusseg.core.files import write_atomically
from fusseg.deployment.secure_sum.pair_keys import PairKeys, PublicKeys
from fusseg.deployment.wire.sum_messages import Session

_FOLDER, _SESSION, _REVEALED = "sums", "session.json", "revealed.json"
_REMEDY = (
    "restore it from a backup of the same run; without it this site does not know what it has "
    "revealed, and should take part in a new run only"
)


@dataclass(frozen=True)
class OwnSum:
    """A site's part in one sum of the session."""

    private: PairKeys | None
    """None once the site has revealed its part."""
    seed: bytes = field(default=b"", repr=False)
    """Of its own mask; empty before it has dealt shares, and after it has revealed its part."""
    sealed: Mapping[str, bytes] = field(default_factory=dict)
    """Shares for this site, by the site that dealt them; empty before it has used the sum."""
    agreed: tuple[str, ...] = ()
    """The sites that it has last signed the sum to be over."""
    revealed: Mapping[str, bytes] = field(default_factory=dict)
    """What it has revealed, by the site that dealt it."""


@dataclass(frozen=True)
class OwnSession:
    """A site's part in the current session."""

    session: Session
    needed: int
    """Number of sites without which it reveals nothing."""
    sums: tuple[OwnSum, ...]
    keys: Mapping[str, tuple[PublicKeys, ...]] = field(default_factory=dict)
    """Public keys of all sites, for each sum; empty before it has dealt shares."""

    def with_sum(self, place: int, own: OwnSum) -> "OwnSession":
        """Return the session with another part in one sum."""
        return replace(self, sums=(*self.sums[:place], own, *self.sums[place + 1 :]))

    def keys_of(self, place: int) -> dict[str, PublicKeys]:
        """Return the public keys of one sum, by site."""
        return {site: keys[place] for site, keys in self.keys.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep two messages that arrive at once from using the same secrets."""
    home = _home(folder)
    with FileLock(home / "lock"):
        yield


def begin_session(folder: Path, own: OwnSession) -> None:
    """Store a new session, whose number must be higher than all before; older secrets are gone.

    Raises:
        FederationError: If the number is not higher: what was revealed of an older session could be
            used again.
        DataError: If it cannot be stored.
    """
    last = _read(_home(folder) / _REVEALED).get("session", 0)
    if own.session.number <= last:
        raise FederationError(
            f"session {own.session.number} of secure sums is not new to this site, which was in "
            f"session {last}; the server tries again with a higher number"
        )
    known = {**_read(_home(folder) / _REVEALED), "session": own.session.number}
    _write(_home(folder) / _REVEALED, known)
    save_session(folder, own)


def save_session(folder: Path, own: OwnSession) -> None:
    """Store the site's part in the current session.

    Raises:
        DataError: If it cannot be stored.
    """
    content = {
        "session": asdict(own.session),
        "needed": own.needed,
        "sums": [
            {
                "private": None if one.private is None else _to_row(one.private),
                "seed": one.seed.hex(),
                "sealed": _to_hex(one.sealed),
                "agreed": list(one.agreed),
                "revealed": _to_hex(one.revealed),
            }
            for one in own.sums
        ],
        "keys": {site: [_to_row(one) for one in keys] for site, keys in own.keys.items()},
    }
    _write(_home(folder) / _SESSION, content)


def load_session(folder: Path, session: Session) -> OwnSession:
    """Read the site's part in a session.

    Raises:
        FederationError: If the site takes no part in this session.
        DataError: If the file is damaged.
    """
    path = _home(folder) / _SESSION
    found = _read(path)
    try:
        if not found or Session(**found["session"]) != session:
            raise FederationError(
                f"this site takes no part in session {session.number} of secure sums"
            )
        sums = tuple(
            OwnSum(
                None if one["private"] is None else PairKeys(*map(bytes.fromhex, one["private"])),
                bytes.fromhex(one["seed"]),
                _from_hex(one["sealed"]),
                tuple(map(str, one["agreed"])),
                _from_hex(one["revealed"]),
            )
            for one in found["sums"]
        )
        keys = {
            site: tuple(PublicKeys(*map(bytes.fromhex, one)) for one in listed)
            for site, listed in found["keys"].items()
        }
        return OwnSession(session, int(found["needed"]), sums, keys)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged file: {path} ({error}); {_REMEDY}") from error


def forget_session(folder: Path) -> None:
    """Delete the secrets of the last session, after the run; what was revealed stays known.

    Raises:
        DataError: If they cannot be deleted.
    """
    path = _home(folder) / _SESSION
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot delete {path}: {error.strerror}") from error


def note_revealed(folder: Path, session: Session, place: int, summed: Sequence[str]) -> None:
    """Note, before anything is revealed, over which sites a sum is.

    A sum is revealed for one set of sites only: of two sums over different sets, the difference
    would show what a single site has sent.

    Raises:
        FederationError: If a later round has begun, or it was revealed for other sites.
        DataError: If it cannot be stored.
    """
    path = _home(folder) / _REVEALED
    known = _read(path)
    order, noted = known.get("order", -2), dict(known.get("summed", {}))
    if session.order < order:
        raise FederationError(
            f"this site has revealed sums of round {order}; those of earlier rounds are over"
        )
    if session.order > order:
        noted = {}
    before = noted.setdefault(str(place), list(summed))
    if before != list(summed):
        raise FederationError(
            f"this site has revealed this sum for {', '.join(before)}, and reveals it for no other "
            f"sites, such as {', '.join(summed)}"
        )
    _write(path, {**known, "order": session.order, "summed": noted})


def note_noised(folder: Path, budget: int) -> None:
    """Note, before it is sent, that one more noised term leaves the site.

    Args:
        folder: Folder of the run.
        budget: Number of noised terms for which the noise was computed.

    Raises:
        FederationError: If as many have left.
        DataError: If it cannot be stored.
    """
    with locked(folder):
        path = _home(folder) / _REVEALED
        known = _read(path)
        sent = int(known.get("noised", 0))
        if sent >= budget:
            raise FederationError(
                f"this site has sent {sent} noised terms, all that privacy.epsilon allows; rounds "
                "that are asked again need privacy.spare_exchanges, in a new run"
            )
        _write(path, {**known, "noised": sent + 1})


def _home(folder: Path) -> Path:
    home = folder / _FOLDER
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DataError(f"cannot write {home}: {error.strerror}") from error
    return home


def _to_row(keys: PairKeys | PublicKeys) -> list[str]:
    return [keys.masking.hex(), keys.sealing.hex(), keys.signing.hex()]


def _to_hex(content: Mapping[str, bytes]) -> dict[str, str]:
    return {name: one.hex() for name, one in content.items()}


def _from_hex(content: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(one) for name, one in content.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    # Only the owner may read secrets, also while the file is being written.
    before = os.umask(0o077)
    try:
        write_atomically(path, json.dumps(content).encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        os.umask(before)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"damaged file: {path} ({error}); {_REMEDY}") from error
    if not isinstance(found, dict):
        raise DataError(f"damaged file: {path} (no object); {_REMEDY}")
    return found
