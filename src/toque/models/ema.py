"""A moving average of a model's weights, counted in images.

The average after T images is the exponentially weighted mean of the weights seen so far and of
nothing else: the random weights at the start have no part in it (bias correction).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from toque import checks


class EMA:
    """Exponential moving average of the parameters; buffers are copied as they are.

    With the decay d = 2^(-images / half_life) of one update and D the product of all decays so far,
    the update is  average += (1 - d) / (1 - D) * (weights - average),  so the first update copies
    the weights and no warm-up has to be tuned. D follows from the number of images alone, which is
    why a resumed average continues in the same bits.

    Args:    model: the model to follow; its weights are copied, nothing is hooked
             half_life_images: after so many images a weight counts half
    Raises:  ValueError: half_life_images <= 0, another model than the one followed
    Source:  bias correction as in Kingma & Ba 2014, arXiv:1412.6980, section 3; averaging over
             images instead of steps as in Karras 2023, arXiv:2312.02696, section 3
    Example: >>> ema = EMA(model, half_life_images=20_000)
             >>> ema.update(model, images=128)     # after each optimiser step
             >>> evaluate(ema.model)
    """

    def __init__(self, model: nn.Module, half_life_images: float) -> None:
        if not half_life_images > 0:
            raise checks.invalid(
                "EMA", "half_life_images", "> 0", half_life_images, "Give a number of images."
            )
        self.half_life_images = float(half_life_images)
        self.images = 0
        self._parameters = {
            name: parameter.detach().clone() for name, parameter in _parameters(model).items()
        }
        self._buffers = {name: buffer.detach().clone() for name, buffer in _buffers(model).items()}
        self._template = model
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """A copy of the model that holds the average, in evaluation mode.

        It is made when first asked for, shares its memory with the average, and so follows every
        later update.
        """
        if self._model is None:
            with torch.no_grad():
                self._model = copy.deepcopy(self._template).eval().requires_grad_(False)
                for name, parameter in _parameters(self._model).items():
                    parameter.data = self._parameters[name]
                for name, buffer in _buffers(self._model).items():
                    buffer.data = self._buffers[name]
        return self._model

    @torch.no_grad()
    def update(self, model: nn.Module, images: int) -> None:
        """Bring the weights of `model`, reached after `images` more images, into the average."""
        if images <= 0:
            raise checks.invalid("EMA.update", "images", "> 0", images, "Count the batch's images.")
        self.images += images
        new = 1.0 - 2.0 ** (-images / self.half_life_images)
        seen = 1.0 - 2.0 ** (-self.images / self.half_life_images)
        weights = self._matching(self._parameters, _parameters(model), "parameters")
        buffers = self._matching(self._buffers, _buffers(model), "buffers")
        averages = list(self._parameters.values())
        if averages:
            torch._foreach_lerp_(averages, weights, new / seen)
        if buffers:
            torch._foreach_copy_(list(self._buffers.values()), buffers)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """`model` itself with the average inside, for models that cannot be copied (FSDP2).

        On leaving, the model has its own weights again, bit for bit.
        """
        _reshard(model)
        pairs = [
            *zip(_parameters(model).values(), self._parameters.values(), strict=True),
            *zip(_buffers(model).values(), self._buffers.values(), strict=True),
        ]
        with torch.no_grad():
            own = [tensor.detach().clone() for tensor, _ in pairs]
            for tensor, average in pairs:
                tensor.copy_(average)
        try:
            yield model
        finally:
            _reshard(model)
            with torch.no_grad():
                for (tensor, _), before in zip(pairs, own, strict=True):
                    tensor.copy_(before)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average and the count of images, as plain tensors."""
        state = {f"parameters.{name}": tensor for name, tensor in self._parameters.items()}
        state.update({f"buffers.{name}": tensor for name, tensor in self._buffers.items()})
        state["images"] = torch.tensor(self.images, dtype=torch.int64)
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state_dict()`; every tensor must be there with its shape."""
        own = self.state_dict()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                got = list(state[name].shape) if name in state else "nothing"
                raise checks.invalid(
                    "EMA.load_state_dict", name, f"of shape {list(tensor.shape)}", got,
                    "Load the average of the same model.",
                )  # fmt: skip
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.images = int(state["images"])

    def _matching(
        self, own: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], kind: str
    ) -> list[torch.Tensor]:
        if own.keys() != theirs.keys():
            other = sorted(own.keys() ^ theirs.keys())
            raise checks.invalid(
                "EMA.update", kind, "those of the model followed", f"also or not {other[:3]}",
                "Make the average anew after surgery on the model.",
            )  # fmt: skip
        return [theirs[name] for name in own]


def _reshard(model: nn.Module) -> None:
    """Give up what FSDP2 gathered for a forward pass: those tensors are not the model's own."""
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()


def _plain(name: str) -> str:
    # torch.compile and DDP put a word before every name; the average belongs to the model inside.
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {_plain(name): parameter for name, parameter in model.named_parameters()}


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {_plain(name): buffer for name, buffer in model.named_buffers()}
