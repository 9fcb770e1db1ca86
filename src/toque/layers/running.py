"""Which modules of a model are running, seen from inside their forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


@contextmanager
def modules_running(
    modules: Iterable[tuple[str, nn.Module]],
    enter: Callable[[str, nn.Module, tuple[Any, ...]], T],
    leave: Callable[[str, T, Any], None] = lambda path, kept, output: None,
) -> Iterator[list[T]]:
    """What stands for each module whose forward is running, the innermost last.

    A module whose forward raises stays on the list: it names the place of the error.

    Args:    modules: with their paths, as `named_modules` gives them
             enter: (path, module, inputs) -> what stands for the module while it runs
             leave: (path, what stood for the module, output), when it has run
    Example: >>> with modules_running(model.named_modules(), lambda path, *_: path) as inside:
             ...     model(images)
    """
    inside: list[T] = []
    hooks = []
    for path, module in modules:

        def before(module: nn.Module, inputs: tuple[Any, ...], path: str = path) -> None:
            inside.append(enter(path, module, inputs))

        def after(_module: nn.Module, _inputs: Any, output: Any, path: str = path) -> None:
            leave(path, inside.pop(), output)

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()
