"""Keys and the draws made from them: the only source of randomness in toque.

A draw is a pure function of (seed, epoch, image index, stream, position). Nothing is stored between
draws, so the same image in the same epoch gets the same numbers on any batch size, in any order, on
any number of threads or ranks, and after any number of restarts.

Shape letters: B images, n numbers per image.
Source:        Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
"""

from __future__ import annotations

import functools
import hashlib
import math
import random as python_random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toque import checks

_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
# Multipliers and key increments of Philox4x32 (Salmon 2011, section 3.3 and the Random123 sources).
_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10


def philox(
    counter: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    key: tuple[int, int] | tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Philox4x32-10: four 32-bit counter words and a 64-bit key -> four random 32-bit words.

    Shape:  each counter word and key word [...], broadcastable -> four words of the broadcast shape
    Dtype:  uint64 holding 32-bit values, in and out
    Source: Salmon 2011; checked against the Random123 known-answer vectors
    """
    word0, word1, word2, word3 = counter
    key0, key1 = np.asarray(key[0], np.uint64), np.asarray(key[1], np.uint64)
    for _ in range(_ROUNDS):
        product0 = word0 * _MULTIPLY_0
        product1 = word2 * _MULTIPLY_1
        word0 = (product1 >> _SHIFT_32) ^ word1 ^ key0
        word1 = product1 & _LOW_32
        word2 = (product0 >> _SHIFT_32) ^ word3 ^ key1
        word3 = product0 & _LOW_32
        key0 = (key0 + _WEYL_0) & _LOW_32
        key1 = (key1 + _WEYL_1) & _LOW_32
    return word0, word1, word2, word3


def _digest(size_bytes: int, *parts: int | str) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size_bytes).digest(), "little")


@functools.lru_cache(maxsize=4096)
def _stream_key(seed: int, stream: str) -> tuple[int, int]:
    mixed = _digest(8, seed, stream)
    return mixed & 0xFFFFFFFF, mixed >> 32


Sweep = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""What draws for many images and streams at once: sweep_blocks, or the same in another language."""


def sweep_blocks(
    indices: np.ndarray, epochs: np.ndarray, keys: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """Four numbers in [0, 1) for each image and each of N blocks: multiples of 2**-24.

    Shape: indices, epochs [B], keys [N, 2], number (of the block in its stream) [N] -> [B, N, 4]
    Dtype: int64, int64, uint64 (32-bit words), uint64 -> float32
    """
    index = indices.astype(np.uint64)[:, None]
    epoch = epochs.astype(np.uint64)[:, None]
    counter = (index & _LOW_32, index >> _SHIFT_32, epoch, number[None, :])
    words = np.stack(philox(counter, (keys[:, 0], keys[:, 1])), axis=-1)
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


@functools.lru_cache(maxsize=256)
def _layout(
    seed: int, streams: tuple[tuple[str, int], ...]
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Key [N, 2] and number [N] of each block of a sweep, and where each stream begins in it."""
    blocks = [-(-n // 4) for _, n in streams]
    keys = np.array([_stream_key(seed, stream) for stream, _ in streams], dtype=np.uint64)
    number = np.concatenate([np.arange(n) for n in blocks] or [np.arange(0)]).astype(np.uint64)
    starts = tuple(4 * sum(blocks[:n]) for n in range(len(blocks)))
    return np.repeat(keys.reshape(-1, 2), blocks, axis=0), number, starts


_Integers = int | Sequence[int] | np.ndarray | torch.Tensor


def _integers(argument: str, values: _Integers) -> np.ndarray:
    array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise checks.invalid_type("Key", argument, "integers", array.dtype, "Give image numbers.")
    return array.astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class Key:
    """The identity of B images in their epochs of one run, from which every draw for them follows.

    `stream` names in the draws keep uses apart: two transforms that use different streams get
    independent numbers, and adding a transform does not change the draws of the others.

    Args:    seed: any integer
             epoch: 0 to 2**32 - 1; one number, or one for each image [B], for a batch that holds
             the last images of one epoch and the first of the next
             indices: index of each image in its dataset, integers >= 0, [B] (tensor, array or list)
    Raises:  ValueError: indices of another rank or negative, epoch out of range
             TypeError: indices that are not integers
    Example: >>> key = Key(seed=0, epoch=3, indices=[7, 8])
             >>> key.uniform("flip").shape
             torch.Size([2, 1])
    """

    seed: int
    epoch: np.ndarray
    indices: np.ndarray

    def __init__(self, seed: int, epoch: _Integers, indices: _Integers) -> None:
        images = _integers("indices", indices)
        epochs = _integers("epoch", epoch)
        if images.ndim != 1:
            raise checks.invalid(
                "Key", "indices", "of shape [B]", list(images.shape), "Give one index per image."
            )
        if epochs.ndim > 1 or epochs.size not in (1, images.size):
            raise checks.invalid(
                "Key", "epoch", f"one number or of shape [{images.size}]", list(epochs.shape),
                "Give one epoch for all images, or one per image.",
            )  # fmt: skip
        if images.size and int(images.min()) < 0:
            raise checks.invalid(
                "Key", "indices", ">= 0", int(images.min()), "Count images from 0."
            )
        if epochs.size and not (int(epochs.min()) >= 0 and int(epochs.max()) < 2**32):
            raise checks.invalid("Key", "epoch", "in 0 .. 2**32 - 1", epoch, "Count epochs from 0.")
        object.__setattr__(self, "seed", int(seed))
        object.__setattr__(self, "epoch", np.broadcast_to(epochs.reshape(-1), images.shape))
        object.__setattr__(self, "indices", images)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, images: slice) -> Key:
        """The key of a slice of the images; its draws are the same slice of this key's draws."""
        return Key(self.seed, self.epoch[images], self.indices[images])

    def bits(self, stream: str, n: int = 1) -> np.ndarray:
        """n random 32-bit words per image: [B, n] uint32."""
        blocks = -(-n // 4)
        index, epoch = (part.astype(np.uint64)[:, None] for part in (self.indices, self.epoch))
        block = np.arange(blocks, dtype=np.uint64)
        counter = (index & _LOW_32, index >> _SHIFT_32, epoch, block)
        words = philox(counter, _stream_key(self.seed, stream))
        return np.stack(words, axis=-1).reshape(len(self), 4 * blocks)[:, :n].astype(np.uint32)

    def uniforms(
        self, streams: Mapping[str, int], sweep: Sweep | None = None
    ) -> dict[str, np.ndarray]:
        """What `uniform` gives, for many streams (name -> n) at once: arrays of [B, n] float32.

        One sweep over all of them costs about as much as a single stream.

        Args: sweep: does what `sweep_blocks` does, in the same bits, faster
        """
        keys, number, starts = _layout(self.seed, tuple(streams.items()))
        drawn = (sweep or sweep_blocks)(self.indices, self.epoch, keys, number)
        numbers = drawn.reshape(len(self), 4 * len(number))
        return {
            stream: numbers[:, start : start + n]
            for (stream, n), start in zip(streams.items(), starts, strict=True)
        }

    def uniform(self, stream: str, n: int = 1) -> torch.Tensor:
        """n numbers in [0, 1) per image, multiples of 2**-24: [B, n] float32, on the CPU.

        They are always computed on the host (a few microseconds per image) and then moved, which is
        what makes them the same bits whatever the device.
        """
        words = self.bits(stream, n) >> np.uint32(8)
        return torch.from_numpy(words.astype(np.float32) * np.float32(2.0**-24))

    def integers(self, stream: str, low: int, high: int, n: int = 1) -> torch.Tensor:
        """n integers in low .. high - 1 per image: [B, n] int64.

        Raises: ValueError: high <= low, or a range above 2**24 (where the draw would be uneven)
        """
        if not 0 < high - low <= 2**24:
            raise checks.invalid(
                "Key.integers", "high - low", "in 1 .. 2**24", high - low, "Narrow the range."
            )
        return (self.uniform(stream, n).double() * (high - low)).floor().long() + low

    def normal(self, stream: str, n: int = 1) -> torch.Tensor:
        """n standard normal numbers per image (Box-Muller, computed in float64): [B, n] float32."""
        pairs = -(-n // 2)
        words = self.bits(stream, 2 * pairs).astype(np.float64).reshape(len(self), pairs, 2)
        # (w + 1) / 2**32 lies in (0, 1]: the logarithm is finite.
        radius = np.sqrt(-2.0 * np.log((words[..., 0] + 1.0) * 2.0**-32))
        angle = words[..., 1] * (2.0 * math.pi * 2.0**-32)
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        return torch.from_numpy(both.reshape(len(self), 2 * pairs)[:, :n].astype(np.float32))


_FEISTEL_ROUNDS = 12


def permutation(seed: int, epoch: int, size: int, start: int, stop: int) -> np.ndarray:
    """Positions start .. stop - 1 of a keyed permutation of 0 .. size - 1: int64 [stop - start].

    Any part costs time and memory in proportion to the part alone, also for a dataset of a billion
    images: nothing is shuffled in memory, so training may begin at any image.

    Raises: ValueError: not 0 <= start <= stop <= size
    Source: the generalised Feistel cipher of Black & Rogaway 2002, "Ciphers with arbitrary finite
            domains", with cycle walking; the round function is the splitmix64 finaliser
    """
    if not 0 <= start <= stop <= size:
        raise checks.invalid(
            "permutation", "start, stop", f"0 <= start <= stop <= {size}", (start, stop),
            "Ask for a part of the permutation.",
        )  # fmt: skip
    if start == stop:
        return np.empty(0, dtype=np.int64)
    left_size = max(1, math.isqrt(size - 1) + 1)
    right_size = -(-size // left_size)
    round_keys = [
        np.uint64(_digest(8, seed, "permutation", epoch, round_number))
        for round_number in range(_FEISTEL_ROUNDS)
    ]

    def encipher(positions: np.ndarray) -> np.ndarray:
        left, right = positions % np.uint64(left_size), positions // np.uint64(left_size)
        for number, round_key in enumerate(round_keys):
            modulus = left_size if number % 2 == 0 else right_size
            left, right = right, (left + _splitmix(right ^ round_key)) % np.uint64(modulus)
        return right * np.uint64(left_size) + left

    images = encipher(np.arange(start, stop, dtype=np.uint64))
    outside = np.flatnonzero(images >= size)
    while outside.size:  # walk the cycle until it comes back inside the dataset
        images[outside] = encipher(images[outside])
        outside = outside[images[outside] >= size]
    return images.astype(np.int64)


def placed(
    seed: int, stream: str, groups: Sequence[np.ndarray], sizes: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Each position in the keyed permutation of its own group: int64 [n].

    What `permutation` does for a part of one permutation, this does for single positions of many:
    element k stands at positions[k] of a permutation of 0 .. sizes[k] - 1, keyed by the seed, the
    stream and every groups[...][k].

    Shape:  groups each [n], sizes [n] >= 1, positions [n] in 0 .. sizes - 1
    Source: as permutation; the round keys are splitmix64 of the group's key and the round
    """
    size = sizes.astype(np.uint64)
    key = np.full(len(size), np.uint64(_digest(8, seed, "placed", stream)))
    for group in groups:
        key = _splitmix64(key ^ (group.astype(np.uint64) + np.uint64(1)))
    left_size = np.floor(np.sqrt(np.maximum(sizes - 1, 0).astype(np.float64))).astype(np.uint64)
    left_size += np.uint64(1)
    right_size = (size + left_size - np.uint64(1)) // left_size

    def encipher(values: np.ndarray, which: np.ndarray) -> np.ndarray:
        left, right = values % left_size[which], values // left_size[which]
        for number in range(_FEISTEL_ROUNDS):
            round_key = _splitmix64(key[which] + np.uint64(number))
            modulus = (left_size if number % 2 == 0 else right_size)[which]
            left, right = right, (left + _splitmix(right ^ round_key)) % modulus
        return np.asarray(right * left_size[which] + left)

    images = encipher(positions.astype(np.uint64), np.arange(len(size)))
    outside = np.flatnonzero(images >= size)
    while outside.size:  # walk the cycle until it comes back inside the group
        images[outside] = encipher(images[outside], outside)
        outside = outside[images[outside] >= size[outside]]
    return images.astype(np.int64)


def _splitmix64(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = words + np.uint64(_GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _splitmix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # 32 bits are kept, so that the sum with a position cannot overflow before the modulus.
    return (words ^ (words >> np.uint64(31))) >> _SHIFT_32


_GOLDEN, _WORD_64 = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF


def _seed_of(seed: int, stream: str, counts: tuple[int, ...]) -> int:
    """32 bits of (seed, stream, counts): the stream's key, then one splitmix64 round per count.

    In plain integers, because this runs at every step: hashing text costs ten times as much there.
    """
    low, high = _stream_key(seed, stream)
    mixed = low | high << 32
    for count in counts:
        mixed = ((mixed ^ (count & _WORD_64)) + _GOLDEN) & _WORD_64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD_64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD_64
        mixed ^= mixed >> 31
    return mixed >> 32


def seed_torch(seed: int, stream: str, *counts: int) -> None:
    """Reseed torch's own generators from a key, for what torch must draw itself (dropout, init).

    torch.manual_seed costs 120-420 microseconds on a CPU-only machine and the CPU generator ignores
    seed bits above 32; this costs a few and mixes the whole key into 32 bits.
    """
    mixed = _seed_of(seed, stream, counts)
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for generator in torch.cuda.default_generators:
            generator.manual_seed(mixed)


def seed_globals(seed: int, stream: str, *counts: int) -> None:
    """Reseed the global generators of torch, numpy and python, for the code of a user.

    For what cannot take a key, such as the random transforms inside a user's own
    Dataset.
    """
    seed_torch(seed, stream, *counts)
    mixed = _seed_of(seed, stream, counts)
    np.random.seed(mixed)
    python_random.seed(mixed)


@contextmanager
def kept_globals() -> Iterator[None]:
    """Give the global generators of torch (CPU), numpy and python back as they were found."""
    states = torch.get_rng_state(), np.random.get_state(), python_random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        python_random.setstate(states[2])


def torch_permutation(size: int, device: torch.device) -> torch.Tensor:
    """A random order of 0 .. size - 1 from torch's own generator, which the step reseeds."""
    return torch.randperm(size, device=device)
