"""Write fake_quant_torch.json: PyTorch's fake-quantization and its gradients, laid out as README.md says.

    python -m venv V && V/bin/pip install torch==2.13.0 numpy && V/bin/python make_fake_quant_torch.py

Every case is held to the README's formulas in numpy before it is written.
"""
# pyright: reportMissingImports=false

import json
from pathlib import Path

import numpy as np
import torch

RNG = np.random.default_rng(20)
f32 = np.float32


def numbers(a):
    """Nested lists of the shortest decimals that read back to the same float32."""
    a = np.asarray(a)
    if a.ndim:
        return [numbers(v) for v in a]
    return int(a) if a.dtype.kind in "iu" else float(str(f32(a))) + 0.0


def inputs(shape, scale, zero, qmin, qmax):
    """Values over 1.6 times the range, off ties and off the half step around each end; the first is 0."""
    span = (qmax - qmin) * 0.8
    levels = np.rint(RNG.uniform(-span, span, shape) + (qmin + qmax) / 2) + RNG.uniform(-0.45, 0.45, shape)
    for end, away in ((qmin, -1), (qmax, 1)):
        levels = np.where(abs(levels - end) < 0.6, end + away * RNG.uniform(0.6, 3, shape), levels)
    x = ((levels - zero) * scale).astype(f32)
    x.flat[0] = 0
    return x, RNG.standard_normal(shape).astype(f32)


def formulas(x, g, scale, zero, qmin, qmax):
    """y, dx and the summands of ds and dz: README.md."""
    inverse = f32(1) / scale.astype(f32)
    q = np.rint((x * inverse).astype(f32)) + np.rint(zero)
    low, high = q < qmin, q > qmax
    clipped = np.clip(q, qmin, qmax) - np.rint(zero)
    y = (clipped * scale).astype(f32)
    ds = np.where(low | high, clipped, (y - x) * inverse) * g
    return y, np.where(low | high, 0, g), ds, np.where(low | high, -scale, 0) * g


def learnable(x, g, scale, zero, qmin, qmax, factor, axis):
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, scale, zero)]
    if axis is None:
        y = torch._fake_quantize_learnable_per_tensor_affine(*leaves, qmin, qmax, factor)
    else:
        y = torch._fake_quantize_learnable_per_channel_affine(*leaves, axis, qmin, qmax, factor)
    y.backward(torch.tensor(g))
    return [v.detach().numpy() for v in (y, *(leaf.grad for leaf in leaves))]


def plain(x, g, scale, zero, qmin, qmax, axis):
    leaf = torch.tensor(x, requires_grad=True)
    if axis is None:
        y = torch.fake_quantize_per_tensor_affine(leaf, float(scale[0]), int(zero[0]), qmin, qmax)
    else:
        points = torch.tensor(zero, dtype=torch.int32)
        y = torch.fake_quantize_per_channel_affine(leaf, torch.tensor(scale), points, axis, qmin, qmax)
    y.backward(torch.tensor(g))
    return y.detach().numpy(), leaf.grad.numpy()


def case(name, scale, zero, qmin, qmax, shape=(32,), axis=None, factor=None, x=None):
    """One case. `factor` None: the plain kernel, without gradients for scale and zero point."""
    scale, zero = np.array(scale, f32), np.array(zero, f32)
    wide = [1] * len(shape)
    if axis is not None:
        wide[axis] = -1
    s, z = scale.reshape(wide), zero.reshape(wide)
    regular = x is None
    x, g = inputs(shape, s, np.rint(z), qmin, qmax) if regular else (np.array(x, f32), np.ones(len(x), f32))
    out = {"name": name, "axis": axis, "qmin": qmin, "qmax": qmax, "grad_factor": factor}
    out |= {"scale": scale, "zero_point": zero, "x": x, "g": g}
    if factor is None:
        out["y"], out["dx"] = plain(x, g, scale, zero, qmin, qmax, axis)
    else:
        out["y"], out["dx"], out["ds"], out["dz"] = learnable(x, g, scale, zero, qmin, qmax, factor, axis)
    y, dx, ds, dz = formulas(x, g, s, z, qmin, qmax)
    assert np.array_equal(out["y"], y) and np.array_equal(out["dx"], dx), name
    if factor is not None:
        over = tuple(i for i in range(len(shape)) if i != axis)
        for key, terms in (("ds", ds), ("dz", dz)):
            np.testing.assert_allclose(
                out[key], np.atleast_1d(terms.sum(over)) * factor, rtol=2e-5, atol=1e-5, err_msg=name
            )
    return {k: numbers(v) if isinstance(v, np.ndarray) else v for k, v in out.items()}


