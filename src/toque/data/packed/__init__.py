"""The packed cache: decoded images in files that are mapped into memory."""

from toque.data.packed.format import is_cache
from toque.data.packed.packing import Packed, pack
from toque.data.packed.reading import PackedSource, damaged_files, open_packed

__all__ = ["Packed", "PackedSource", "damaged_files", "is_cache", "open_packed", "pack"]
