"""Run-length codes of masks: counts of pixels that lie off and on the mask by turns."""

import numpy as np
from jaxtyping import Bool, Int

_CHUNK, _MORE, _SIGN, _FIRST = 31, 32, 16, 48
_MAX_CHUNKS = 7
"""Characters of one count: 5 bits each, enough for 32-bit counts."""

Counts = Int[np.ndarray, " runs"]


def count_runs(changes: Int[np.ndarray, " changes"], size: int) -> Counts:
    """Count the runs of a mask, off first: the uncompressed code of COCO, and that of CVAT.

    Args:
        changes: Places in the order of the pixels where the mask begins or ends, in any order; a
            place at which it ends and begins again, given twice, is none.
        size: Number of pixels.
    """
    places, times = np.unique(changes, return_counts=True)
    places = places[times % 2 == 1]
    counts: Counts = np.diff(places, prepend=0, append=size)
    return counts[:-1] if len(places) and places[-1] == size else counts


def fill_runs(counts: Counts) -> Bool[np.ndarray, " pixels"]:
    """Draw the mask of its runs, in the order of the pixels."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def compress_counts(counts: Counts) -> str:
    """Write counts as COCO's compressed code.

    From the fourth on a count is written as its difference to the second before, in characters of
    5 bits, the lowest first, with a bit that says whether more follow.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    code = np.zeros((len(counts), _MAX_CHUNKS), np.uint8)
    going = np.ones(len(counts), bool)
    used = np.zeros(code.shape, bool)
    for place in range(_MAX_CHUNKS):
        chunk = rest & _CHUNK
        rest = rest >> 5
        more = np.where(chunk & _SIGN != 0, rest != -1, rest != 0)
        code[:, place] = chunk + np.where(more, _MORE, 0) + _FIRST
        used[:, place] = going
        going &= more
    return code[used].tobytes().decode("ascii")
