"""Ranks in few bytes: `better` and `tied` of many targets, exact, or rounded beyond the cut-offs.

`digits` says how a large number is rounded: of better + 1 the leading bit and that many bits below
it are kept. Nothing below EXACT is ever rounded, and what lies above stays above, so every metric
with a cut-off of at most 20 is exact whatever the digits. Only the reciprocal rank without a
cut-off is not.
"""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

EXACT = 31  # `better` below it is never rounded; above it every cut-off
WHOLE = 64  # digits that round nothing
PRESENT = -1  # digits that keep of a larger number only that it is larger
SMALL_BITS = 5  # of better + 1 up to EXACT

Array = np.ndarray


def pack(ranks: Array, digits: int) -> dict[str, Array]:
    """{name: array} from which `unpack` restores `ranks`, rounded to the digits.

    ranks: [2, n] `better` and `tied`. Of a rounded target the ties are dropped: it has the middle
    rank of its ties.
    """
    better, tied = ranks.astype(np.int64)
    if digits < WHOLE:
        far = better >= EXACT
        middle = better + (tied - 1) // 2
        better, tied = np.where(far, _code(middle, digits), better), np.where(far, 1, tied)
    return {"better": _planes(better), "tied": _planes(tied - 1)}


def unpack(packed: Mapping[str, Array], digits: int) -> Array:
    """[2, n] int64 `better` and `tied` of `pack`; ValueError where their lengths differ."""
    better, tied = _numbers(packed["better"]), _numbers(packed["tied"]) + 1
    if len(better) != len(tied):
        raise ValueError(f"{len(better)} and {len(tied)} packed ranks")
    if PRESENT < digits < WHOLE:
        better = np.where(better >= EXACT, _decoded(better, digits), better)
    return np.stack([better, tied])


def _code(better: Array, digits: int) -> Array:
    """Numbers ≥ EXACT as small ones from EXACT on, in the same order."""
    if digits == PRESENT:
        return np.full_like(better, EXACT)
    numbers = np.maximum(better, EXACT) + 1
    sizes = np.frexp(numbers.astype(np.float64))[1].astype(np.int64)  # bits
    below_leading = numbers - (np.int64(1) << (sizes - 1))
    dropped = sizes - 1 - digits
    return EXACT + ((sizes - 1 - SMALL_BITS) << digits) + _shifted(below_leading, -dropped)


def _decoded(code: Array, digits: int) -> Array:
    """The middle of the numbers that `_code` gives this code."""
    code = np.maximum(code, EXACT) - EXACT
    sizes = (code >> digits) + 1 + SMALL_BITS
    kept = code & ((1 << digits) - 1)
    dropped = sizes - 1 - digits
    lowest = (np.int64(1) << (sizes - 1)) + _shifted(kept, dropped)
    return lowest + (np.int64(1) << np.maximum(dropped, 0)) // 2 - 1


def _shifted(numbers: Array, left: Array) -> Array:
    """The bits of each number moved to the left, or, where `left` is negative, to the right."""
    return np.where(left > 0, numbers << np.maximum(left, 0), numbers >> np.maximum(-left, 0))


def _planes(numbers: Array) -> Array:
    """[bytes, n] uint8: the lowest bytes of all numbers, then the next ones. LZMA makes less of
    them than of whole numbers."""
    most = int(numbers.max(initial=0))
    width = max(1, (most.bit_length() + 7) // 8)
    little = np.ascontiguousarray(numbers, dtype="<i8").view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(little[:, :width].T)


def _numbers(planes: Array) -> Array:
    """[n] int64 of `_planes`."""
    little = np.zeros((planes.shape[1], 8), dtype=np.uint8)
    little[:, : len(planes)] = planes.T
    return little.view("<i8")[:, 0].astype(np.int64)


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """An .npz file that numpy.load reads, compressed by LZMA; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, member.getvalue())
    return file.getvalue()
