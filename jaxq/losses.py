"""Losses for fine-tuning a quantized model against its float model, as functions of arrays.

teacher = nnx.clone(model)                        # before training: training changes the model's parameters
loss = jaxq.losses.distilled(qmodel(x), teacher(x), temperature=2.0).mean()
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.simulate.oscillations import dampening as dampening


def distilled(
    logits: Float[Array, "*batch classes"],
    teacher: Float[Array, "*batch classes"],
    *,
    temperature: float | Float[Array, ""] = 2.0,
) -> Float[Array, "*batch"]:
    """How far a model's class probabilities are from a teacher's (Hinton, Vinyals and Dean 2015, section 2).

    `T^2 KL(softmax(teacher / T) || softmax(logits / T))`: the factor keeps the gradient's size when T changes. The
    teacher gets no gradient.

    Args:
      logits: float [..., classes], of the model that learns.
      teacher: float [..., classes], of the float model on the same inputs.
      temperature: T > 0; above 1 the teacher's small probabilities count more. A number or a float32 scalar.

    Returns:
      float [...], one number >= 0 an example, 0 where the probabilities are equal.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(distilled(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0]))), 5)
      0.0
    """
    taught = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    return temperature**2 * optax.kl_divergence(jax.nn.log_softmax(logits / temperature), taught)


def matched(found: Mapping[str, Float[Array, "..."]], wanted: Mapping[str, Float[Array, "..."]]) -> Float[Array, ""]:
    """How far a model's inner activations are from a teacher's, relative to their size (Romero et al. 2015, FitNets).

    The mean over the sites in `wanted` of `mean((found - wanted)^2) / mean(wanted^2)`, so that a site of large numbers
    does not outweigh the others. `wanted` gets no gradient.

    Args:
      found: site name -> float array of real numbers, of the model that learns.
      wanted: site name -> float array of the same shape, of the float model.

    Returns:
      A float scalar >= 0.

    Raises:
      InputError: `wanted` is empty, names a site that `found` does not have, or has another shape for it.

    Example:
      >>> import jax.numpy as jnp
      >>> float(matched({"conv": jnp.ones(4), "head": jnp.zeros(2)}, {"conv": jnp.full(4, 2.0)}))
      0.25
    """
    if not wanted:
        raise InputError("losses.matched has no site to match: `wanted` is empty.")
    return jnp.mean(jnp.stack([_relative(name, found, w) for name, w in wanted.items()]))


def _relative(name: str, found: Mapping[str, Array], wanted: Array) -> Array:
    if name not in found:
        raise InputError(f"The model has no site {name!r}. {did_you_mean(name, found)}")
    if found[name].shape != wanted.shape:
        raise InputError(f"Site {name!r} has shape {found[name].shape}; the teacher's has {wanted.shape}.")
    wanted = jax.lax.stop_gradient(wanted)
    return jnp.mean(jnp.square(found[name] - wanted)) / jnp.maximum(jnp.mean(jnp.square(wanted)), 1e-12)
