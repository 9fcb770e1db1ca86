"""The templates and the style sheet -> pages that can neither run nor load anything."""

from __future__ import annotations

from importlib import resources
from typing import Any

from toque.train.report import axes

_FILES = ("page.html", "compare.html", "chart_page.html", "check.html", "parts.html")


def render(name: str, context: dict[str, Any]) -> str:
    """A page from its template. Everything in the context is escaped."""
    import jinja2
    from markupsafe import Markup

    here = resources.files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({file: (here / file).read_text("utf-8") for file in _FILES}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=axes.percent, compact=axes.compact)
    # The style sheet is ours and the only text that is not escaped.
    style = Markup((here / "style.css").read_text("utf-8"))
    return environment.get_template(name).render(style=style, **context)
