"""Feature maps of one site on disk: appended once, memory-mapped by whoever reads them.

A store is a folder `<site>-<key>` of the cache with

    meta.json      what the features are: site, backbone, fingerprint, image size, shape
    features.f16   one row per image: height x width x dim, float16; or, by `backbone.cache`,
                   features.i8 or features.pca and the basis.f32 it needs (see `codecs`)
    pooled.f32     one row per image: the mean feature, float32
    index.txt      one line per image: SHA-256 of the image's bytes

A row counts once its line stands in the index, and the line is written after the row has reached
the disk; whatever a killed process left behind it is overwritten.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float16, Float32

from fusseg.config.schema import AlphaChannel, Fit, Interpolation, Precision
from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.data.images import Decoding
from fusseg.features.cache.codecs import (
    Basis,
    Codec,
    CodedMaps,
    Maps,
    basis_images,
    find_basis,
    packing_of,
    read_basis,
    row_type,
    write_basis,
)

FORMAT_VERSION = 1
_LINE = 65  # a hex digest and its line break
_DIGEST_LINE = re.compile(rb"[0-9a-f]{64}\n")


@dataclass(frozen=True)
class FeatureSettings:
    """All that decides a feature map besides the image's bytes."""

    backbone: str
    """Name of the backbone, for listings only: the fingerprint is what counts."""
    fingerprint: str
    image_size: tuple[int, int]
    fit: Fit
    interpolation: Interpolation
    mirrored: bool = False
    """Left and right exchanged before the backbone sees it."""
    precision: Precision = "float32"
    """Of the backbone's products."""
    cache: str = "float16"
    """How the features lie on disk, as `backbone.cache`."""
    white_levels: tuple[int, int, int, int] = Decoding().white_levels
    alpha_channel: AlphaChannel = "blend"

    @property
    def decoding(self) -> Decoding:
        """What the values in the image's file mean."""
        return Decoding(self.white_levels, self.alpha_channel)

    @property
    def key(self) -> str:
        """Digest of the settings that change features."""
        settings = {**asdict(self), "backbone": None, "format": FORMAT_VERSION}
        for field in fields(self):
            # As before there was a choice: what is cached stays known.
            if field.default is not MISSING and settings[field.name] == field.default:
                del settings[field.name]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """One site's features of one backbone at one size."""

    path: Path
    site: str
    settings: FeatureSettings
    shape: tuple[int, int, int]
    """Height, width and channels of one feature map."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one feature map on disk."""
        return row_type(self.settings.cache, self.shape).itemsize

    @property
    def data_path(self) -> Path:
        """File of the feature maps."""
        return self.path / packing_of(self.settings.cache)[0].file

    def codec(self, basis: Basis | None = None) -> Codec | None:
        """Find what encodes and decodes rows; None while a basis is needed and not there.

        Args:
            basis: The one to be used; None: the one on disk.
        """
        packing, components = packing_of(self.settings.cache)
        if packing.needs_basis and basis is None:
            basis = read_basis(self.path, components, self.shape[2])
            if basis is None:
                return None
        return packing.codec(basis)

    def digests(self) -> list[str]:
        """Digests of the images whose rows are complete, in row order.

        A damaged index counts up to its first bad line, and one that names more rows than the data
        files hold only as far as the data reach.
        """
        index = self.path / "index.txt"
        if not index.exists():
            return []
        text = index.read_bytes()
        lines = (text[start : start + _LINE] for start in range(0, len(text), _LINE))
        digests = [line[:-1].decode("ascii") for line in takewhile(_DIGEST_LINE.fullmatch, lines)]
        if self.codec() is None:
            return []
        whole = min(
            _size(self.data_path) // self.row_bytes,
            _size(self.path / "pooled.f32") // (4 * self.shape[2]),
        )
        return digests[:whole]

    def maps(self) -> Maps:
        """Memory-map the feature maps."""
        num_rows, codec = len(self.digests()), self.codec()
        if num_rows == 0 or codec is None:
            return np.zeros((0, *self.shape), dtype=np.float16)
        row = row_type(self.settings.cache, self.shape)
        rows = np.memmap(self.data_path, row.base, mode="r", shape=(num_rows, *row.shape))
        if self.settings.cache == "float16":
            return rows
        return CodedMaps(rows, self.shape, codec)

    def pooled(self) -> Float32[np.ndarray, "rows dim"]:
        """Memory-map the mean features; what is written to them stays in memory."""
        shape = (len(self.digests()), self.shape[2])
        if shape[0] == 0:
            return np.zeros(shape, dtype=np.float32)
        return np.memmap(self.path / "pooled.f32", dtype=np.float32, mode="c", shape=shape)


