"""What every parameter gets, as a table to read before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from toque.models.columns import columns
from toque.models.parameters.rules import Rule, Settings, settings


def shared(model: nn.Module) -> list[list[str]]:
    """The names of parameters that are one and the same tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def count(model: nn.Module, trainable: bool = False) -> int:
    """The number of parameters, shared ones once; only those that learn, if `trainable`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


@dataclass(frozen=True)
class Row:
    """One parameter: its name, its other names if it is shared, its shape and what it gets."""

    name: str
    also: tuple[str, ...]
    shape: tuple[int, ...]
    number: int
    settings: Settings


@dataclass(frozen=True)
class Table:
    """The rows of `table`, and how it is printed.

    `untouched` are the names of parameters that no rule matched.
    """

    rows: tuple[Row, ...]
    rules: tuple[Rule, ...]

    @property
    def untouched(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if not row.settings.rules)

    def __str__(self) -> str:
        lines = [("parameter", "shape", "number", "lr x", "decay", "optimizer", "rule")]
        for row in self.rows:
            given = row.settings
            last = str(self.rules[given.rules[-1]]) if given.rules else "-"
            lines.append(
                (
                    row.name + "".join(f" = {name}" for name in row.also),
                    "x".join(map(str, row.shape)) or "1",
                    f"{row.number:,}",
                    "frozen" if given.frozen else f"{given.lr_scale:g}",
                    f"{given.weight_decay:g}",
                    given.optimizer,
                    last,
                )
            )
        learn = sum(row.number for row in self.rows if not row.settings.frozen)
        total = sum(row.number for row in self.rows)
        note = f"{total:,} parameters, {learn:,} learn"
        if self.rules and self.untouched:
            note += f"; no rule touched {len(self.untouched)} of {len(self.rows)} tensors"
        return "\n".join([*columns(lines, left={0, 1, 5, 6}), note])


def table(model: nn.Module, rules: Sequence[Rule] = (), *, weight_decay: float = 0.0) -> Table:
    """What every parameter gets from the rules; print it before training.

    Raises:  ValueError: as `settings`
    Example: >>> print(table(model, [Rule("features.stem.*", frozen=True)], weight_decay=5e-4))
    """
    given = settings(model, rules, weight_decay=weight_decay)
    aliases = {same[0]: tuple(same[1:]) for same in shared(model)}
    rows = [
        Row(name, aliases.get(name, ()), tuple(p.shape), p.numel(), given[name])
        for name, p in model.named_parameters()
    ]
    return Table(tuple(rows), tuple(rules))
