"""The page: one HTML file with everything inside it, made by Jinja from the templates in `page/`."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from jaxq import __version__
from jaxq.analyze.difference import sqnr_text
from jaxq.report import charts
from jaxq.report.document import Content, Node
from jaxq.report.layout import Layout, layout
from jaxq.report.verdict import facts, remarks, verdict
from jaxq.report.views import views

TEMPLATES = pathlib.Path(__file__).parent / "page"
WIDTH, HEIGHT, GAP, RISE = 184, 46, 18, 26  # of a node, and between nodes, in pixels
DIGITS = 5  # of numbers in charts


def page(content: Content) -> str:
    """The report as one HTML document that needs no other file and no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"commas": "{:,}".format, "decibels": sqnr_text, "percent": _percent}
    environment.filters |= {"cut": _cut, "tail": _tail}
    tables = charts.page_tables(content)
    return environment.get_template("report.html.j2").render(
        content=content,
        version=__version__,
        verdict=verdict(content),
        facts=facts(content),
        remarks=remarks(content),
        views=views(content),
        drawing=drawing(content),
        first=_first(content.nodes),
        compared=[n for n in content.nodes if n.difference is not None],
        curves=[name.removeprefix("curves:") for name in tables if name.startswith("curves:")],
        library=charts.library(),
        data=rounded({"charts": charts.specifications(), "tables": tables, "nodes": [_node(n) for n in content.nodes]}),
    )


def _first(nodes: Sequence[Node]) -> int:
    """The node that is shown before one is chosen: the one that adds most error, or has most bytes."""

    def weight(i: int) -> tuple[float, int]:
        d = nodes[i].difference
        return (-math.inf if d is None else -d.own.sqnr, nodes[i].weight_bytes)

    return max(range(len(nodes)), key=weight)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _tail(text: str, most: int) -> str:
    return text if len(text) <= most else f"\N{HORIZONTAL ELLIPSIS}{text[1 - most :]}"


def _node(node: Node) -> dict[str, Any]:
    """What the page shows of a node that is chosen."""
    rows = [("operator", node.kind if node.index is None else f"{node.index} {node.kind}"), ("tensor", node.tensor)]
    if node.range is not None and node.step is not None:
        rows.append(("range", f"{node.range[0]:.5g} to {node.range[1]:.5g} in steps of {node.step:.4g}"))
    if node.histogram is not None:
        rows += _seen(node)
    if node.difference is not None:
        rows += _errors(node)
    rows += [("weights", f"{node.weight_bytes:,} bytes")] if node.weight_bytes else []
    rows += [("multiplications", f"{node.macs:,}")] if node.macs else []
    rows += [(target, reason) for target, (taken, reason) in node.placed.items() if not taken]
    return {"name": node.name, "rows": rows, "tables": charts.node_tables(node)}


def _seen(node: Node) -> list[tuple[str, str]]:
    h = node.histogram
    assert h is not None
    rows = [("seen", f"{h.seen[0]:.5g} to {h.seen[1]:.5g}")]
    if node.range is not None and node.step is not None:
        rows.append(("steps used", f"{(h.seen[1] - h.seen[0]) / node.step + 1:,.0f} of {_steps(node):,.0f}"))
    if h.lowest is not None and h.highest is not None:
        rows.append(("at the ends", f"{_percent(h.lowest)} least, {_percent(h.highest)} greatest integer"))
    return rows


def _steps(node: Node) -> float:
    assert node.range is not None and node.step is not None
    return (node.range[1] - node.range[0]) / node.step + 1


def _errors(node: Node) -> list[tuple[str, str]]:
    d = node.difference
    assert d is not None
    parts = ", ".join(f"{name} {getattr(d, name).mean_abs:.3f}" for name in ("rounding", "clipping", "weights"))
    return [
        ("SQNR", f"{_with_unit(d.total.sqnr)}; its own part {_with_unit(d.own.sqnr)}"),
        ("mean error", f"{d.total.mean_abs:.3f} steps; own {d.own.mean_abs:.3f} ({parts}), "
                       f"inherited {d.inherited.mean_abs:.3f}"),
        ("clipped", _percent(d.clipped)),
    ]  # fmt: skip


def _with_unit(sqnr: float) -> str:
    return "exact" if sqnr == math.inf else f"{sqnr:.1f} dB"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def drawing(content: Content) -> dict[str, Any]:
    """The graph in pixels: its size, the corner of each node, and each edge as the path of an SVG."""
    found = layout([node.reads for node in content.nodes])
    places = [(c * (WIDTH + GAP) + GAP, r * (HEIGHT + RISE) + RISE) for c, r in found.places]
    return {
        "width": round(found.columns * (WIDTH + GAP) + GAP),
        "height": found.layers * (HEIGHT + RISE) + RISE,
        "places": [(round(x, 1), y) for x, y in places],
        "edges": [_curve(found, edge) for edge in found.paths],
        "node": (WIDTH, HEIGHT),
    }


def _curve(found: Layout, edge: tuple[int, int]) -> str:
    """From the bottom of one node to the top of another; straight through the layers between, bent in their gaps."""
    centres = [(c * (WIDTH + GAP) + GAP + WIDTH / 2, r * (HEIGHT + RISE) + RISE) for c, r in found.paths[edge]]
    x, y = centres[0]
    text = f"M{x:.1f},{y + HEIGHT}"
    for i, (x1, y1) in enumerate(centres[1:], start=1):
        middle = y1 - RISE / 2
        text += f"C{x:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1}"
        text += f"L{x1:.1f},{y1 + HEIGHT}" if i < len(centres) - 1 else ""
        x = x1
    return text


def rounded(value: Any) -> Any:
    """JSON values with numbers of `DIGITS` digits; what is no number becomes null."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
