"""The model as a graph: `capture` a function, print it, read its ops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxq.errors import CaptureError
from jaxq.graph import matchers, naming
from jaxq.graph.builder import MOVES as MOVES
from jaxq.graph.builder import Builder
from jaxq.graph.capture import trace
from jaxq.graph.fuse import fuse
from jaxq.graph.graph_editor import Draft as Draft
from jaxq.graph.ir import CLIPS as CLIPS
from jaxq.graph.ir import MASK as MASK
from jaxq.graph.ir import Aval as Aval
from jaxq.graph.ir import Equation as Equation
from jaxq.graph.ir import Graph as Graph
from jaxq.graph.ir import Op as Op
from jaxq.graph.ir import clip_name as clip_name
from jaxq.graph.ir import equations_behind as equations_behind
from jaxq.graph.ir import weight_origins as weight_origins
from jaxq.graph.ir import with_ones as with_ones
from jaxq.graph.raising import raise_equations
from jaxq.graph.verify import verify as verify


def capture(fn: Callable[..., Any], params: Sequence[Any], names: Sequence[str], inputs: Sequence[Any]) -> Graph:
    """Record `fn(*params, *inputs)`, which returns a flat list of arrays, and raise it to ops of TFLite's size.

    `names` are the parameters' paths. Raises CaptureError for a model that no static integer graph can be.
    """
    recorded = trace(fn, [*params, *inputs], matchers.whole)
    entering = recorded.arguments[len(params) :]
    builder = Builder(recorded, entering)
    raise_equations(builder, recorded.outputs)
    outputs = tuple(builder.resolve(v) for v in recorded.outputs)
    ops = fuse(builder, outputs)
    if not builder.dynamic.intersection(outputs):
        raise CaptureError("No output of the model depends on its inputs; there is nothing to quantize.")
    paths = dict(zip(recorded.arguments, names, strict=False))
    weights = equations_behind(builder.weights, [*outputs, *(v for op in ops for v in op.inputs)])
    ops = tuple(
        dataclasses.replace(op, name=name) for op, name in zip(ops, naming.name_ops(ops, weights, paths), strict=True)
    )
    sites = naming.site_names(entering, ops, paths)
    avals = builder.avals
    graph = Graph(avals, tuple(entering), paths, recorded.constants, weights, ops, outputs, sites)
    return verify(graph, after="capture")
