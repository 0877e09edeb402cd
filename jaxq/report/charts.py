"""The charts, as Vega-Lite specifications made by Altair; the page gives each its data by the name "table"."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from jaxq.report.document import Change, Content, Node

DATA = alt.NamedData("table")
BLUE, ORANGE, GREY = "#2f7ed8", "#e4682a", "#8a94a0"
WIDE = "container"
MOST_SITES = 40  # of the sensitivity chart


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed (BSD-3-Clause, the Vega project) as one script."""
    return vl_convert.javascript_bundle("Object.assign(window, { vega, vegaEmbed, vegaLite });")


def specifications() -> dict[str, Any]:
    """Every chart of the page without its data."""
    charts = {
        "histogram": _histogram(),
        "channels": _channels(),
        "errors": _errors(),
        "ladder": _ladder(),
        "curves": _curves(),
        "sensitivity": _sensitivity(),
    }
    return {name: chart.to_dict() for name, chart in charts.items()}


def _histogram() -> Any:
    """Shares of a tensor's numbers, and the ends of its range as dashed lines."""
    base = alt.Chart(DATA)
    bars = base.transform_filter("isValid(datum.share)").mark_bar(color=BLUE, binSpacing=0).encode(
        alt.X("from:Q", title="real value", bin=alt.BinParams(binned=True)), alt.X2("to:Q"),
        alt.Y("share:Q", title="share of numbers", axis=alt.Axis(format="%")),
        tooltip=[alt.Tooltip("from:Q", format=".4g"), alt.Tooltip("to:Q", format=".4g"),
                 alt.Tooltip("share:Q", format=".3%")],
    )  # fmt: skip
    ends = base.transform_filter("isValid(datum.end)").mark_rule(color=ORANGE, strokeDash=[5, 4], strokeWidth=1.5)
    lines = ends.encode(alt.X("end:Q"), tooltip=[alt.Tooltip("end:Q", title="end of the range", format=".4g")])
    return (bars + lines).properties(width=WIDE, height=170)


def _channels() -> Any:
    """The extent of each channel's weights, and what its scale can hold."""
    base = alt.Chart(DATA).encode(alt.X("channel:Q", title="output channel", axis=alt.Axis(tickMinStep=1)))
    held = base.mark_rule(color=GREY, opacity=0.45, strokeWidth=2).encode(alt.Y("floor:Q"), alt.Y2("limit:Q"))
    bars = base.mark_rule(color=BLUE, strokeWidth=2).encode(
        alt.Y("low:Q", title="weights"), alt.Y2("high:Q"),
        tooltip=["channel:Q", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("low", "high", "limit"))],
    )  # fmt: skip
    return (held + bars).properties(width=WIDE, height=150)


def _errors() -> Any:
    """Of each tensor the mean error in steps, its own part and the inherited one, in the order of computation."""
    return (
        alt.Chart(DATA)
        .mark_bar()
        .encode(
            alt.X("order:O", title="tensor, in the order of computation", axis=alt.Axis(labels=False, ticks=False)),
            alt.Y("steps:Q", title="mean |error| in steps", stack="zero"),
            alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=["own", "inherited"], range=[ORANGE, BLUE]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["tensor:N", "part:N", alt.Tooltip("steps:Q", format=".3f")],
        )
        .properties(width=WIDE, height=190)
    )


def _ladder() -> Any:
    """Accuracies, stage by stage."""
    base = alt.Chart(DATA).encode(
        alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=190)),
        alt.X("value:Q", title="accuracy", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
    )
    text = base.mark_text(align="left", dx=4).encode(text=alt.Text("value:Q", format=".2%"))
    bars = base.mark_bar(color=BLUE, height={"band": 0.6}).encode(
        tooltip=["stage:N", alt.Tooltip("value:Q", format=".2%")]
    )
    return (bars + text).properties(width=WIDE, height=alt.Step(28))


def _sensitivity() -> Any:
    """Of each op the change of the loss under another choice, a bar for each choice; the most sensitive op first."""
    return (
        alt.Chart(DATA)
        .mark_bar()
        .encode(
            alt.Y("site:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)),
            alt.X("change:Q", title="change of the loss; above zero the choice hurts"),
            alt.YOffset("choice:N", sort=None),
            alt.Color("choice:N", title=None, sort=None, legend=alt.Legend(orient="top")),
            tooltip=["site:N", "choice:N", alt.Tooltip("change:Q", format="+.4g")],
        )
        .properties(width=WIDE, height=alt.Step(11))
    )


def _curves() -> Any:
    """One number of the training over its steps, a line for each phase."""
    return (
        alt.Chart(DATA)
        .mark_line(interpolate="linear", strokeWidth=1.5, point=alt.OverlayMarkDef(size=14))  # one step is no line
        .encode(
            alt.X("step:Q", title="step"),
            alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            alt.Color("phase:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=["phase:N", "step:Q", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(width=WIDE, height=170)
    )


def node_tables(node: Node) -> dict[str, list[dict[str, Any]]]:
    """The data of a node's charts, by chart."""
    found: dict[str, list[dict[str, Any]]] = {}
    if node.histogram is not None:
        h, total = node.histogram, sum(node.histogram.counts)
        rows = [{"from": h.start + i * h.width, "to": h.start + (i + 1) * h.width, "share": count / total}
                for i, count in enumerate(h.counts)]  # fmt: skip
        found["histogram"] = [*rows, *({"end": end} for end in node.range or ())]
    if node.channels is not None:
        c = node.channels
        extents = enumerate(zip(c.low, c.high, c.limit, strict=True))
        found["channels"] = [
            {"channel": i, "low": low, "high": high, "limit": limit, "floor": -limit}
            for i, (low, high, limit) in extents
        ]
    return found


def _most_sensitive(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The rows of the `MOST_SITES` sites with the largest change, largest first."""
    largest: dict[str, float] = {}
    for c in changes:
        largest[c.site] = max(abs(c.change), largest.get(c.site, 0.0))
    sites = sorted(largest, key=lambda site: -largest[site])[:MOST_SITES]
    return [
        {"site": c.site, "choice": c.choice, "change": c.change} for site in sites for c in changes if c.site == site
    ]


def page_tables(content: Content) -> dict[str, list[dict[str, Any]]]:
    """The data of the page's own charts; a training number has a table `curves:NAME`."""
    found: dict[str, list[dict[str, Any]]] = {}
    compared = [n.difference for n in content.nodes if n.difference is not None]
    if compared:
        found["errors"] = [{"order": i, "tensor": d.site, "part": part, "steps": getattr(d, part).mean_abs}
                           for i, d in enumerate(compared) for part in ("own", "inherited")]  # fmt: skip
    if content.run.ladder:
        found["ladder"] = [{"stage": a.stage, "value": a.value} for a in content.run.ladder]
    if content.run.changes:
        found["sensitivity"] = _most_sensitive(content.run.changes)
    curves: Mapping[str, list[dict[str, Any]]] = {}
    for p in content.run.points:
        curves.setdefault(f"curves:{p.curve}", []).append({"phase": p.phase, "step": p.step, "value": p.value})
    return found | curves
