"""A folder, and the cache that it was packed into."""

import pytest

from tests.data import pictures
from tests.data.packed.contents import varied
from toque.data import pack


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes of twelve images, of which the validation part is drawn."""
    files = {f"{'cat' if n % 2 else 'dog'}/{n:02}.jpg": varied(n) for n in range(24)}
    return pictures.tree(tmp_path / "photos", files)


@pytest.fixture
def cache(photos, tmp_path):
    """The folder packed, in several shards."""
    pack(photos, tmp_path / "cache", shard_bytes=6000, show="quiet")
    return tmp_path / "cache"
