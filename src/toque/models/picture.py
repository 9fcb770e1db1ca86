"""A model as one self-contained HTML page: its branches beside each other, its skips around."""

from __future__ import annotations

import html
import math

from torch import nn

from toque.models.blocks import Checkpointed, Repeat, Residual, Stage
from toque.models.branches import MultiHead, Parallel, Siamese
from toque.models.description import Description, Layer
from toque.models.memory import Memory
from toque.models.skips import LongSkips

_STYLE = """
body { font: 13px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }
.row, .column { display: flex; gap: 6px; align-items: center; justify-content: center }
.column { flex-direction: column }
.part { border: 1px solid #9aa5b1; border-radius: 6px; padding: 4px 8px; text-align: center }
.group { border: 1px dashed #c3ccd5; border-radius: 8px; padding: 6px }
.join { border-radius: 50%; background: #eef3f8; padding: 1px 8px; border: 1px solid #9aa5b1 }
.name { color: #667; font-size: 11px } .skip { border-left: 3px solid #d08a2e; align-self: stretch;
padding-left: 6px; display: flex; align-items: center; color: #a5670f; font-size: 11px }
table { border-collapse: collapse; margin-top: 1.5rem }
td, th { padding: 1px 10px; text-align: right }
td:first-child, th:first-child { text-align: left; white-space: pre }
tr:nth-child(even) td { background: #f6f8fa } summary { cursor: pointer }
"""


def page(title: str, model: nn.Module, described: Description, memory: Memory | None = None) -> str:
    """The page: a picture of the parts, the tree as a table, and the predicted memory.

    Args:    title: the model's name
             model: the model that was described
             memory: of a training step
    """
    batch = "x".join(map(str, described.input_shape))
    root = described.root
    facts = [
        f"input {batch}",
        f"{root.parameters:,} parameters",
        f"{root.flops / 1e9:,.2f} GFLOP forward",
        f"{root.saved_bytes / 1e6:,.1f} MB saved for the backward pass",
    ]
    if memory is not None:
        facts.append(f"training step: {memory}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{'<br>'.join(html.escape(fact) for fact in facts)}</p>"
        f"{_part(model, '', described)}{_table(described)}</html>"
    )


def _part(module: nn.Module, name: str, described: Description) -> str:
    label = f"<div class=name>{html.escape(name)}</div>" if name else ""
    if isinstance(module, Residual):
        inside = _row(
            _part(module.body, "body", described),
            f"<div class=skip>{_part(module.shortcut, 'shortcut', described)}</div>",
        )
        after = _part(module.after, "after", described) if _visible(module.after) else ""
        return _group(label + _column(inside, "<div class=join>+</div>", after))
    if isinstance(module, Parallel):
        branches = (_part(b, n, described) for n, b in module.branches.items())
        join = f"<div class=join>{html.escape(type(module.merge).__name__.lower())}</div>"
        return _group(label + _column(_row(*branches), join))
    if isinstance(module, LongSkips):
        levels = list(zip(module.encoder, reversed(module.decoder), strict=True))
        inside = _part(module.bottom, "bottom", described)
        for number, (down, up) in reversed(list(enumerate(levels))):
            sides = _row(
                _part(down, f"encoder {number}", described),
                "<div class=skip>skip</div>",
                _part(up, f"decoder {len(levels) - 1 - number}", described),
            )
            inside = _column(sides, inside)
        return _group(label + inside)
    if isinstance(module, MultiHead):
        heads = (_part(head, n, described) for n, head in module.heads.items())
        return _group(label + _column(_part(module.trunk, "trunk", described), _row(*heads)))
    if isinstance(module, Checkpointed | Siamese):
        kind = f"<div class=name>{type(module).__name__}</div>"
        return _group(label + kind + _part(module.body, "", described))
    children = [(n, c) for n, c in module.named_children() if _visible(c)]
    opened = isinstance(module, nn.Sequential) or any(_is_opened(c) for _, c in children)
    if opened and children:
        inside = _column(*(_part(child, n, described) for n, child in children))
        if isinstance(module, Stage | Repeat) or len(children) > 6:
            kind = f"{type(module).__name__}, {len(children)} blocks"
            return f"<details open class=group><summary>{label}{kind}</summary>{inside}</details>"
        return _group(label + inside) if name else inside
    return f"<div class=part>{label}{html.escape(_words(module))}</div>"


def _is_opened(module: nn.Module) -> bool:
    kinds = (nn.Sequential, Residual, Parallel, LongSkips, MultiHead, Checkpointed, Siamese)
    return isinstance(module, kinds)


def _visible(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity | nn.Dropout)


def _words(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        kernel = "x".join(map(str, module.kernel_size))
        stride = f" / {module.stride[0]}" if module.stride != (1, 1) else ""
        return f"conv {kernel}{stride}, {module.out_channels}"
    if isinstance(module, nn.Linear):
        return f"linear, {module.out_features}"
    return "identity" if isinstance(module, nn.Identity) else type(module).__name__


def _row(*parts: str) -> str:
    return f"<div class=row>{''.join(parts)}</div>"


def _column(*parts: str) -> str:
    return f"<div class=column>{''.join(parts)}</div>"


def _group(inside: str) -> str:
    return f"<div class=group>{inside}</div>"


def _table(described: Description) -> str:
    heads = ["layer", "output", "parameters", "MFLOP", "saved MB", "sees px", "time", "backward"]
    rows = []
    for layer in described.layers():
        level = layer.path.count(".") + 1 if layer.path else 0
        name = layer.path.rpartition(".")[2] or "(model)"
        cells = [
            f"{'  ' * level}{name} {layer.kind}",
            "x".join(map(str, layer.shape[1:])) if layer.shape else "",
            f"{layer.parameters:,}",
            f"{layer.flops / 1e6:,.1f}",
            f"{layer.saved_bytes / 1e6:,.2f}",
            _sees(layer),
            "" if layer.share is None else f"{layer.share:.1%}",
            "" if layer.backward_share is None else f"{layer.backward_share:.1%}",
        ]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in heads)
    return f"<table>{head}{''.join(rows)}</table>"


def _sees(layer: Layer) -> str:
    if layer.sees_px is None:
        return ""
    return "all" if math.isinf(layer.sees_px) else f"{layer.sees_px:.0f}"
