"""Batches that can be begun again from another image."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from toque.data import Batch


class Rewindable:
    """The batches from an image on, until `rewind` says another.

    Args: begin: the batches that start after so many images
          images_seen: where to start
    """

    def __init__(self, begin: Callable[[int], Generator[Batch]], images_seen: int) -> None:
        self._begin = begin
        self._batches = begin(images_seen)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def rewind(self, images_seen: int) -> None:
        """The next batch is the one that starts after `images_seen` images."""
        self._batches.close()
        self._batches = self._begin(images_seen)

    def close(self) -> None:
        """End the threads and processes behind it."""
        self._batches.close()