def moving_average(name, qmin, qmax, symmetric, axis=None, momentum=0.01):
    """Four steps of fused_moving_avg_obs_fake_quant from its empty state."""
    size = 1 if axis is None else 2
    state = [torch.full((size,), float("inf")), torch.full((size,), float("-inf"))]
    state += [torch.ones(size), torch.zeros(size, dtype=torch.int32)]
    on, steps, mean = torch.tensor([1]), [], []
    for i in range(4):
        x = (RNG.standard_normal((2, 16)) * [[1 + i], [0.3]] + 0.5).astype(f32)
        tail = (momentum, qmin, qmax, -1 if axis is None else axis, axis is not None, symmetric)
        y = torch.fused_moving_avg_obs_fake_quant(torch.tensor(x), on, on, *state, *tail).numpy()
        low, high, scale, zero = (v.numpy().copy() for v in state)
        step = {"x": x, "min": low, "max": high, "scale": scale, "zero_point": zero, "y": y}
        steps.append({k: numbers(v) for k, v in step.items()})

        rows = x.reshape(size, -1)
        ends = [rows.min(1), rows.max(1)]
        mean = [m + f32(momentum) * (v - m) for m, v in zip(mean or ends, ends, strict=True)]
        np.testing.assert_allclose([low, high], mean, rtol=1e-5, err_msg=name)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        width = np.maximum(low / qmin, high / qmax) if symmetric else (high - low) / f32(qmax - qmin)
        point = 0 * low if symmetric else np.clip(np.rint(qmin - low / width), qmin, qmax)
        np.testing.assert_allclose(scale, width, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(zero, point, err_msg=name)
        s, z = scale.reshape(-1, 1), zero.reshape(-1, 1)
        assert np.array_equal(y, formulas(x, x, s, z, qmin, qmax)[0]), name
    return {
        "name": name,
        "axis": axis,
        "qmin": qmin,
        "qmax": qmax,
        "symmetric": symmetric,
        "momentum": momentum,
        "steps": steps,
    }


halves = [(k + 0.5) / 8 for k in (-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5)]
band = [v / 8 for v in (-8.75, -8.5, -8.25, -8, -7.75, 6.75, 7, 7.25, 7.5, 7.75)]
lsq = 1 / np.sqrt(32 * 127)
golden = {
    "source": f"torch {torch.__version__.split('+')[0]}",
    "plain": [
        case("int8", [0.125], [0], -128, 127),
        case("int8 narrow", [0.0371], [0], -127, 127),
        case("int8 lowest zero point", [0.03], [-128], -128, 127),
        case("int8 negative zero point", [0.05], [-37], -128, 127),
        case("uint8", [0.05], [7], 0, 255),
        case("int4", [0.7], [0], -8, 7),
        case("uint4", [1.1], [3], 0, 15),
        case("int8 per channel", [0.02, 0.2, 0.8], [0, 0, 0], -127, 127, (3, 8), 0),
        case("int8 per channel last axis", [0.02, 0.2, 0.8], [-128, -5, 9], -128, 127, (8, 3), 1),
    ],
    "learnable": [
        case("int8", [0.125], [0], -128, 127, factor=1.0),
        case("int8 LSQ factor", [0.125], [0], -128, 127, factor=lsq),
        case("uint8", [0.05], [7], 0, 255, factor=1.0),
        case("int4", [0.7], [0], -8, 7, factor=1.0),
        case("uint4 fractional zero point", [1.1], [3.4], 0, 15, factor=1.0),
        case("int8 per channel", [0.02, 0.2, 0.8], [0, 0, 0], -127, 127, (3, 8), 0, 1.0),
        case("int8 per channel last axis", [0.02, 0.2, 0.8], [-128, -5, 9], -128, 127, (8, 3), 1, 1.0),
        case("int4 per channel", [0.02, 0.2, 0.8], [0, -2, 1], -8, 7, (3, 8), 0, 1.0),
    ],
    "ties": [
        case("ties", [0.125], [0], -8, 7, (12,), factor=1.0, x=halves),
        case("ties odd zero point", [0.125], [7], 0, 15, (12,), factor=1.0, x=halves),
    ],
    "band": [case("band", [0.125], [0], -8, 7, (10,), factor=1.0, x=band)],
    "moving_average": [
        moving_average("uint8 affine", 0, 255, False),
        moving_average("int8 symmetric", -128, 127, True),
        moving_average("int8 affine per channel", -128, 127, False, axis=0),
    ],
}

if __name__ == "__main__":
    text = json.dumps(golden).replace("{", "\n{").strip()
    Path(__file__).with_name("fake_quant_torch.json").write_text(text + "\n")
