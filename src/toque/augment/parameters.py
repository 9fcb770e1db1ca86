"""What was drawn for a batch: to be looked at, stored, replayed and sliced.

Shape letters: B images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from toque import checks
from toque.augment.transform import Draw


@dataclass(frozen=True, eq=False)
class Parameters:
    """The draws of a pipeline for B images, one mapping of tensors [B, ...] for each transform.

    They do not depend on the sizes of the images: the same parameters serve for any.

    Args:    num_images: B
             draws: in the order of the transforms, on the CPU
    Example: >>> parameters = pipeline.draw(key)
             >>> first_half = parameters[: len(parameters) // 2]
    """

    num_images: int
    draws: tuple[Draw, ...]

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, images: slice | int) -> Parameters:
        """The parameters of some of the images."""
        if isinstance(images, int):
            at = range(self.num_images)[images]
            images = slice(at, at + 1)
        return Parameters(
            len(range(*images.indices(self.num_images))),
            tuple({name: values[images] for name, values in draw.items()} for draw in self.draws),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors under names like "0.area", as safetensors or torch.save store them."""
        named = {
            f"{number}.{name}": values.contiguous()  # safetensors takes no others
            for number, draw in enumerate(self.draws)
            for name, values in draw.items()
        }
        return {**named, "num": torch.tensor([self.num_images, len(self.draws)])}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Parameters:
        """What `tensors` gave, read back."""
        if "num" not in tensors:
            raise checks.invalid(
                "Parameters.from_tensors", "tensors", "what Parameters.tensors() gave",
                sorted(tensors)[:3], "Store and load that mapping whole.",
            )  # fmt: skip
        num_images, num_draws = tensors["num"].tolist()
        draws: list[dict[str, torch.Tensor]] = [{} for _ in range(num_draws)]
        for name, values in tensors.items():
            number, _, field = name.partition(".")
            if field:
                draws[int(number)][field] = values
        return cls(num_images, tuple(draws))
