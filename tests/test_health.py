"""Range health: clipped shares, dead channels, batches that add up, refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import InputError, RangeError

X = np.random.default_rng(0).uniform(-1, 1, (12, 6, 6, 2)).astype(np.float32)
X[0] = 0.0


class Net(nnx.Module):
    """Its second channel is dead in all images, its third in the black first one at least."""

    def __init__(self) -> None:
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0))
        assert self.conv.bias is not None
        self.conv.bias[...] = jnp.array([0.5, -50.0, -1.0, 0.5])
        self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))


def quantized(recipe: Any = "int8") -> Any:
    return jaxq.quantize(Net(), recipe, X[:1])


@pytest.fixture(scope="module")
def narrow() -> Any:
    """A calibrated model whose range behind the convolution has been halved."""
    qmodel = quantized()
    jaxq.calibrate(qmodel, [X], progress=False)
    scale = qmodel.ranges["conv/kernel:out"]["scale"]
    scale[...] = scale[...] / 2
    return qmodel


def test_clipped_shares(narrow: Any) -> None:
    found = jaxq.analyze.health(narrow, X)
    shares = {s.site: s.clipped for s in found.sites}
    real = np.asarray(jax.nn.relu(narrow.model.conv(X)))
    scale = float(narrow.ranges["conv/kernel:out"]["scale"][...])
    assert shares["conv/kernel:out"] == np.mean(real > 255.5 * scale) > 0
    assert found.worst.site == "conv/kernel:out" and shares["input"] == 0
    elements = {s.site: s.elements for s in found.sites}
    assert elements == {"input": X.size, "conv/kernel:out": 2 * X.size, "mean": 12 * 4, "head/kernel:out": 12 * 3}
    total = sum(shares[site] * elements[site] for site in shares)
    assert found.clipped == pytest.approx(total / sum(elements.values()))


def test_dead_channels(narrow: Any) -> None:
    found = jaxq.analyze.health(narrow, X)
    by_site = {s.site: (s.dead, s.channels) for s in found.sites}
    assert by_site == {"input": (0, 0), "conv/kernel:out": (1, 4), "mean": (0, 0), "head/kernel:out": (0, 3)}
    assert (found.dead, found.channels) == (1, 7)


def test_a_channel_is_dead_only_if_it_is_for_every_example(narrow: Any) -> None:
    alone = [jaxq.analyze.health(narrow, X[i : i + 1]).sites[1].dead for i in range(12)]
    assert max(alone) > 1
    together, whole = jaxq.analyze.health(narrow, [X[:6], X[6:]]), jaxq.analyze.health(narrow, X)
    assert together == whole and whole.examples == 12


def test_the_table(narrow: Any) -> None:
    lines = str(jaxq.analyze.health(narrow, X)).splitlines()
    assert lines[0].split() == ["tensor", "clipped", "dead", "channels"]
    assert lines[2].split()[0] == "conv/kernel:out" and lines[2].endswith("1 of 4")
    assert lines[-1].endswith(" % clipped, 1 of 7 channels dead; 12 examples")


def test_refusals(narrow: Any) -> None:
    with pytest.raises(RangeError, match="has no range yet"):
        jaxq.analyze.health(quantized(), X)
    with pytest.raises(InputError, match="There is no example to look at: the iterable is empty"):
        jaxq.analyze.health(narrow, [])
    with pytest.raises(InputError, match="keeps activations in floats"):
        jaxq.analyze.health(quantized("float32"), X)
