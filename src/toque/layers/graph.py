"""Drawing the autograd graph of one forward: HTML that folds by module, or an SVG."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from toque import checks
from toque.layers.saved import Node, Trace

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
details{border-left:2px solid #ddd;margin:.15em 0 .15em .3em;padding-left:.8em}
summary{cursor:pointer}table{border-collapse:collapse}td,th{padding:.15em .7em;text-align:left}
h1{overflow-wrap:anywhere}.wide{overflow-x:auto}.bytes{white-space:nowrap}
.bytes{font-variant-numeric:tabular-nums;color:#a33;text-align:right}.line{color:#666}
.bar{display:inline-block;height:.7em;background:#d77;margin-right:.4em;vertical-align:baseline}
code{font:12px ui-monospace,monospace}.node{padding:.1em 0}
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}details{border-color:#444}
.bytes{color:#f99}.line{color:#999}}
"""


def write(trace: Trace, path: str | Path, title: str = "autograd graph") -> Path:
    """Write the graph as `path`.html or `path`.svg, by its ending.

    Raises: ValueError: another ending
    """
    path = Path(path)
    makers = {".html": to_html, ".svg": to_svg}
    if path.suffix not in makers:
        raise checks.invalid(
            "graph", "output", "a .html or .svg file", path.name, "HTML folds by module."
        )
    path.write_text(makers[path.suffix](trace, title), encoding="utf-8")
    return path


def size(num_bytes: int) -> str:
    """1,234,567 -> "1.2 MB"."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


@dataclass
class _Folder:
    """A module: the nodes that it ran itself, and the modules inside."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    inside: dict[str, _Folder] = field(default_factory=dict)

    def saved(self, owned: dict[int, int]) -> int:
        own = sum(owned.get(node.number, 0) for node in self.nodes)
        return own + sum(folder.saved(owned) for folder in self.inside.values())


def _folded(trace: Trace) -> _Folder:
    root = _Folder("")
    for node in trace.nodes:
        if node.name.endswith("AccumulateGrad"):
            continue
        folder = root
        for part in node.module.split(".") if node.module else ():
            folder = folder.inside.setdefault(part, _Folder(part))
        folder.nodes.append(node)
    return root


def _owned_bytes(trace: Trace) -> dict[int, int]:
    """Bytes under the first node that keeps each storage."""
    owned: dict[int, int] = {}
    for node, tensor in trace.largest():
        owned[node.number] = owned.get(node.number, 0) + tensor.num_bytes
    return owned


def to_html(trace: Trace, title: str = "autograd graph") -> str:
    """One self-contained page: the largest places and tensors, then the graph, folded by module."""
    owned, total = _owned_bytes(trace), max(trace.saved_bytes, 1)
    places = "".join(
        f"<tr>{_share(place.num_bytes, total)}<td>{place.count}</td>"
        f"<td>{html.escape(place.saver)}</td><td>{html.escape(place.module)}</td></tr>"
        for place in trace.places()[:10]
    )
    rows = []
    for node, tensor in trace.largest(10):
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        rows.append(
            f"<tr>{_share(tensor.num_bytes, total)}<td>{shape} {tensor.dtype}</td>"
            f"<td>{html.escape(node.name)}.{html.escape(tensor.name)}</td>"
            f"<td>{html.escape(node.module)}</td>"
            f"<td class=line><code>{html.escape(node.line)}</code></td></tr>"
        )
    graph = "".join(_html_folder(_folded(trace), owned))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{len(trace.nodes)} nodes keep <b>{size(trace.saved_bytes)}</b> for backward, beside "
        "inputs and parameters. A tensor that several nodes keep is counted under the first.</p>"
        "<h2>The largest places, all blocks together</h2><div class=wide><table><tr><th>bytes"
        f"<th>share<th>tensors<th>kept by<th>module</tr>{places}</table></div>"
        "<h2>The largest tensors</h2><div class=wide><table><tr><th>bytes<th>share<th>tensor"
        f"<th>kept by<th>module<th>line</tr>{''.join(rows)}</table></div>"
        f"<h2>The graph, in the order of the forward</h2>{graph}</html>"
    )


