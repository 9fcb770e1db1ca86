"""Weights from a file into a model that is not quite the same, with an exact account of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from toque import checks

_PREFIXES = ("_orig_mod.", "module.")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "weights")


@dataclass(frozen=True)
class Loaded:
    """What `load` did with every tensor of the model and of the file.

    Args: loaded: names whose tensor was taken as it is
          adapted: names of which only a part could be taken, and how
          kept: names of the model that keep their own values, and why
          unused: names of the file that the model has no place for
    """

    loaded: tuple[str, ...]
    adapted: dict[str, str]
    kept: dict[str, str]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """In a line: "120 tensors loaded, conv1.weight adapted, fc.weight and 1 more kept"."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for names, what in (
            (tuple(self.adapted), "adapted"),
            (tuple(self.kept), "begin anew"),
            (self.unused, "not used"),
        ):
            if names:
                more = f" and {len(names) - 2} more" if len(names) > 2 else ""
                parts.append(f"{', '.join(names[:2])}{more} {what}")
        return "; ".join(parts)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        lines += [f"adapted {name}: {how}" for name, how in self.adapted.items()]
        lines += [f"kept {name}: {why}" for name, why in self.kept.items()]
        lines += [f"unused {name}" for name in self.unused]
        return "\n".join(lines)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as safetensors takes it: detached, on the CPU, contiguous, with memory of its own.

    safetensors refuses tensors that share storage, as tied weights do.
    """
    return tensor.detach().to("cpu", copy=True).contiguous()


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .pt/.pth file that holds nothing but tensors.

    Prefixes of wrappers (compile, DDP) and the usual tables around a state dict are taken off.

    Raises: FileNotFoundError: no such file
            ValueError: a pickle that could run code; a file that cannot be read
    """
    path = Path(path)
    if not path.is_file():
        raise checks.MissingFile(
            f"read: {path} must be a file of weights; there is none. Check it."
        )
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "unsupported" not in str(error).lower():
            raise _unreadable(path, error) from error
        raise checks.invalid(
            "read", str(path), "a file of plain tensors",
            "a pickle with other objects, which could run code when opened",
            "Save it again as .safetensors where you trust it: "
            "safetensors.torch.save_file(model.state_dict(), path).",
        ) from None  # fmt: skip
    except (RuntimeError, EOFError, OSError) as error:
        raise _unreadable(path, error) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in found.values()
    ):
        raise checks.invalid(
            "read", str(path), "a table of name -> tensor", type(found).__name__,
            "Save model.state_dict().",
        )  # fmt: skip
    return {_bare(name): tensor for name, tensor in found.items()}


def read_described(
    path: Path, *, device: str = "cpu", mend: str
) -> tuple[str, dict[str, torch.Tensor]]:
    """A weights file that toque wrote: the JSON that describes its model, and its tensors.

    Args:   mend: the sentence on how to get a whole file
    Raises: ValueError: a damaged file, or one without toque's description
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=device) as opened:
            described = (opened.metadata() or {}).get("toque")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise checks.invalid(
            "load", str(path), "a whole safetensors file", f"an error ({error})", mend
        ) from None
    if not _is_table(described):
        raise checks.invalid(
            "load", str(path), "a file of weights that toque wrote",
            "one without toque's metadata", mend,
        )  # fmt: skip
    assert described is not None
    return described, tensors


def _is_table(text: str | None) -> bool:
    try:
        return isinstance(json.loads(text or ""), dict)
    except ValueError:
        return False


def put_in(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, *, mend: str
) -> nn.Module:
    """Every tensor of a file into the model, which has exactly these; the same model.

    Args:   mend: the sentence on what to do if it has not
    Raises: ValueError: another architecture; the first difference is named
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise checks.invalid(
            "load", "the model", f"the one {path} was saved from",
            lines[1] if len(lines) > 1 else lines[0], mend,
        ) from None  # fmt: skip
    return model


