"""Feature maps of one site on disk: written once, memory-mapped by all readers.

A store is a folder `<site>-<key>` of the cache with

    meta.json      origin of the features: site, backbone, fingerprint, image size, shape
    features.f16   one row per image: height x width x dim, float16; or, by `backbone.cache`,
                   features.i8 or features.pca and the basis.f32 it needs (see `codecs`)
    pooled.f32     one row per image: the mean feature, float32
    index.txt      one line per image: SHA-256 of the image's bytes

A row is valid once its line is in the index, and the line is written after the row has reached the
disk. Rows that a killed process left without a line are overwritten.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from fusseg.config.schema import AlphaChannel, Fit, Interpolation, Precision
from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.data.images import Decoding
from fusseg.features.cache.codecs import (
    Basis,
    Codec,
    CodedMaps,
    Maps,
    packing_of,
    read_basis,
    row_type,
)

FORMAT_VERSION = 1
LINE_BYTES = 65
"""Length of a line of the index: a hex digest and its line break."""
_DIGEST_LINE = re.compile(rb"[0-9a-f]{64}\n")


@dataclass(frozen=True)
class FeatureSettings:
    """Everything that determines a feature map, except the image's bytes."""

    backbone: str
    """Name of the backbone, only for listings; the fingerprint identifies it."""
    fingerprint: str
    image_size: tuple[int, int]
    fit: Fit
    interpolation: Interpolation
    mirrored: bool = False
    """Whether the image is mirrored, left to right, before the backbone sees it."""
    precision: Precision = "float32"
    """Precision of the backbone's products."""
    cache: str = "float16"
    """Format of the features on disk, as `backbone.cache`."""
    white_levels: tuple[int, int, int, int] = Decoding().white_levels
    alpha_channel: AlphaChannel = "blend"
    zoomed: bool = False
    """Whether the backbone sees only the center of the image, enlarged."""

    @property
    def decoding(self) -> Decoding:
        """Meaning of the values in the image's file."""
        return Decoding(self.white_levels, self.alpha_channel)

    @property
    def key(self) -> str:
        """Digest of the settings that change features."""
        settings = {**asdict(self), "backbone": None, "format": FORMAT_VERSION}
        for field in fields(self):
            # Defaults are left out, so that features cached before a setting existed are found.
            if field.default is not MISSING and settings[field.name] == field.default:
                del settings[field.name]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """Features of one site, from one backbone at one size."""

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
        """Return the codec of the rows; None if it needs a basis that does not exist yet.

        Args:
            basis: Basis to use; None: the one on disk.
        """
        packing, components = packing_of(self.settings.cache)
        if packing.needs_basis and basis is None:
            basis = read_basis(self.path, components, self.shape[2])
            if basis is None:
                return None
        return packing.codec(basis)

    def digests(self) -> list[str]:
        """Return the digests of the images with complete rows, in row order.

        A damaged index is valid up to its first bad line, and an index with more lines than the
        data files have rows only up to the last row.
        """
        index = self.path / "index.txt"
        if not index.exists():
            return []
        text = index.read_bytes()
        lines = (text[start : start + LINE_BYTES] for start in range(0, len(text), LINE_BYTES))
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
        """Memory-map the mean features; changes to them stay in memory."""
        shape = (len(self.digests()), self.shape[2])
        if shape[0] == 0:
            return np.zeros(shape, dtype=np.float32)
        return np.memmap(self.path / "pooled.f32", dtype=np.float32, mode="c", shape=shape)


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
            # Time of last use, for pruning; a read-only cache is never pruned.
            with suppress(OSError):
                os.utime(path / "meta.json")
        else:
            write_atomically(path / "meta.json", json.dumps(meta, indent=1).encode())
    except OSError as error:
        raise DataError(
            f"cannot write the feature cache {path}: {error.strerror}; choose another folder with "
            "--cache or FUSSEG_CACHE"
        ) from error
    return Store(path, site, settings, shape)


def list_stores(cache: Path) -> list[Store]:
    """List the stores of a cache folder, sorted by site; other and damaged folders are skipped."""
    stores = []
    for path in sorted(cache.glob("*/meta.json")):
        # `open_store` reports a damaged folder to those who need it.
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
                meta.get("zoomed", False),
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
    # Sites with names that differ only in special characters must not share a folder.
    return slug if slug == site else f"{slug}-{hashlib.sha256(site.encode()).hexdigest()[:8]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
