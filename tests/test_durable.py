"""Hashes of files read in pieces, and text that is written whole."""

import hashlib
import json
import os

import pytest

from toque import durable


@pytest.mark.parametrize("num_bytes", range(10))
def test_the_hash_is_that_of_the_whole_file(tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(durable, "_BLOCK_BYTES", 4)
    content = bytes(range(1, num_bytes + 1))
    (tmp_path / "file").write_bytes(content)
    assert durable.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_names_that_are_no_text_are_written_so_that_json_has_them_again(tmp_path):
    name = os.fsdecode(b"b\xffd.jpg")
    durable.write(tmp_path / "file", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"name": name}
