"""Writes int8_peers.json: products of int8 and their gradients as AQT and torchao compute them.

python -m venv V; V/bin/pip install torch torchao aqtp; V/bin/python tests/golden/make_int8_peers.py

The operands are integers, and 127 is in each row and column of each. So every scale is 1, whatever shares one, and a
peer returns its integer sums.
"""

# pyright: reportMissingImports=false

import importlib.metadata
import json
from pathlib import Path

import aqt.jax.v2.config as aqt_config
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torchao.prototype.quantized_training import int8_mixed_precision_training
from torchao.quantization import quantize_

ROWS, INNER, COLUMNS = 20, 16, 12


def operand(seed, rows, columns):
    """Integers in [-127, 127], 127 in each row and column."""
    x = np.random.default_rng(seed).integers(-127, 128, (rows, columns))
    for i in range(max(rows, columns)):
        x[i % rows, i % columns] = 127
    return x.astype(np.float32)


X, W, G = operand(1, ROWS, INNER), operand(2, INNER, COLUMNS), operand(3, ROWS, COLUMNS)


def by_aqt():
    config = aqt_config.fully_quantized(
        fwd_bits=8, bwd_bits=8, use_stochastic_rounding=False, use_dummy_static_bound=False
    )
    for one in (config.fwd, config.dlhs, config.drhs):
        for side in (one.dg_quantizer.lhs, one.dg_quantizer.rhs):
            side.numerics = side.numerics.replace(preserve_max_val=True)
    y, vjp = jax.vjp(lambda x, w: config(x, w, (((1,), (0,)), ((), ()))), jnp.asarray(X), jnp.asarray(W))
    return [y, *vjp(jnp.asarray(G))]


def by_torchao():
    linear = torch.nn.Linear(INNER, COLUMNS, bias=False)
    linear.weight.data = torch.tensor(W.T.copy())
    model = torch.nn.Sequential(linear)
    quantize_(model, int8_mixed_precision_training())
    x = torch.tensor(X, requires_grad=True)
    y = model(x)
    y.backward(torch.tensor(G))
    return [y.detach().numpy(), x.grad.numpy(), model[0].weight.grad.numpy().T]


def integers(arrays):
    found = [np.asarray(a, np.float64) for a in arrays]
    assert all((a == np.rint(a)).all() for a in found)
    return dict(zip(("y", "dx", "dw"), (a.astype(int).tolist() for a in found), strict=True))


if __name__ == "__main__":
    versions = {name: importlib.metadata.version(name) for name in ("aqtp", "jax", "torch", "torchao")}
    found = {
        "versions": versions,
        "x": X.astype(int).tolist(),
        "w": W.astype(int).tolist(),
        "g": G.astype(int).tolist(),
    }
    found |= {"aqt": integers(by_aqt()), "torchao": integers(by_torchao())}
    Path(__file__).with_name("int8_peers.json").write_text(json.dumps(found) + "\n")
