"""From resolved settings to what they name: pipelines, model, losses, device."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from toque import augment, checks, data, devices, models, random
from toque.data import Splits
from toque.train import resizing
from toque.train.measure import Loss
from toque.train.prepare import Own
from toque.train.run import Run
from toque.train.run_folder.folder import WEIGHTS, is_run_folder
from toque.train.tasks import Task
from toque.train.tasks import loss as loss_of


def pipelines(
    run: Run, splits: Splits, task: Task
) -> tuple[augment.Compose | None, augment.Compose | None]:
    """The training pipeline of the run's first images, and the validation pipeline; None for both
    if the caller's tensors are ready."""
    if run.augment == "off":
        return None, None
    assert run.image_size is not None
    evaluation = augment.preset(
        task.evaluation_preset, run.image_size, channels=splits.channels,
        channels_last=run.channels_last,
    )  # fmt: skip
    return training_pipeline(run, splits, resizing.sizes(run)[0]), evaluation


def training_pipeline(run: Run, splits: Splits, size_px: int) -> augment.Compose | None:
    """The pipeline of the training images where they have that size; None if they are ready."""
    if run.augment == "off":
        return None
    assert run.augment is not None
    return augment.preset(
        run.augment, size_px, channels=splits.channels, channels_last=run.channels_last
    )


def network(
    run: Run,
    splits: Splits,
    own: Own,
    task: Task,
    device: torch.device,
    say: Callable[[str], None] = lambda sentence: None,
) -> nn.Module:
    """The model, initialised from the seed alone, on its device.

    A module that the caller built comes with the weights it has. Weights of a file are put into
    either, as far as they fit, and what did not is told.

    Args:   say: told what was taken from a file of weights
    Raises: FileNotFoundError, ValueError: as `models.create` and `models.weights.load`
    """
    random.seed_torch(run.seed, "init")
    if isinstance(own.model, nn.Module):
        model = own.model
    elif own.model is not None:
        model = own.model()
    else:
        assert run.model is not None
        model = models.create(
            run.model,
            num_classes=task.num_outputs,
            in_channels=splits.channels,
            pretrained=run.pretrained is True,
            image_size=run.image_size,
        )
    if isinstance(run.pretrained, str):
        _begin_with(model, Path(run.pretrained), say)
    if run.augment != "off":
        assert run.image_size is not None
        task.check_model(model, run.image_size)
    model = model.to(device)
    if run.resize.from_px is not None:
        _check_sizes(model, run, splits.channels, task)
    return model.to(memory_format=torch.channels_last) if run.channels_last else model


def _begin_with(model: nn.Module, source: Path, say: Callable[[str], None]) -> None:
    """Put the weights of a file, or of a finished run, into the model as far as they fit."""
    file = source / WEIGHTS if is_run_folder(source) else source
    say(f"{file}: {models.weights.load(model, file).summary()}")


def _check_sizes(model: nn.Module, run: Run, channels: int, task: Task) -> None:
    """Raise ValueError where the model cannot take training images of every size."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for size in resizing.sizes(run):
        task.check_model(model, size)
        try:
            with torch.no_grad():
                model(torch.zeros(1, channels, size, size, device=device))
        except Exception as error:  # whatever a module of anybody's raises
            raise checks.invalid(
                "run.toml [resize]", "from_px", "a size that the model takes",
                f"{size} ({checks.first_line(error)})",
                "Leave it out, or choose a model that takes any size.",
            ) from None  # fmt: skip
    model.train(was_training)


def losses(run: Run, own: Own, task: Task, place: torch.device) -> tuple[Loss, Loss]:
    """The loss to minimise, and the one to validate with: the same, but without smoothing.

    Args:   place: the device of the outputs
    Raises: ValueError: as `tasks.loss.by_settings`; arguments for a loss of the caller's
    """
    if own.loss is None:
        return loss_of.by_settings(run, task, place)
    if run.loss.model_extra:
        raise checks.invalid(
            "run.toml [loss]", checks.first(run.loss.model_extra), "unset with a loss of your own",
            "a value", "Give your loss its arguments where you make it.",
        )  # fmt: skip
    return own.loss, own.loss


def device(name: str, local_rank: int = 0) -> torch.device:
    """The device by name; "auto" is CUDA where there is one, and each rank of a host has its own.

    Raises: ValueError: no such device here
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] in ("gpu", "nvidia"):
        raise checks.invalid(
            "run.toml", "device", "auto, cpu, cuda, cuda:1 or another device of torch", name,
            "Did you mean cuda?",
        )  # fmt: skip
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    device = devices.named("run.toml", name, 'Set device = "auto" or "cpu".')
    if device.type == "cuda":
        # Left alone, cuDNN picks its algorithms by timing them, and so its bits.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return device


def upload(device: torch.device, augments: bool = False) -> data.Upload | None:
    """What brings batches to a GPU while the one before is used there; None on a CPU."""
    return data.Upload(device, augments) if device.type == "cuda" else None


def augments_there(run: Run, device: torch.device) -> bool:
    """Whether training images are augmented on the device that trains, from their bytes."""
    if device.type != "cuda" or run.augment_on == "host":
        return False
    return run.augment_on == "device" or find_spec("triton") is not None
