"""The contact sheet: its cells hold the originals and the draws, with masks and boxes over them."""

import numpy as np
import torch

from toque import augment
from toque.augment.sheet import contact_sheet


def test_the_first_column_is_the_original_and_the_others_its_draws():
    images = [torch.full((3, 64, 96), 40 * (n + 1), dtype=torch.uint8) for n in range(3)]
    pipeline = augment.Compose(
        [augment.CenterCrop(64), augment.RandomInvert(1.0), augment.Normalize((0.5,), (0.5,))]
    )
    sheet = np.asarray(contact_sheet(pipeline, images, num_draws=2))
    cell, row = 198, 246
    assert sheet.shape == (3 * row, 3 * cell, 3)
    for n in range(3):
        assert (sheet[n * row + 60, 60] == 40 * (n + 1)).all()
        for draw in (1, 2):
            assert (sheet[n * row + 60, draw * cell + 60] == 255 - 40 * (n + 1)).all()
        words = sheet[n * row + 192 : (n + 1) * row, cell : 2 * cell]
        assert (words < 128).any()  # what was drawn, in black


def test_masks_and_boxes_are_drawn_over():
    images = [torch.zeros(1, 64, 64, dtype=torch.uint8)]
    masks = torch.zeros(1, 64, 64, dtype=torch.long)
    masks[:, :, 32:] = 1
    boxes = [torch.tensor([[8.0, 8, 24, 24]])]
    flip = augment.Compose([augment.RandomHorizontalFlip(1.0)])
    sheet = np.asarray(contact_sheet(flip, images, num_draws=1, masks=masks, boxes=boxes)).astype(
        int
    )
    scale, cell = 3, 198
    assert sheet[20 * scale, 50 * scale, 0] > 80 and sheet[20 * scale, 3 * scale, 0] == 0
    assert (
        sheet[50 * scale, cell + 10 * scale, 0] > 80
        and sheet[50 * scale, cell + 50 * scale, 0] == 0
    )
    assert (sheet[8 * scale + 1, 16 * scale] == [255, 0, 0]).all()
    assert (sheet[8 * scale + 1, cell + (64 - 16) * scale] == [255, 0, 0]).all()
