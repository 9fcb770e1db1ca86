"""Hashes of files read in pieces."""

import hashlib

import pytest

from toque import durable


@pytest.mark.parametrize("num_bytes", range(10))
def test_the_hash_is_that_of_the_whole_file(tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(durable, "_BLOCK_BYTES", 4)
    content = bytes(range(1, num_bytes + 1))
    (tmp_path / "file").write_bytes(content)
    assert durable.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
