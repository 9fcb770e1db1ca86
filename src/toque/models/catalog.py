"""Models by name: toque's own, timm's, torchvision's, and functions of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, cast

from torch import nn

from toque import checks
from toque.models import surgery
from toque.models.classifier import Classifier
from toque.models.description import describe
from toque.models.fetching import fetched
from toque.models.fpn import FPN, Maps

# Name -> (module of toque.models, function): nothing is imported before it is asked for.
_OWN = {
    "airbench94": ("airbench", "airbench94"),
    "fpn_resnet18": ("fpn", "fpn_resnet18"),
    "googlenet": ("googlenet", "googlenet"),
    "mobileone_s0": ("mobileone", "mobileone_s0"),
    "repvgg_a0": ("repvgg", "repvgg_a0"),
    "repvgg_a1": ("repvgg", "repvgg_a1"),
    "repvgg_b0": ("repvgg", "repvgg_b0"),
    "resnet10_small": ("resnet", "resnet10_small"),
    "resnet18": ("resnet", "resnet18"),
    "resnet20_small": ("resnet", "resnet20_small"),
    "resnet34": ("resnet", "resnet34"),
    "resnet50": ("resnet", "resnet50"),
    "resnet101": ("resnet", "resnet101"),
    "unet": ("unet", "unet"),
    "unet_attention": ("unet", "unet_attention"),
    "unet_small": ("unet", "unet_small"),
    "vit_small": ("vit", "vit_small"),
    "vit_tiny": ("vit", "vit_tiny"),
}

# The same architecture elsewhere (tests/models hold them equal), whose weights fit ours.
_SAME_AS = {
    "mobileone_s0": "timm/mobileone_s0",
    "repvgg_a0": "timm/repvgg_a0",
    "repvgg_a1": "timm/repvgg_a1",
    "repvgg_b0": "timm/repvgg_b0",
    "resnet18": "torchvision/resnet18",
    "resnet34": "torchvision/resnet34",
    "resnet50": "torchvision/resnet50",
    "resnet101": "torchvision/resnet101",
}
# torchvision's pretrained GoogLeNet and Inception come with extra heads that training would use.
_NO_EXTRA_HEADS = {"aux_logits": False, "aux1": None, "aux2": None, "AuxLogits": None}

_OVER = "toque/fpn+"


def create(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    image_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """A model by its name.

    Weights are drawn from torch's generator (`toque.random.seed_torch` before makes them a function
    of a seed), or loaded where `pretrained` is asked for and the catalogue has them.

    Args:    name: "toque/NAME" or NAME, "timm/NAME", "torchvision/NAME", or
             "package.module:function" for a function of your own that takes num_classes and as many
             of the other settings as it likes; "toque/fpn+timm/NAME" is an FPN over that backbone
             num_classes: outputs of the last layer
             in_channels: channels of the images
             pretrained: weights trained on ImageNet, which timm and torchvision download; models of
             toque's that have the architecture of one of theirs take its weights
             image_size: height and width in pixels, for models built for one size
    Raises:  ValueError: unknown name, with the nearest names; pretrained where there are no weights
             ImportError: timm or torchvision is not installed
             OSError: weights that are not here and cannot be downloaded
    Example: >>> create("toque/resnet10_small", num_classes=10, in_channels=1)
    """
    if num_classes < 0 or in_channels < 1:
        raise checks.invalid(
            "create", "num_classes, in_channels", ">= 0 and >= 1", (num_classes, in_channels),
            "Give the number of classes and of image channels.",
        )  # fmt: skip
    settings: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    if ":" in name:
        return _own_function(name, {**settings, "pretrained": pretrained, "image_size": image_size})
    if name.startswith(_OVER):
        backbone = _maps(name.removeprefix(_OVER), in_channels, pretrained)
        return FPN(backbone, num_classes=num_classes, in_channels=in_channels)
    catalogue, _, short = name.rpartition("/")
    if catalogue in ("", "toque"):
        return _toque(short, settings, pretrained, image_size)
    if catalogue == "timm":
        return _timm(short, num_classes, in_channels, pretrained, image_size)
    if catalogue == "torchvision":
        return _torchvision(short, num_classes, in_channels, pretrained, image_size)
    raise checks.invalid(
        "create", "name", "toque/NAME, timm/NAME, torchvision/NAME or package.module:function",
        repr(name), "Say which catalogue it is from.",
    )  # fmt: skip


def names() -> list[str]:
    """The names of toque's own models, as `create` takes them."""
    return [f"toque/{name}" for name in _OWN]


def has_weights(name: str) -> bool:
    """Whether `create` may find published weights for that name; timm's and torchvision's do not
    all have some, and are not asked here."""
    catalogue, _, short = name.rpartition("/")
    return catalogue in ("timm", "torchvision") or (
        catalogue in ("", "toque") and short in _SAME_AS
    )


@dataclass(frozen=True)
class Size:
    """How large a model is: parameters, FLOPs of one image, and the image, as in 3x224x224."""

    parameters: int
    flops: int
    input: str


def matching(pattern: str) -> list[str]:
    """The names that match a glob; a bare one is toque's. timm and torchvision only if named."""
    catalogue, _, _ = pattern.rpartition("/")
    known = names()
    if catalogue == "timm":
        known = [f"timm/{name}" for name in _catalogue("timm").list_models()]
    elif catalogue == "torchvision":
        models = _catalogue("torchvision.models")
        known = [f"torchvision/{name}" for name in models.list_models(module=models)]
    elif not catalogue:
        pattern = f"toque/{pattern}"
    return [name for name in known if fnmatchcase(name, pattern)]


