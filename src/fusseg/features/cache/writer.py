"""Appending feature maps to a store, so that a killed process leaves no row half written."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float16, Float32

from fusseg.core.errors import DataError
from fusseg.features.cache.codecs import Codec, basis_images, find_basis, packing_of, write_basis
from fusseg.features.cache.store import LINE_BYTES, Store


class StoreWriter:
    """Appends rows to a locked store; rows become valid with `commit`.

    One thread may append while another commits. If rows need a basis that does not exist yet, the
    first ones wait in memory until it can be found from them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._codec = store.codec()
        self._waiting: list[tuple[str, np.ndarray, np.ndarray]] = []
        num_rows = len(store.digests())
        self._pending: list[str] = []
        self._features = _open_at(store.data_path, num_rows * store.row_bytes)
        self._pooled = _open_at(store.path / "pooled.f32", num_rows * store.shape[2] * 4)
        self._index = _open_at(store.path / "index.txt", num_rows * LINE_BYTES)

    def append(
        self,
        digest: str,
        features: Float16[np.ndarray, "height width dim"],
        pooled: Float32[np.ndarray, " dim"],
    ) -> None:
        """Append one image's features and their mean."""
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
        """Whether rows wait in memory for their basis; `commit` does not include them."""
        return bool(self._waiting)

    def write_waiting(self) -> None:
        """Find the basis from the waiting rows, write it, and write these rows."""
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
        """Flush the rows written so far to disk, then add them to the index."""
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
        # A structured array does not support the buffer protocol; its bytes do.
        _write_all(self._features, row.reshape(-1).view(np.uint8))
        _write_all(self._pooled, pooled)
        self._pending.append(digest)

    def close(self) -> None:
        """Close the files; rows that were not committed are lost."""
        for descriptor in (self._features, self._pooled, self._index):
            os.close(descriptor)


@contextmanager
def writing(store: Store) -> Iterator[StoreWriter]:
    """Lock a store while rows are appended; other processes wait for the lock."""
    with FileLock(store.path / "lock"):
        writer = StoreWriter(store)
        try:
            yield writer
            writer.write_waiting()
            writer.commit()
        finally:
            writer.close()


def _open_at(path: Path, offset: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.ftruncate(descriptor, offset)
    os.lseek(descriptor, 0, os.SEEK_END)
    return descriptor


def _write_all(descriptor: int, values: Sequence[Any] | np.ndarray) -> None:
    rest = memoryview(values).cast("B")  # type: ignore[arg-type]
    while rest:
        rest = rest[os.write(descriptor, rest) :]