@torch.no_grad()
def load(
    model: nn.Module, source: str | Path | Mapping[str, torch.Tensor], *, strict: bool = False
) -> Loaded:
    """Take over every weight that fits, in place, and report exactly what was and was not loaded.

    The first convolution adapts to other input channels (the mean over the file's channels, scaled
    to keep the answer to an image of equal channels). A last layer for other classes keeps its own
    values. Nothing is loaded if the file belongs to another architecture.

    Args:    source: a file (see `read`) or a state dict
             strict: every tensor must fit as it is
    Raises:  ValueError: less than half of the model's weights are in the source, also of those
             before its last layer; or strict and not all are: the first three mismatches and their
             number are named
    Example: >>> print(load(model, "weights.safetensors"))
    """
    given: Mapping[str, torch.Tensor] = (
        {_bare(name): tensor for name, tensor in source.items()}
        if isinstance(source, Mapping)
        else read(source)
    )
    own = model.state_dict()
    given = _within(given, own)
    first = _first_convolution(model)
    loaded, adapted, kept = [], {}, {}
    taken: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        if name not in given:
            kept[name] = "not in the file"
        elif given[name].shape == tensor.shape:
            loaded.append(name)
            taken[name] = given[name]
        elif name == first and _other_channels(tensor, given[name]):
            channels = tensor.shape[1]
            mean = given[name].float().sum(1, keepdim=True) / channels
            taken[name] = mean.expand_as(tensor).to(tensor.dtype)
            adapted[name] = f"{given[name].shape[1]} input channels made into {channels}"
        else:
            kept[name] = f"{_shape(tensor)} in the model, {_shape(given[name])} in the file"
    unused = tuple(name for name in given if name not in own)
    wrong = [f"{name}: {why}" for name, why in kept.items()]
    wrong += [f"{name}: not in the model" for name in unused]
    # Or the last layer aside: of a small network for many classes it is the larger part.
    last = next(reversed(own), "").rpartition(".")[0]
    body = [name for name in own if name.rpartition(".")[0] != last]
    foreign = not (_mostly(own, taken, own) or _mostly(own, taken, body))
    if foreign or (strict and (wrong or adapted)):
        raise checks.invalid(
            "load", "the weights", "those of the same architecture",
            f"{len(wrong) + len(adapted)} mismatches, the first: "
            + "; ".join([*wrong, *(f"{n}: {how}" for n, how in adapted.items())][:3]),
            "Create the model they were saved from.",
        )  # fmt: skip
    for name, tensor in taken.items():
        own[name].copy_(tensor)
    return Loaded(tuple(loaded), adapted, kept, unused)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {_bare(name): tensor for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> checks.InvalidValue:
    return checks.invalid(
        "read", str(path), "a whole file of weights", f"one that cannot be read ({error})",
        "It may be cut short; copy it again.",
    )  # fmt: skip


def _bare(name: str) -> str:
    while True:
        shorter = name
        for prefix in _PREFIXES:
            shorter = shorter.removeprefix(prefix)
        if shorter == name:
            return name
        name = shorter


def _within(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """The part of a file that is the model, where the file is of something around it: a module that
    keeps the network as an attribute (Lightning's usually call it "model.") names all of it so."""
    if any(name in own for name in given):
        return given
    firsts = dict.fromkeys(name.partition(".")[0] + "." for name in given)
    for first in firsts:
        inner = {
            name.removeprefix(first): tensor
            for name, tensor in given.items()
            if name.startswith(first)
        }
        if any(name in own for name in inner):
            return inner
    return given


def _mostly(
    own: Mapping[str, torch.Tensor], taken: Mapping[str, torch.Tensor], of: Iterable[str]
) -> bool:
    """Whether half of the numbers in these tensors, of which there are some, are taken."""
    names = list(of)
    numbers = sum(own[name].numel() for name in names)
    return bool(names) and 2 * sum(own[name].numel() for name in names if name in taken) >= numbers


def _first_convolution(model: nn.Module) -> str | None:
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return f"{path}.weight".lstrip(".") if module.groups == 1 else None
    return None


def _other_channels(own: torch.Tensor, given: torch.Tensor) -> bool:
    if own.ndim != given.ndim:
        return False
    return all(
        a == b for i, (a, b) in enumerate(zip(own.shape, given.shape, strict=True)) if i != 1
    )


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
