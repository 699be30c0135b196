"""Numbers and addresses into HTML: templates with every value escaped."""

from __future__ import annotations

import math
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

NOTHING = "\N{EN DASH}"


def environment() -> jinja2.Environment:
    """Return the templates with the gallery's filters. Undefined names are errors."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("raygen.gallery", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": number,
        "ratio": ratio,
        "percent": percent,
        "count": count,
        "sortable": sortable,
        "breakable": breakable,
    }
    return env


def number(value: float) -> str:
    """Return three significant digits, whole from 1,000 on; a dash where there is no number."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def ratio(value: float) -> str:
    """Return an R-hat: what matters is its distance from 1, in the second decimal."""
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.3f}" if value < 10 else number(value)


def percent(value: float) -> str:
    """Return a share as a percentage; only all is 100 %, only none is 0 %."""
    if not math.isfinite(value):
        return NOTHING
    whole = round(100 * value)
    if 0 < value < 1:
        whole = min(99, max(1, whole))
    return f"{whole} %"


def count(value: int, noun: str = "", plural: str = "") -> str:
    """Return a count with its noun in the right number: ``1 node``, ``1,200 nodes``."""
    if not noun:
        return f"{value:,}"
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def sortable(value: float) -> str:
    """Return a number for scripts; empty where there is none."""
    return repr(float(value)) if math.isfinite(value) else ""


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may be broken after its dots, colons, slashes and underscores."""
    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^.:/_]*[.:/_]+|[^.:/_]+", name))


def render(env: jinja2.Environment, template: str, **values: Any) -> bytes:
    """Return a page as UTF-8; a lone surrogate in a user's name becomes a question mark."""
    return env.get_template(template).render(**values).encode("utf-8", "replace")