def _share(num_bytes: int, total: int) -> str:
    """Two cells: the bytes, and their share of the total as a bar and a number."""
    return (
        f"<td class=bytes>{size(num_bytes)}</td><td class=bytes>"
        f"<span class=bar style='width:{8 * num_bytes / total:.2f}em'></span>"
        f"{100 * num_bytes / total:.0f} %</td>"
    )


def _html_folder(folder: _Folder, owned: dict[int, int]) -> Iterator[str]:
    entries: list[tuple[int, Node | _Folder]] = [(node.number, node) for node in folder.nodes]
    entries += [(_first(inside), inside) for inside in folder.inside.values()]
    for _, entry in sorted(entries, key=lambda pair: pair[0]):
        if isinstance(entry, Node):
            kept = owned.get(entry.number, 0)
            bytes_text = f" <span class=bytes>{size(kept)}</span>" if kept else ""
            reads = ", ".join(f"#{number}" for number in entry.inputs)
            yield (
                f"<div class=node><code>#{entry.number} {html.escape(entry.name)}</code> "
                f"{html.escape(' '.join(entry.outputs))}{bytes_text} "
                f"<span class=line>{'from ' + reads if reads else ''} "
                f"<code>{html.escape(entry.line)}</code></span></div>"
            )
        else:
            yield f"<details><summary>{html.escape(entry.name)} "
            yield f"<span class=bytes>{size(entry.saved(owned))}</span></summary>"
            yield from _html_folder(entry, owned)
            yield "</details>"


def _first(folder: _Folder) -> int:
    numbers = [node.number for node in folder.nodes]
    return min(numbers + [_first(inside) for inside in folder.inside.values()])


_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 230, 44, 24, 26


def to_svg(trace: Trace, title: str = "autograd graph") -> str:
    """Boxes in layers from the inputs down to the output; the redder, the more bytes it keeps."""
    nodes = {n.number: n for n in trace.nodes if not n.name.endswith("AccumulateGrad")}
    layer: dict[int, int] = {}
    for number, node in nodes.items():  # in the order of the forward: inputs come first
        layer[number] = 1 + max((layer[i] for i in node.inputs if i in layer), default=-1)
    rows: dict[int, list[int]] = {}
    place: dict[int, tuple[int, int]] = {}
    for number, depth in layer.items():
        rows.setdefault(depth, []).append(number)
        x = (len(rows[depth]) - 1) * (_WIDTH + _GAP_X) + _GAP_X
        place[number] = (x, 40 + depth * (_HEIGHT + _GAP_Y))
    widest = max((len(row) for row in rows.values()), default=1)
    width = widest * (_WIDTH + _GAP_X) + _GAP_X
    height = 60 + len(rows) * (_HEIGHT + _GAP_Y)
    owned = _owned_bytes(trace)
    most = max(owned.values(), default=1)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"font-family='system-ui,sans-serif' font-size='11'><rect width='100%' height='100%' "
        f"fill='white'/><text x='{_GAP_X}' y='24' font-size='14'>{html.escape(title)}: "
        f"{size(trace.saved_bytes)} kept for backward</text>"
    ]
    for number, node in nodes.items():
        x, y = place[number]
        for source in node.inputs:
            if source in place:
                from_x, from_y = place[source]
                parts.append(
                    f"<line x1='{from_x + _WIDTH / 2}' y1='{from_y + _HEIGHT}' "
                    f"x2='{x + _WIDTH / 2}' y2='{y}' stroke='#999'/>"
                )
    for number, node in nodes.items():
        x, y = place[number]
        kept = owned.get(number, 0)
        light = 97 - round(30 * kept / most)
        second = " ".join(node.outputs) + (f"  keeps {size(kept)}" if kept else "")
        hover = html.escape(f"{node.module}  {node.line}", quote=True)
        parts.append(
            f"<g><title>{hover}</title><rect x='{x}' y='{y}' width='{_WIDTH}' height='{_HEIGHT}' "
            f"rx='5' fill='hsl(5,70%,{light}%)' stroke='#666'/>"
            f"<text x='{x + 8}' y='{y + 18}' font-weight='600'>{html.escape(node.name[:32])}</text>"
            f"<text x='{x + 8}' y='{y + 34}'>{html.escape(second[:40])}</text></g>"
        )
    return "".join(parts) + "</svg>"
