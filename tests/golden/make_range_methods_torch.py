"""Writes range_methods_torch.json: gradients of TQT as brevitas has it, and of PACT by autograd of its equation.

python -m venv V; V/bin/pip install torch brevitas; V/bin/python tests/golden/make_range_methods_torch.py
"""

# pyright: reportMissingImports=false

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from brevitas.core.bit_width import BitWidthConst
from brevitas.core.function_wrapper import CeilSte
from brevitas.core.quant import IntQuant, RescalingIntQuant
from brevitas.core.restrict_val import PowerOfTwoRestrictValue
from brevitas.core.scaling import IntScaling, ParameterScaling
from brevitas.core.zero_point import ZeroZeroPoint

RNG = np.random.default_rng(7)


def inputs(low, high):
    """Numbers inside, outside and near [low, high], none within half a step of an end, and a cotangent."""
    width = high - low
    inside = RNG.uniform(low + 0.05 * width, high - 0.05 * width, 40)
    outside = np.concatenate([high + RNG.uniform(0.1, 1.0, 12) * width, low - RNG.uniform(0.1, 1.0, 12) * width])
    x = np.concatenate([inside, outside]).astype(np.float32)
    return x, RNG.normal(size=x.shape).astype(np.float32)


def numbers(array):
    return np.asarray(array, np.float64).ravel().tolist()


def tqt(bits, threshold):
    """Signed integers of so many bits, a threshold that is no power of two."""
    scaling = ParameterScaling(threshold, restrict_scaling_impl=PowerOfTwoRestrictValue(CeilSte()))
    ints = IntQuant(narrow_range=False, signed=True, input_view_impl=torch.nn.Identity())
    quantizer = RescalingIntQuant(
        ints, scaling, IntScaling(narrow_range=False, signed=True), ZeroZeroPoint(), BitWidthConst(bits)
    )
    x, g = inputs(-threshold, threshold)
    leaf = torch.tensor(x, requires_grad=True)
    y = quantizer(leaf)[0]
    y.backward(torch.tensor(g))
    found = {"log2_threshold": float(scaling.value.detach()), "gradient": float(scaling.value.grad)}
    return {"bits": bits, "x": numbers(x), "g": numbers(g), "y": numbers(y.detach()), "dx": numbers(leaf.grad), **found}


def pact(bits, low, high):
    """`clip(x, low, high)`, rounded without a gradient of its own, onto a grid that holds zero."""
    ends = [torch.tensor(np.float32(v), requires_grad=True) for v in (low, high)]
    x, g = inputs(low, high)
    leaf = torch.tensor(x, requires_grad=True)
    clipped = torch.minimum(torch.maximum(leaf, ends[0]), ends[1])
    scale = (high - low) / (2**bits - 1)
    y = clipped + (torch.round(clipped / scale) * scale - clipped).detach()
    y.backward(torch.tensor(g))
    found = {"low": low, "high": high, "dlow": float(ends[0].grad), "dhigh": float(ends[1].grad)}
    return {"bits": bits, "x": numbers(x), "g": numbers(g), "y": numbers(y.detach()), "dx": numbers(leaf.grad), **found}


golden = {
    "source": {name: importlib.metadata.version(name) for name in ("brevitas", "torch")},
    "tqt": [tqt(bits, threshold) for bits in (4, 8) for threshold in (0.7, 5.0)],
    # Ends that are whole steps from zero: nothing is nudged.
    "pact": [pact(8, 0.0, 6.375), pact(4, 0.0, 3.75), pact(8, -3.2, 3.175), pact(8, -1.0, 5.375), pact(4, -1.0, 2.75)],
}

if __name__ == "__main__":
    text = json.dumps(golden).replace("{", "\n{").strip()
    Path(__file__).with_name("range_methods_torch.json").write_text(text + "\n")
