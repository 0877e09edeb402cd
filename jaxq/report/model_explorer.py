"""Numbers for AI Edge Model Explorer: its node data, which it lays over the graph of the .tflite file.

The form is that of `node_data_builder.py` of google-ai-edge/model-explorer: for each graph, results by the name of an
output tensor, and the colours of thresholds ("at most this value").
"""

from __future__ import annotations

import json
import math

from jaxq.report.document import Content, Node

GRAPH = "main"  # what its TFLite adapter calls the first subgraph
COLOURS = ("#f2a48c", "#f8cda4", "#f5e9b8", "#bfdcf2", "#8fc1ea")
SQNR = (10.0, 15.0, 20.0, 30.0, 1000.0)  # decibels: the upper bounds of the colours
EXACT = 200.0  # decibels shown of what has no error: JSON has no infinity


def node_data(content: Content) -> str:
    """One JSON document: of each operator the SQNR in dB where it was measured, else the bytes of its weights."""
    measured = [n for n in content.nodes if n.difference is not None]
    if measured:
        results = {n.name: {"value": _sqnr(n)} for n in measured}
        thresholds = [{"value": v, "bgColor": c, "textColor": "black"} for v, c in zip(SQNR, COLOURS, strict=True)]
        return _document({"results": results, "thresholds": thresholds})
    results = {n.name: {"value": n.weight_bytes} for n in content.nodes if n.weight_bytes}
    ends = ((0.0, "#ffffff"), (1.0, COLOURS[0]))
    return _document({"results": results, "gradient": [{"stop": at, "bgColor": c} for at, c in ends]})


def _sqnr(node: Node) -> float:
    assert node.difference is not None
    value = node.difference.total.sqnr
    return value if math.isfinite(value) else EXACT if value > 0 else -EXACT


def _document(graph: dict[str, object]) -> str:
    return json.dumps({GRAPH: graph}, indent=2, allow_nan=False) + "\n"
