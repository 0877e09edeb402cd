"""Writes observers.json: clipping bounds of NVIDIA ModelOpt's entropy calibrator and of ai-edge-quantizer's OCTAV.

python -m venv V; V/bin/pip install torch nvidia-modelopt ai-edge-quantizer scipy
V/bin/python tests/golden/make_observers.py
"""

# pyright: reportMissingImports=false

import importlib.metadata
import json
from pathlib import Path

import numpy as np
from ai_edge_quantizer.algorithms.uniform_quantize.octav import _guess_clipping_with_octav
from modelopt.torch.quantization.calib.histogram import _compute_amax_entropy

RNG = np.random.default_rng(20261127)
SAMPLES = {
    "normal": lambda n: RNG.normal(0.0, 1.0, n),
    "laplace": lambda n: RNG.laplace(0.0, 1.0, n),
    "relu": lambda n: np.maximum(RNG.normal(0.0, 1.0, n), 0.0),
    "outliers": lambda n: RNG.normal(0.0, 1.0, n) * np.where(RNG.random(n) < 1e-3, 20.0, 1.0),
}


def entropy(name, bits, unsigned, bins):
    """The number of bins kept, of a histogram of magnitudes with bins of width 1."""
    counts = np.histogram(np.abs(SAMPLES[name](20_000)), bins)[0]
    levels = 1 << (bits - 1 + int(unsigned))
    amax = _compute_amax_entropy(counts.copy(), np.arange(bins + 1.0), bits, unsigned, 1, levels)
    case = {"name": name, "bits": bits, "unsigned": unsigned, "counts": counts.tolist()}
    return {**case, "kept": round(float(amax))}


def octav(name, bits):
    """The bound of each of three channels."""
    w = (SAMPLES[name](3 * 400).reshape(400, 3) * [0.05, 1.0, 7.0]).astype(np.float32).round(4)
    bound = _guess_clipping_with_octav(w, bits, 0, max_iterations=50, exponent_divisor=3.0, early_stop=False)
    return {"name": name, "bits": bits, "w": w.tolist(), "bound": np.asarray(bound, np.float64).ravel().tolist()}


golden = {
    "source": {p: importlib.metadata.version(p) for p in ("ai-edge-quantizer", "nvidia-modelopt")},
    "entropy": [
        entropy(name, bits, unsigned, bins)
        for name in SAMPLES
        for bits, unsigned, bins in ((8, False, 512), (8, True, 600), (4, False, 200))
    ],
    "octav": [octav(name, bits) for name in ("normal", "laplace", "outliers") for bits in (4, 8)],
}

if __name__ == "__main__":
    text = json.dumps(golden).replace("{", "\n{").strip()
    Path(__file__).with_name("observers.json").write_text(text + "\n")
