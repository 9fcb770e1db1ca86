"""Output memory: of the right form, aligned, used again, and never while somebody looks."""

import pytest
import torch

from toque.data.buffers import Buffers, Form


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_form_is_kept(dtype, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    like = torch.empty(4, 3, 5, 7, dtype=dtype, memory_format=memory_format)
    form = Form.of(like)
    assert form == Form((3, 5, 7), dtype, channels_last)
    for num_images in (4, 1, 3):
        taken = Buffers(form, 4, kept=2).take(num_images)
        assert taken.shape == (num_images, 3, 5, 7) and taken.dtype == dtype
        assert taken.is_contiguous(memory_format=memory_format)
        assert taken.data_ptr() % 64 == 0


def test_memory_is_used_again_when_the_last_view_is_gone():
    buffers = Buffers(Form((1, 2, 2), torch.float32, False), 8, kept=2)
    first = buffers.take(8)
    place = first.data_ptr()
    view = first[2:4].flatten()
    del first
    second = buffers.take(8)
    assert second.data_ptr() != place
    del view
    assert buffers.take(5).data_ptr() == place


def test_only_so_many_are_kept():
    buffers = Buffers(Form((1, 2, 2), torch.float32, False), 8, kept=2)
    lent = [buffers.take(8) for _ in range(5)]
    places = {one.data_ptr() for one in lent}
    assert len(places) == 5
    lent.clear()
    assert len(buffers._free) == 2


def test_memory_outlives_the_buffers():
    kept = Buffers(Form((1, 2, 2), torch.float32, False), 8, kept=2).take(8)
    kept.fill_(3)
    assert (kept == 3).all()