class StoreWriter:
    """Appends rows to a store whose lock is held; `commit` makes them count.

    One thread may append while another commits. Where the rows need a basis that is not there yet,
    the first ones wait in memory until it can be found from them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._codec = store.codec()
        self._waiting: list[tuple[str, np.ndarray, np.ndarray]] = []
        num_rows = len(store.digests())
        self._pending: list[str] = []
        self._features = _open_at(store.data_path, num_rows * store.row_bytes)
        self._pooled = _open_at(store.path / "pooled.f32", num_rows * store.shape[2] * 4)
        self._index = _open_at(store.path / "index.txt", num_rows * _LINE)

    def append(
        self,
        digest: str,
        features: Float16[np.ndarray, "height width dim"],
        pooled: Float32[np.ndarray, " dim"],
    ) -> None:
        """Write one image's features and their mean behind the last row."""
        if features.shape != self._store.shape:
            raise DataError(
                f"features of shape {features.shape} do not fit the store of shape "
                f"{self._store.shape}: {self._store.path}"
            )
        if self._codec is not None:
            self._write(self._codec, digest, features, pooled)
            return
        self._waiting.append((digest, features, pooled))
        if len(self._waiting) == basis_images(self._store.shape):
            self.write_waiting()

    @property
    def waits(self) -> bool:
        """Whether rows wait for their basis, where no commit reaches them."""
        return bool(self._waiting)

    def write_waiting(self) -> None:
        """Find the basis of the rows that wait for one, keep it, and write them."""
        if not self._waiting:
            return
        _, components = packing_of(self._store.settings.cache)
        basis = find_basis([features for _, features, _ in self._waiting], components)
        write_basis(self._store.path, basis)
        self._codec = codec = self._store.codec(basis)
        assert codec is not None
        for digest, features, pooled in self._waiting:
            self._write(codec, digest, features, pooled)
        self._waiting.clear()

    def commit(self) -> None:
        """Bring the rows written so far to the disk, then enter them in the index."""
        count = len(self._pending)
        if not count:
            return
        os.fsync(self._features)
        os.fsync(self._pooled)
        lines = "".join(f"{digest}\n" for digest in self._pending[:count])
        _write_all(self._index, np.frombuffer(lines.encode("ascii"), dtype=np.uint8))
        os.fsync(self._index)
        del self._pending[:count]

    def _write(self, codec: Codec, digest: str, features: np.ndarray, pooled: np.ndarray) -> None:
        row = codec.encode(features)
        # A record is no buffer to Python; its bytes are.
        _write_all(self._features, row.reshape(-1).view(np.uint8))
        _write_all(self._pooled, pooled)
        self._pending.append(digest)

    def close(self) -> None:
        """Close the files; rows that were not committed do not count."""
        for descriptor in (self._features, self._pooled, self._index):
            os.close(descriptor)


def open_store(
    cache: Path, site: str, settings: FeatureSettings, shape: tuple[int, int, int]
) -> Store:
    """Open a site's store, creating its folder if it is new.

    Raises:
        DataError: If the folder cannot be written, or belongs to other settings.
    """
    path = cache / f"{_slug(site)}-{settings.key[:16]}"
    meta = {"format": FORMAT_VERSION, "site": site, **asdict(settings), "shape": list(shape)}
    try:
        path.mkdir(parents=True, exist_ok=True)
        if (path / "meta.json").exists():
            found = _read_meta(path)
            if found["shape"] != list(shape) or found["fingerprint"] != settings.fingerprint:
                raise DataError(
                    f"cache folder {path} holds features of shape {found['shape']}, expected "
                    f"{list(shape)}; delete the folder"
                )
            # When it was last used, for pruning; nobody prunes a cache that cannot be written.
            with suppress(OSError):
                os.utime(path / "meta.json")
        else:
            write_atomically(path / "meta.json", json.dumps(meta, indent=1).encode())
    except OSError as error:
        raise DataError(
            f"cannot write the feature cache {path}: {error.strerror}; choose another with "
            "--cache or FUSSEG_CACHE"
        ) from error
    return Store(path, site, settings, shape)


@contextmanager
def writing(store: Store) -> Iterator[StoreWriter]:
    """Hold the store's lock while rows are appended; another process waits for it."""
    with FileLock(store.path / "lock"):
        writer = StoreWriter(store)
        try:
            yield writer
            writer.write_waiting()
            writer.commit()
        finally:
            writer.close()


def list_stores(cache: Path) -> list[Store]:
    """List the stores of a cache folder, by site; foreign and damaged folders are left out."""
    stores = []
    for path in sorted(cache.glob("*/meta.json")):
        # Whoever needs a damaged one is told so by `open_store`.
        with suppress(DataError, OSError, TypeError, ValueError, KeyError):
            meta = _read_meta(path.parent)
            settings = FeatureSettings(
                meta["backbone"],
                meta["fingerprint"],
                tuple(meta["image_size"]),
                meta["fit"],
                meta["interpolation"],
                meta.get("mirrored", False),
                meta.get("precision", "float32"),
                meta.get("cache", "float16"),
                tuple(meta.get("white_levels", Decoding().white_levels)),
                meta.get("alpha_channel", "blend"),
            )
            row_type(settings.cache, tuple(meta["shape"]))
            stores.append(Store(path.parent, meta["site"], settings, tuple(meta["shape"])))
    return stores


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        needed = {field.name for field in fields(FeatureSettings) if field.default is MISSING}
        missing = needed | {"site", "shape", "format"}
        missing -= meta.keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"damaged cache folder, delete it: {path} ({error})") from error
    if missing or meta["format"] != FORMAT_VERSION:
        raise DataError(f"cache folder of another version of fusseg, delete it: {path}")
    return meta


def _slug(site: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", site)[:40]
    # Two sites whose names differ only in odd characters must not share a folder.
    return slug if slug == site else f"{slug}-{hashlib.sha256(site.encode()).hexdigest()[:8]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_at(path: Path, offset: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.ftruncate(descriptor, offset)
    os.lseek(descriptor, 0, os.SEEK_END)
    return descriptor


def _write_all(descriptor: int, values: Sequence[Any] | np.ndarray) -> None:
    rest = memoryview(values).cast("B")  # type: ignore[arg-type]
    while rest:
        rest = rest[os.write(descriptor, rest) :]
