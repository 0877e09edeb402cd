"""The recipe of INT8 training: a smoke run of each network, the same run resumed, what is said of wrong choices."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxq.errors import InputError
from jaxq.recipes import cifar10_int8_training as recipe
from jaxq.recipes.resnet_20 import ResNet20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "scheme", "bits"), [("resnet_20", "unified", "4"), ("mobilenet_v2", "adaptive", "8")]
)
def test_a_smoke_run(tmp_path: pathlib.Path, network: str, scheme: str, bits: str) -> None:
    settings = {"scheme": scheme, "bits": bits}
    summary = recipe.run(tmp_path, network=network, settings=settings, smoke=True)
    assert summary["differing_integers"] == {"xnnpack": 0, "reference": 0} and summary["compared_integers"] > 0
    assert {"float", "int8", "int8_ptq", "int8_qat"} <= summary.keys() and summary["int8_steps"] == 3
    assert json.loads((tmp_path / "summary.json").read_text()) == {k: v for k, v in summary.items() if k != "report"}
    before = (tmp_path / "model.tflite").read_bytes()
    recipe.run(tmp_path, network=network, settings=settings, smoke=True, resume=True)
    assert (tmp_path / "model.tflite").read_bytes() == before


def test_wrong_choices_are_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no network 'resnet20' for INT8 training. .*'resnet_20'"):
        recipe.run(tmp_path, network="resnet20", smoke=True)
    with pytest.raises(InputError, match="The setting scheme is 'rows'"):
        recipe.run(tmp_path, settings={"scheme": "rows"}, smoke=True)
    with pytest.raises(InputError, match="reads a folder of images"):
        recipe.run(tmp_path)


def test_resnet_20_has_the_layers_of_the_paper() -> None:
    """Table 6: 20 layers, 0.27 million parameters; the three shortcuts of other sizes, with weights here, add 0.003."""
    state: Any = jax.eval_shape(lambda: nnx.state(ResNet20(rngs=nnx.Rngs(0)), nnx.Param))
    kernels = [leaf for path, leaf in nnx.to_flat_state(state) if path[-1] == "kernel" and "shortcut" not in path]
    assert len(kernels) == 20
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) == pytest.approx(0.27e6, rel=0.02)
