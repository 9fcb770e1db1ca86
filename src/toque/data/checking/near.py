"""Near duplicates: the same picture at another size, quality or brightness.

Two pictures are near when two tests agree. The difference hash compares neighbouring cells of an
8 x 9 and a 9 x 8 grid (Krawetz 2013), 128 bits of which at most 12 may differ; and the 18 x 18
thumbnails must correlate at 0.98 or more, two small ones at 0.995. On 300 photos, copies at half
the size or JPEG quality 50 differ by 0 .. 9 bits and correlate above 0.989; different photos differ
by 22 bits and more. Copies that are cropped or mirrored are not looked for.

Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

MOST_BITS = 12
MOST_BITS_OF_MANY = 8  # of more images than _MANY: a minute instead of ten for a million
_MANY = 200_000
LEAST_CORRELATION = 0.98
LEAST_OF_SMALL = 0.995
SMALL_PX = 64  # pictures of this short side and less have little in them to differ in
_CELLS = 72  # a multiple of 8, 9 and 18
_SIDE = 18
_BITS = 128
_PAIRS_AT_ONCE = 2**21

Hashes = npt.NDArray[np.uint8]
Thumbs = npt.NDArray[np.uint8]


def signature(pixels: npt.NDArray[np.uint8]) -> tuple[Hashes, Thumbs]:
    """The difference hash and the thumbnail of a picture.

    Shape: pixels [H, W, C] -> [16] (128 bits), [18 * 18]
    """
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("L")
    small = image.resize((_CELLS, _CELLS), Image.Resampling.BOX)
    gray = np.asarray(small, np.float32)
    across = gray.reshape(8, 9, 9, 8).mean((1, 3))
    down = gray.reshape(9, 8, 8, 9).mean((1, 3))
    bits = np.concatenate(
        [(across[:, 1:] > across[:, :-1]).ravel(), (down[1:] > down[:-1]).ravel()]
    )
    thumb = gray.reshape(_SIDE, 4, _SIDE, 4).mean((1, 3))
    return np.packbits(bits), thumb.round().astype(np.uint8).ravel()


def near_pairs(
    hashes: Hashes, thumbs: Thumbs, least: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """All pairs of near pictures, each once, the lower number first: [M, 2].

    If 128 bits are cut into 13 bands, two hashes that differ by 12 bits agree in one at least: so
    only pictures that share a band are compared (multi-index hashing, Norouzi 2012,
    arXiv:1307.2982), which finds every pair within the bound without comparing all with all. Of
    pictures with one and the same hash each is compared with the next.

    Shape: hashes [N, 16], thumbs [N, 324], least [N], the correlation that each asks for
    """
    if len(hashes) < 2:
        return np.empty((0, 2), np.int64)
    unique, where = np.unique(hashes, axis=0, return_inverse=True)
    where = where.reshape(-1)
    found = [np.empty((0, 2), np.int64)]
    found += list(_same(where))
    most = MOST_BITS if len(unique) <= _MANY else MOST_BITS_OF_MANY
    words = np.ascontiguousarray(unique).view(np.uint64)
    members = _members(where, len(unique))
    close = [np.empty((0, 2), np.int64), *_close(unique, words, most)]
    for first, second in np.unique(np.concatenate(close), axis=0).tolist():
        pairs = np.stack(np.meshgrid(members[first], members[second]), axis=-1).reshape(-1, 2)
        found.append(np.sort(pairs, axis=1))
    pairs = np.concatenate(found)
    kept = pairs[_correlated(thumbs, pairs, least)]
    return np.unique(kept, axis=0)


def _members(where: npt.NDArray[np.int64], num: int) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(where, kind="stable")
    cuts = np.searchsorted(where[order], np.arange(1, num))
    return list(np.split(order, cuts))


def _same(where: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Pictures with one hash, each with the next."""
    order = np.argsort(where, kind="stable")
    alike = where[order][1:] == where[order][:-1]
    yield np.stack([order[:-1][alike], order[1:][alike]], axis=1)


def _close(
    unique: Hashes, words: npt.NDArray[np.uint64], most: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs of different hashes that differ by at most so many bits."""
    bits = np.unpackbits(unique, axis=1)
    for band in np.array_split(np.arange(_BITS), most + 1):
        keys = bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left = np.arange(len(order) - 1)
        step = 1
        while left.size:  # neighbours at distance 1, 2, ... as long as they share the band
            left = left[left + step < len(order)]
            left = left[keys[left] == keys[left + step]]
            for part in range(0, len(left), _PAIRS_AT_ONCE):
                one = order[left[part : part + _PAIRS_AT_ONCE]]
                other = order[left[part : part + _PAIRS_AT_ONCE] + step]
                near = count_bits(words[one] ^ words[other]) <= most
                pairs = np.stack([one[near], other[near]], axis=1)
                yield np.sort(pairs, axis=1)
            step += 1


def count_bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """How many bits are set in each row."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words).sum(1, dtype=np.int64))
    return np.asarray(np.unpackbits(words.view(np.uint8), axis=1).sum(1, dtype=np.int64))


def _correlated(
    thumbs: Thumbs, pairs: npt.NDArray[np.int64], least: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Whether the thumbnails of each pair are alike up to brightness and contrast."""
    kept = []
    for part in range(0, len(pairs), 2**16):
        sides = [thumbs[pairs[part : part + 2**16, side]].astype(np.float32) for side in (0, 1)]
        sides = [side - side.mean(1, keepdims=True) for side in sides]
        lengths = [np.linalg.norm(side, axis=1) for side in sides]
        # A picture of one colour correlates with nothing: it is near another that has none either.
        flat = (lengths[0] < _SIDE) & (lengths[1] < _SIDE)
        close = (
            np.abs(
                thumbs[pairs[part : part + 2**16, 0]].astype(int).mean(1)
                - thumbs[pairs[part : part + 2**16, 1]].astype(int).mean(1)
            )
            < 2
        )
        wanted = least[pairs[part : part + 2**16]].min(1)
        product = (sides[0] * sides[1]).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-6)
        kept.append(np.where(flat, close, product >= wanted))
    return np.concatenate(kept) if kept else np.empty(0, bool)


def groups(pairs: npt.NDArray[np.int64], num: int) -> list[list[int]]:
    """Images joined by pairs, directly or through others; in the order of their first."""
    parent = np.arange(num)

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = int(parent[image])
        return image

    for first, second in pairs.tolist():
        one, other = sorted((root(first), root(second)))
        parent[other] = one
    joined: dict[int, list[int]] = {}
    for image in np.unique(pairs).tolist():
        joined.setdefault(root(image), []).append(image)
    return [joined[first] for first in sorted(joined)]
