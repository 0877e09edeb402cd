"""Functions that TFLite has no operator for, in files of floats: as compositions of those that it has."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ExportError
from jaxq.export.lowering.rules.functions import WRITE
from jaxq.export.proof.certificate import new_tallies
from jaxq.export.proof.families import compare_families, readers
from jaxq.graph.tables import LACKING

X = (np.random.default_rng(0).normal(size=(32, 7)) * 2).astype(np.float32)

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mish": jax.nn.mish,
    "elu": jax.nn.elu,
    "gelu": lambda x: 0.5 * x * (1 + lax.erf(x / np.sqrt(2))),
    "erfc": lax.erfc,
    "powers": lambda x: (jnp.abs(x) + 1) ** -3 + jnp.abs(x) ** 1.7 + jnp.square(jnp.exp2(x)),
    "roots": lambda x: lax.rsqrt(x * x + 1e-3) * jnp.sqrt(jnp.abs(x)) + jnp.log1p(jnp.abs(x)),
    "circles": lambda x: jnp.tan(x / 4) + jnp.sin(x) * jnp.cos(x) + jnp.sinh(x / 2) - jnp.cosh(x / 3),
    "branches": lambda x: jnp.where((x > 1) | ~(x >= -1), x, jnp.where((x <= 0) & (x != 0.5), -x, jnp.exp(x))),
    "steps": lambda x: jnp.floor(x) - jnp.ceil(x) * jnp.sign(x) + (x < 1).astype(jnp.float32),
    "bounds": lambda x: jnp.clip(jnp.exp(x), 0.2, 2.0) * lax.logistic(jnp.tanh(x)) / jnp.maximum(jnp.abs(x), 0.1),
    "finite": lambda x: jnp.where(jnp.isfinite(x), 2 * x, 0.0),
    "equal": lambda x: jnp.where(jnp.sign(x) == 1, jnp.minimum(jnp.expm1(x), 3.0), 0.0) ** 0 * jnp.log(jnp.abs(x) + 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_written_in_float_operators(name: str) -> None:
    """To 1e-5 of the largest number, training against both families, and ours against them."""
    fn = FUNCTIONS[name]
    q = jaxq.quantize(lambda params, x: fn(x), "float32", {}, X[:1])
    artifact = jaxq.export.to_tflite(q, {}, q.init({}), verify=X, progress=False)
    tallies = new_tallies()
    compare_families(artifact.data, artifact.program, [X], readers(artifact.program), tallies)
    assert [tally.total for tally in tallies.values()] == [0, 0]
    np.testing.assert_allclose(artifact.run(X)[0], fn(jnp.asarray(X)), rtol=1e-4, atol=1e-4)


def test_functions_that_tflite_cannot_say_are_refused() -> None:
    for fn, name in ((jnp.arctan, "atan"), (jnp.round, "round")):
        q = jaxq.quantize(lambda params, x, fn=fn: fn(x), "float32", {}, X[:1])
        with pytest.raises(ExportError, match=f"jaxq has no rule that writes `{name}` in float operators"):
            jaxq.export.to_tflite(q, {}, q.init({}), progress=False)
    inverse = {"acos", "acosh", "asin", "asinh", "atan", "atanh", "erf_inv"}
    assert LACKING - WRITE.keys() == inverse | {"cbrt", "rem", "round", "xor"}