def size(name: str, *, num_classes: int) -> Size:
    """Parameters and operations of a model for three channels at the size it is made for."""
    side = _side(name)
    model = create(name, num_classes=num_classes)
    described = describe(model, [1, 3, side, side]).root
    return Size(described.parameters, described.flops, f"3x{side}x{side}")


def _side(name: str) -> int:
    catalogue, _, short = name.rpartition("/")
    if catalogue == "timm":
        return int(_catalogue("timm").get_pretrained_cfg(short).input_size[-1])
    if "small" in short or short == "airbench94":
        return 32 if short.startswith(("resnet", "airbench")) else 224
    return 299 if short == "inception_v3" else 224


def _toque(
    name: str, settings: dict[str, Any], pretrained: bool, image_size: int | tuple[int, int] | None
) -> nn.Module:
    if name not in _OWN:
        raise _unknown("toque", name, [*_OWN, *_known_elsewhere(name)])
    if pretrained and name not in _SAME_AS:
        raise checks.invalid(
            "create", "pretrained", f"False for toque/{name}, which has no weights", True,
            f"With weights: {', '.join(sorted(_SAME_AS))}; or take a model of timm or torchvision.",
        )  # fmt: skip
    module, function = _OWN[name]
    build = getattr(importlib.import_module(f"toque.models.{module}"), function)
    if image_size is not None and "image_size" in inspect.signature(build).parameters:
        settings["image_size"] = image_size
    model: nn.Module = build(**settings)
    if pretrained:
        theirs = create(_SAME_AS[name], pretrained=True, **settings).state_dict()
        # Both register their layers in the order of use, so the n-th tensor of one is the other's.
        model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    return model


def _maps(name: str, in_channels: int, pretrained: bool) -> nn.Module:
    """A backbone that returns its maps: one of timm's, or one of our classifiers."""
    catalogue, _, short = name.rpartition("/")
    if catalogue == "timm":
        timm = _catalogue("timm")
        if not timm.is_model(short):
            raise _unknown("timm", short, timm.list_models())
        with fetched(name, pretrained):
            model = timm.create_model(
                short, features_only=True, in_chans=in_channels, pretrained=pretrained
            )
        return cast(nn.Module, model)
    model = create(name, num_classes=0, in_channels=in_channels, pretrained=pretrained)
    if not isinstance(model, Classifier):
        raise checks.invalid(
            "create", "name", f"{_OVER}BACKBONE with a classifier of toque's or timm's", repr(name),
            "Take a residual network.",
        )  # fmt: skip
    return Maps(model)


def _unknown(catalogue: str, name: str, known: Iterable[str]) -> checks.InvalidValue:
    return checks.invalid(
        "create", "name", f"a model of {catalogue}", repr(name), checks.nearest(name, known)
    )


def _known_elsewhere(name: str) -> list[str]:
    """ "timm/NAME", "torchvision/NAME": where those are installed and know the name."""
    found = []
    if importlib.util.find_spec("timm") and _catalogue("timm").is_model(name):
        found.append(f"timm/{name}")
    if importlib.util.find_spec("torchvision"):
        models = _catalogue("torchvision.models")
        if name in models.list_models(module=models):
            found.append(f"torchvision/{name}")
    return found


def _timm(
    name: str,
    num_classes: int,
    in_channels: int,
    pretrained: bool,
    image_size: int | tuple[int, int] | None,
) -> nn.Module:
    timm = _catalogue("timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    arguments = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained}
    with fetched(f"timm/{name}", pretrained):
        if image_size is not None:
            # Only models built for one size (transformers, mostly) take img_size; the rest follow.
            try:
                return cast(nn.Module, timm.create_model(name, img_size=image_size, **arguments))
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
        return cast(nn.Module, timm.create_model(name, **arguments))


def _torchvision(
    name: str,
    num_classes: int,
    in_channels: int,
    pretrained: bool,
    image_size: int | tuple[int, int] | None,
) -> nn.Module:
    models = _catalogue("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    arguments: dict[str, Any] = {}
    if "googlenet" in name or "inception" in name:
        arguments = {"aux_logits": bool(pretrained), "init_weights": not pretrained}
    if image_size is not None and name.startswith("vit"):
        arguments["image_size"] = image_size
    with fetched(f"torchvision/{name}", pretrained):
        model: nn.Module = models.get_model(
            name, weights="DEFAULT" if pretrained else None, **arguments
        )
    if getattr(model, "aux_logits", False):
        for attribute, off in _NO_EXTRA_HEADS.items():
            if hasattr(model, attribute):
                setattr(model, attribute, off)
    surgery.replace_head(model, num_classes)
    surgery.adapt_input(model, in_channels)
    return model


def _own_function(name: str, settings: dict[str, Any]) -> nn.Module:
    where, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise checks.invalid(
            "create", "name", "package.module:function with a module that can be imported",
            repr(name), f"{error}; put its folder on PYTHONPATH or install it.",
        ) from error  # fmt: skip
    function = getattr(module, function_name, None)
    if not callable(function):
        raise checks.invalid(
            "create", "name", f"a function of {where}", repr(function_name),
            checks.nearest(function_name, vars(module)),
        )  # fmt: skip
    model = function(**_accepted(function, settings))
    if not isinstance(model, nn.Module):
        raise checks.invalid_type(
            "create", name, "a function that returns an nn.Module", type(model).__name__,
            "Return the model.",
        )  # fmt: skip
    return model


def _accepted(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings the function has a parameter for; all of them if it takes any keyword."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return settings
    return {key: value for key, value in settings.items() if key in parameters}


class MissingCatalogue(checks.UserMistake, ImportError):
    """timm or torchvision is not installed."""


def _catalogue(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingCatalogue(
            f"create: {package} must be installed for its models; got {error}. "
            f"pip install 'toque[zoo]'"
        ) from error
