"""A small pipeline, sources and a Dataset to test the loader with."""

import random

import numpy as np
import torch

from toque.data import Source


class Sampler:
    """Nearest-neighbour sampling of a shifted, perhaps mirrored grid: image by image, exact."""

    def __init__(self, size=(6, 5), channels_last=False):
        self.size = size
        self.channels_last = channels_last

    def draw(self, key):
        return torch.cat([key.uniform("shift", 2), key.uniform("flip")], dim=1)

    def apply(self, images, parameters, out=None):
        assert len(images) == len(parameters)
        sampled = torch.stack(
            [
                self.one(image, *drawn)
                for image, drawn in zip(images, parameters.tolist(), strict=True)
            ]
        )
        if self.channels_last:
            sampled = sampled.contiguous(memory_format=torch.channels_last)
        return sampled if out is None else out.copy_(sampled)

    def one(self, image, down, right, flip):
        height, width = image.shape[1:]
        rows = ((torch.arange(6) + down) * (height / 7)).long()
        columns = ((torch.arange(5) + right) * (width / 6)).long()
        sampled = image[:, rows][:, :, columns].float() / 255 + down
        return sampled.flip(2) if flip < 0.5 else sampled


class Anyhow(Sampler):
    """The same, without saying the size of its output."""

    def __init__(self):
        super().__init__(size=None)


class Sized(Source):
    """Images of different sizes whose pixels say their index; counts what is read."""

    classes = ("even", "odd")

    def __init__(self, num_images=41, bad=None):
        self.num_images = num_images
        self.bad = bad
        self.reads = 0

    @property
    def labels(self):
        return np.arange(self.num_images) % 2

    def __len__(self):
        return self.num_images

    def name(self, index):
        return str(index)

    def read(self, index):
        self.reads += 1
        if index == self.bad:
            raise ValueError(f"image {index} is bad")
        height, width = 7 + index % 5, 9 + index % 3
        pixels = np.arange(height * width * 3).reshape(height, width, 3) * 7 + index * 31
        return torch.from_numpy((pixels % 256).astype(np.uint8)).permute(2, 0, 1)

    def fingerprint(self):
        return "sized"


class RandomDataset(torch.utils.data.Dataset):
    """A user's Dataset that draws from every global generator."""

    def __init__(self, num_images=23, bad=None, varied=False):
        self.num_images = num_images
        self.bad = bad
        self.varied = varied

    def __len__(self):
        return self.num_images

    def __getitem__(self, index):
        if index == self.bad:
            raise LookupError(f"no image {index}")
        height = 8 + (index % 3 if self.varied else 0)
        image = torch.rand(3, height, 9)
        image[0, 0, 0] = float(np.random.rand())
        image[0, 0, 1] = random.random()
        image[0, 0, 2] = index
        return image, index % 4
