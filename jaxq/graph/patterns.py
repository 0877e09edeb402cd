"""Ops that JAX spells in several primitives, found by tracing their JAX function and comparing it with the model's
trace.

The left side of each row is the function itself (`jax.nn.softmax`), recorded by the same JAX at the same shapes as
the model, so a new JAX release brings its own spelling along. Rows are indexed by the primitive that computes their
result: a model pays for the patterns it could contain, once each. `jaxq.graph.unification` compares traces.

To add an op: one row in `PATTERNS`, one row in `jaxq.ops.OPS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax

from jaxq.graph.ir import Aval, Equation
from jaxq.graph.unification import Candidate, Match, Pattern, View, match, recorded

VIEWS = frozenset({"reshape", "broadcast_in_dim", "convert_element_type", "squeeze"})


def _elementwise(*spellings: Callable[[jax.Array], jax.Array]) -> Callable[[View, Equation], Iterator[Candidate]]:
    def candidates(view: View, eq: Equation) -> Iterator[Candidate]:
        aval = view.trace.avals[eq.outputs[0]]
        for fn in spellings:
            yield Candidate(fn, fn, (aval,))

    return candidates


def _mean(view: View, eq: Equation) -> Iterator[Candidate]:
    total = view.upstream(eq.inputs[0], "reduce_sum", VIEWS)
    if total is None or view.scalar(eq.inputs[1]) is None:
        return
    axes, operand = tuple(total.params["axes"]), total.inputs[0]
    keepdims = len(view.trace.avals[eq.outputs[0]].shape) == len(view.trace.avals[operand].shape)
    widened = view.producer.get(operand)  # jnp.mean of bfloat16 sums in float32
    for value in [operand] if widened is None else [operand, widened.inputs[0]] if widened.inputs else [operand]:
        fn = functools.partial(jnp.mean, axis=axes, keepdims=keepdims)
        yield Candidate(("mean", axes, keepdims), fn, (view.trace.avals[value],), {"axes": axes, "keepdims": keepdims})


def _average_pool(dimensions: int, view: View, eq: Equation) -> Iterator[Candidate]:
    total = view.upstream(eq.inputs[0], "reduce_window_sum", frozenset())
    if total is None:
        return
    window, stride, padding = (total.params[k] for k in ("window_dimensions", "window_strides", "padding"))
    if len(window) != dimensions + 2 or (window[0], window[-1]) != (1, 1):
        return
    counted = view.scalar(eq.inputs[1]) is not None
    attrs = {"window": window[1:-1], "stride": stride[1:-1], "padding": tuple(padding[1:-1]), "count_padding": counted}
    fn = functools.partial(
        linen.avg_pool,
        window_shape=attrs["window"],
        strides=attrs["stride"],
        padding=attrs["padding"],
        count_include_pad=counted,
    )
    yield Candidate(("pool", tuple(attrs.items())), fn, (view.trace.avals[total.inputs[0]],), attrs)


def _dropout(view: View, eq: Equation) -> Iterator[Candidate]:
    if len(eq.inputs) != 3:
        return
    scaled = view.producer.get(eq.inputs[2])
    keep = view.scalar(scaled.inputs[1]) if scaled is not None and scaled.primitive == "div" else None
    if keep is None:
        return
    aval, mask = view.trace.avals[eq.outputs[0]], view.trace.avals[eq.inputs[0]]

    def dropout(x: jax.Array, kept: jax.Array) -> jax.Array:
        return lax.select(kept, x / keep, jnp.zeros_like(x))

    yield Candidate(("dropout", keep), dropout, (aval, mask), {"keep": keep})


def _hard_swish_times(x: jax.Array) -> jax.Array:
    return x * (jax.nn.relu6(x + 3.0) * (1.0 / 6.0))


def _hard_swish_clip(x: jax.Array) -> jax.Array:
    return x * jnp.clip(x + 3.0, 0.0, 6.0) / 6.0


def _hard_swish_relu6(x: jax.Array) -> jax.Array:
    return x * jax.nn.relu6(x + 3.0) / 6.0


def _gelu(view: View, eq: Equation) -> Iterator[Candidate]:
    aval = view.trace.avals[eq.outputs[0]]
    for approximate in (True, False):
        fn = functools.partial(jax.nn.gelu, approximate=approximate)
        yield Candidate(("gelu", approximate), fn, (aval,), {"approximate": approximate})


def _leaky_relu(view: View, eq: Equation) -> Iterator[Candidate]:
    slope = view.producer.get(eq.inputs[1]) if len(eq.inputs) == 3 else None
    numbers = [] if slope is None or slope.primitive != "mul" else [view.scalar(v) for v in slope.inputs]
    aval = view.trace.avals[eq.outputs[0]]
    for alpha in (number for number in numbers if number is not None and number >= 0):  # TFLite has no other

        def with_zero(x: jax.Array, alpha: float = alpha) -> jax.Array:
            return jnp.where(x >= 0, x, alpha * x)

        def without(x: jax.Array, alpha: float = alpha) -> jax.Array:
            return jnp.where(x > 0, x, alpha * x)

        def called(x: jax.Array, alpha: float = alpha) -> jax.Array:
            return jax.nn.leaky_relu(x, alpha)

        yield Candidate(("leaky_relu", alpha), called, (aval,), {"alpha": alpha})
        yield Candidate(("leaky_relu >=", alpha), with_zero, (aval,), {"alpha": alpha})
        yield Candidate(("leaky_relu >", alpha), without, (aval,), {"alpha": alpha})


def _prelu(view: View, eq: Equation) -> Iterator[Candidate]:
    """`where(x >= 0, x, alpha * x)`, alpha a parameter of one number or of several."""
    scaled = view.producer.get(eq.inputs[1]) if len(eq.inputs) == 3 else None
    if scaled is None or scaled.primitive != "mul":
        return
    aval = view.trace.avals[eq.outputs[0]]
    for slope in (v for v in scaled.inputs if v != eq.inputs[2]):
        made = view.producer.get(slope)
        slope = made.inputs[0] if made is not None and made.primitive == "broadcast_in_dim" else slope
        for relation in (jnp.greater_equal, jnp.greater):

            def prelu(x: jax.Array, alpha: jax.Array, relation: Callable[..., jax.Array] = relation) -> jax.Array:
                return jnp.where(relation(x, 0), x, alpha * x)

            yield Candidate(("prelu", relation), prelu, (aval, view.trace.avals[slope]))


def _rounded_down(primitive: str, fn: Callable[..., jax.Array]) -> Callable[[View, Equation], Iterator[Candidate]]:
    """`a // b` or `a % b` of int32: the primitive rounds towards zero, and JAX corrects it. Of reals it is a table."""

    def candidates(view: View, eq: Equation) -> Iterator[Candidate]:
        towards_zero = view.producer.get(eq.inputs[1]) if len(eq.inputs) == 3 else None
        if towards_zero is None or towards_zero.primitive != primitive:
            return
        if view.trace.avals[eq.outputs[0]].dtype != np.int32:
            return
        a, b = (view.trace.avals[v] for v in towards_zero.inputs)
        yield Candidate(fn, fn, (a, b))
        divisor = view.producer.get(towards_zero.inputs[1])
        if divisor is not None and divisor.primitive == "broadcast_in_dim":
            yield Candidate(fn, fn, (a, view.trace.avals[divisor.inputs[0]]))

    return candidates


def _embedding(view: View, eq: Equation) -> Iterator[Candidate]:
    rows, shape = view.trace.avals[eq.inputs[0]], view.trace.avals[eq.outputs[0]].shape
    indices = shape[: len(shape) - len(rows.shape) + 1]
    for mode in (None, "clip", "fill"):

        def take(i: jax.Array, w: jax.Array, mode: str | None = mode) -> jax.Array:
            return jnp.take(w, i, axis=0, mode=mode)

        yield Candidate(("embedding", mode), take, (Aval(indices, np.dtype(np.int32)), rows))
    yield Candidate("indexing", lambda i, w: w[i], (Aval(indices, np.dtype(np.int32)), rows))


def _resize(view: View, eq: Equation) -> Iterator[Candidate]:
    """`jax.image.resize` of both axes of an image: a product with a matrix for each, and the axes put in order."""
    second = view.producer.get(eq.inputs[0])
    products = [] if second is None else [e for v in second.inputs if (e := view.producer.get(v)) is not None]
    images = [view.trace.avals[v] for e in products if e.primitive == "dot_general" for v in e.inputs]
    shape = view.trace.avals[eq.outputs[0]].shape
    for x in (image for image in images if len(image.shape) == len(shape) == 4):
        factors = tuple(out / size for out, size in zip(shape, x.shape, strict=True))
        if factors[0] != 1 or factors[3] != 1 or 1 in factors[1:3]:
            continue
        for smooth in (True, False)[min(factors) < 1 :]:  # what is made smaller is smoothed, unless told not to
            fn = functools.partial(jax.image.resize, shape=shape, method="bilinear", antialias=smooth)
            yield Candidate(("resize", shape, smooth), fn, (x,), {"size": shape[1:3], "factors": factors[1:3]})


# In order: an outer op before the ops it is made of.
PATTERNS = (
    Pattern("HARD_SWISH", "mul", _elementwise(jax.nn.hard_swish, _hard_swish_times)),
    Pattern("HARD_SWISH", "div", _elementwise(_hard_swish_relu6, _hard_swish_clip)),
    Pattern("GELU", "mul", _gelu),
    Pattern("GELU", "copy", _gelu),  # by erf, in the spelling of jax.nn.gelu(approximate=False)
    Pattern("LEAKY_RELU", "select_n", _leaky_relu),
    Pattern("PRELU", "select_n", _prelu),
    Pattern("FLOOR_DIV", "select_n", _rounded_down("div", jnp.floor_divide)),
    Pattern("FLOOR_MOD", "select_n", _rounded_down("rem", jnp.remainder)),
    Pattern("EMBEDDING", "gather", _embedding),
    Pattern("MEAN", "div", _mean),
    Pattern("AVERAGE_POOL_2D", "div", functools.partial(_average_pool, 2)),
    Pattern("AVERAGE_POOL_1D", "div", functools.partial(_average_pool, 1)),
    Pattern("DROPOUT", "select_n", _dropout),
    Pattern("RESIZE_BILINEAR", "transpose", _resize),
)


@functools.cache
def _by_root() -> dict[str, list[Pattern]]:
    index: dict[str, list[Pattern]] = {}
    for pattern in PATTERNS:
        index.setdefault(pattern.root, []).append(pattern)
    return index


def find(view: View, eq: Equation) -> Match | None:
    """The first pattern, in the table's order, whose function computes `eq`'s result."""
    for pattern in _by_root().get(eq.primitive, ()):
        for candidate in pattern.candidates(view, eq):
            left = recorded(candidate)
            binding = None if left is None else match(view, eq.outputs[0], left)
            if binding is not None:
                return Match(pattern.kind, binding, candidate.attrs)
    return None
