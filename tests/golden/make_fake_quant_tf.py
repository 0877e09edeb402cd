"""Write fake_quant_tf.json: fake_quant_with_min_max_vars and its gradients, laid out as README.md says.

    python -m venv V && V/bin/pip install tensorflow-cpu==2.21.0 && V/bin/python make_fake_quant_tf.py

Every case is held to the README's formulas in numpy before it is written.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(21)
f32 = np.float32


def numbers(a):
    """Nested lists of the shortest decimals that read back to the same float32."""
    a = np.asarray(a)
    if a.ndim:
        return [numbers(v) for v in a]
    return int(a) if a.dtype.kind in "iu" else float(str(f32(a))) + 0.0


def nudged(low, high, qmin, qmax):
    """The scale, the zero point and the ends of the range after zero has been moved onto the grid."""
    scale = ((high - low) / f32(qmax - qmin)).astype(f32)
    exact = f32(qmin) - low / scale
    zero = np.clip(np.floor(exact + f32(0.5)), qmin, qmax).astype(np.int64)
    return scale, zero, ((qmin - zero) * scale).astype(f32), ((qmax - zero) * scale).astype(f32)


def inputs(shape, scale, zero, qmin, qmax):
    """Values over 1.6 times the range, off ties and off the half step around each end; the first is 0."""
    span = (qmax - qmin) * 0.8
    levels = np.rint(RNG.uniform(-span, span, shape) + (qmin + qmax) / 2) + RNG.uniform(-0.45, 0.45, shape)
    for end, away in ((qmin, -1), (qmax, 1)):
        levels = np.where(abs(levels - end) < 0.6, end + away * RNG.uniform(0.6, 3, shape), levels)
    x = ((levels - zero) * scale).astype(f32)
    x.flat[0] = 0
    return x, RNG.standard_normal(shape).astype(f32)


def case(name, low, high, bits=8, narrow=False, shape=(32,), x=None):
    """One case; vectors `low` and `high` mean per channel along the last axis."""
    low, high, qmin, qmax = np.array(low, f32), np.array(high, f32), int(narrow), 2**bits - 1
    scale, zero, first, last = nudged(low, high, qmin, qmax)
    x, g = inputs(shape, scale, zero, qmin, qmax) if x is None else (np.array(x, f32), np.ones(len(x), f32))
    op = tf.quantization.fake_quant_with_min_max_vars
    op = op if low.ndim == 0 else tf.quantization.fake_quant_with_min_max_vars_per_channel
    leaves = [tf.Variable(v) for v in (x, low, high)]
    with tf.GradientTape() as tape:
        y = op(*leaves, bits, narrow)
        total = tf.reduce_sum(y * g)
    dx, dmin, dmax = (v.numpy() for v in tape.gradient(total, leaves))

    levels = np.floor((np.clip(x, first, last) - first) / scale - np.floor(-first / scale + f32(0.5)) + f32(0.5))
    below, above = x < first, x > last
    over = None if low.ndim == 0 else 0
    np.testing.assert_allclose(y, levels * scale, atol=1e-6, err_msg=name)
    assert np.array_equal(dx, np.where(below | above, 0, g)), name
    np.testing.assert_allclose(dmin, (g * below).sum(over), atol=1e-5, err_msg=name)
    np.testing.assert_allclose(dmax, (g * above).sum(over), atol=1e-5, err_msg=name)

    out = {"name": name, "axis": None if low.ndim == 0 else -1, "num_bits": bits, "narrow_range": narrow}
    out |= {"qmin": qmin, "qmax": qmax, "min": low, "max": high, "scale": scale, "zero_point": zero}
    out |= {"nudged_min": first, "nudged_max": last, "x": x, "g": g, "y": y.numpy()}
    out |= {"dx": dx, "dmin": dmin, "dmax": dmax}
    return {k: numbers(v) if isinstance(v, np.ndarray | np.generic) else v for k, v in out.items()}


halves = [k + 0.5 for k in (-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5)]
band = [-8.75, -8.5, -8.25, -8, -7.75, 6.75, 7, 7.25, 7.5, 7.75]
ranges = {
    "symmetric": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
    "nudged": (-0.1, 3.7),
    "mostly negative": (-3.3, 0.2),
}
golden = {
    "source": f"tensorflow {tf.__version__}",
    "per_tensor": [
        case(f"{bits} bits{' narrow' * narrow}, {name}", *ends, bits, narrow)
        for bits, narrow in ((8, False), (8, True), (4, False), (4, True))
        for name, ends in ranges.items()
    ],
    "per_channel": [
        case("8 bits narrow", [-0.25, -2.0, -9.0], [0.25, 2.0, 9.0], 8, True, (8, 3)),
        case("8 bits, nudged", [-0.1, -1.7, 0.0], [0.3, 0.4, 5.5], 8, False, (8, 3)),
        case("4 bits narrow", [-0.25, -2.0, -9.0], [0.25, 2.0, 9.0], 4, True, (8, 3)),
    ],
    "ties": [case("ties", -8.0, 7.0, 4, False, x=halves)],
    "band": [case("band", -8.0, 7.0, 4, False, x=band)],
}

if __name__ == "__main__":
    text = json.dumps(golden).replace("{", "\n{").strip()
    Path(__file__).with_name("fake_quant_tf.json").write_text(text + "\n")
