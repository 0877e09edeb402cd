"""The losses of fine-tuning: equal to numpy's, without a gradient for the teacher."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq import losses

RNG = np.random.default_rng(0)


def probabilities(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_distilled_is_numpys(temperature: float) -> None:
    z, t = RNG.normal(0, 3, (2, 7, 10))
    p, q = probabilities(t / temperature), probabilities(z / temperature)
    wanted = temperature**2 * (p * np.log(p / q)).sum(-1)
    found = losses.distilled(jnp.float32(z), jnp.float32(t), temperature=temperature)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def test_distilled_has_the_gradient_of_the_paper() -> None:
    """At a high temperature `T^2 KL` has the gradient (z - t) / classes of zero-mean logits (Hinton et al., eq. 4)."""
    z, t = RNG.normal(0, 1, (2, 10))
    z, t = z - z.mean(), t - t.mean()
    found = jax.grad(lambda z: losses.distilled(z, jnp.float32(t), temperature=1000.0))(jnp.float32(z))
    np.testing.assert_allclose(found, (z - t) / 10, atol=3e-3)


def test_the_teacher_has_no_gradient() -> None:
    z, t = jnp.float32(RNG.normal(0, 1, (2, 4)))
    assert not np.any(jax.grad(lambda t: losses.distilled(z, t))(t))
    assert not np.any(jax.grad(lambda t: losses.matched({"a": z}, {"a": t}))(t))


def test_matched_is_numpys() -> None:
    found = {k: RNG.normal(0, 1, (3, 4)) for k in "abc"}
    wanted = {k: RNG.normal(0, s, (3, 4)) for k, s in (("a", 1.0), ("c", 100.0))}
    ratios = [np.mean((found[k] - w) ** 2) / np.mean(w**2) for k, w in wanted.items()]
    arrays = [{k: jnp.float32(v) for k, v in held.items()} for held in (found, wanted)]
    np.testing.assert_allclose(losses.matched(*arrays), np.mean(ratios), rtol=1e-5)


def test_matched_says_what_is_wrong() -> None:
    one = {"conv/kernel:out": jnp.ones((2, 3))}
    with pytest.raises(jaxq.errors.InputError, match="no site to match"):
        losses.matched(one, {})
    with pytest.raises(jaxq.errors.InputError, match=r"no site 'conv/kernel'. Did you mean 'conv/kernel:out'"):
        losses.matched(one, {"conv/kernel": jnp.ones((2, 3))})
    with pytest.raises(jaxq.errors.InputError, match=r"shape \(2, 3\); the teacher's has \(3, 2\)"):
        losses.matched(one, {"conv/kernel:out": jnp.ones((3, 2))})


def test_the_examples_run() -> None:
    assert doctest.testmod(losses).failed == 0
