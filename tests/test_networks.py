"""Every network that ships takes weights by the names of the packages that write them, and computes what they compute.

`tests/golden/network_shapes.json` has the names and shapes of other packages' state dicts, `network_logits.npz` what
their networks compute, in float64, with the weights of `tests/made_weights.py`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.errors import WeightsError
from jaxq.recipes import mobilebert, networks, weights
from tests.made_weights import all_made, images, made, sentences

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "network_shapes.json").read_text())
SOURCES = {
    **{"bert-tiny": "huggingface", "mobilebert": "huggingface", "mobilenet_v1": "huggingface"},
    **{f"efficientnet_lite{variant}": "timm" for variant in range(5)},
    **{name: "torchvision" for name in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")},
}
HEADS = {"bert-tiny": ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]}
HEADS["mobilebert"] = [name.replace("bert.pooler", "mobilebert.pooler") for name in HEADS["bert-tiny"]]


def network(name: str) -> networks.Network:
    """As shipped; MobileBERT with the two layers that the golden one has."""
    if name != "mobilebert":
        return networks.NETWORKS[name]

    def build(rngs: nnx.Rngs, **sizes: int) -> nnx.Module:
        return mobilebert.MobileBert(mobilebert.Config(layers=2, **sizes), rngs=rngs)

    source = networks.NETWORKS[name]["huggingface"]
    return {"huggingface": dataclasses.replace(source, build=build)}


def nothing(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Zeros that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_the_golden_networks_are_all_that_ship_but_other_sizes() -> None:
    others = {"all-MiniLM-L6-v2", "bert-base", "bert-mini", "bert-small"}  # of bert-tiny's names
    assert SHAPES.keys() == SOURCES.keys() == networks.NETWORKS.keys() - others


@pytest.mark.parametrize(
    "name", [name if name == "bert-tiny" else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_every_array_has_its_place(name: str) -> None:
    found = networks.placed(network(name), nothing(SHAPES[name]))
    assert found.source == SOURCES[name] and not found.match.missing
    assert sorted(found.match.unused) == sorted(HEADS.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in [f"efficientnet_lite{v}" for v in (2, 3, 4)]])
def test_outputs_are_those_of_the_other_package(name: str) -> None:
    found = networks.placed(network(name), all_made(SHAPES[name]))
    model = networks.filled(network(name)[found.source], found.sizes, found.match.arrays)
    inputs = [images()] if "net" in name else [sentences()[0].astype(np.int32), sentences()[1]]
    outputs = np.asarray(nnx.jit(lambda model, *inputs: model(*inputs))(encoder(model), *inputs))
    with np.load(GOLDEN / "network_logits.npz") as golden:
        wanted = golden[name]
    used = sentences()[1] if outputs.ndim == 3 else np.ones(len(outputs), bool)  # what stands at padding is no output
    assert np.max(np.abs(outputs - wanted)[used]) <= 1e-4 * np.max(np.abs(wanted))


def encoder(model: Any) -> Any:
    return getattr(model, "encoder", model)


def test_sizes_are_the_file_s() -> None:
    assert networks.placed(network("bert-tiny"), nothing(SHAPES["bert-tiny"])).sizes["vocabulary"] == 90
    assert networks.placed(network("mobilenet_v1"), nothing(SHAPES["mobilenet_v1"])).sizes == {"classes": 7}


def test_old_names_and_prefixes() -> None:
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): s for n, s in SHAPES["bert-tiny"].items()}
    old = {n.replace("LayerNorm.bias", "LayerNorm.beta").removeprefix("bert."): s for n, s in old.items()}
    assert "encoder.layer.1.output.LayerNorm.beta" in old
    assert not networks.placed(network("bert-tiny"), nothing(old)).match.missing


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Weights of bert-tiny, and a cache of its own."""
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path / "cache"))
    save_file(all_made(SHAPES["bert-tiny"]), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_a_network_takes_a_file_and_keeps_it(file: pathlib.Path) -> None:
    model = weights.pretrained("bert-tiny", file)
    assert model.encoder.embeddings.word.num_embeddings == 90
    kernel, theirs = model.encoder.layers[1].up.kernel, "bert.encoder.layer.1.intermediate.dense.weight"
    np.testing.assert_array_equal(kernel[...].T, made(theirs, (512, 128)))
    done = CliRunner().invoke(app, ["weights", "bert-tiny", "--file", str(file)])
    assert done.exit_code == 0, done.output
    assert "encoder/layers/1/up/kernel" in done.stdout and theirs in done.stdout and "transposed (1, 0)" in done.stdout
    assert "unused: classifier.bias [2]" in done.stdout and "37 of 37 arrays found, 4 of the file unused" in done.stdout
    kept = weights.pretrained("bert-tiny")
    for one, other in zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (model, kept)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_is_said(file: pathlib.Path) -> None:
    with pytest.raises(WeightsError, match=r"net.safetensors: 69 of the 69 arrays of bert-mini are not in it, su"):
        weights.pretrained("bert-mini", file)
    with pytest.raises(
        WeightsError,
        match="There is no network 'mobilenet_v3'. Did you mean .*'mobilenet_v3_small'",
    ):
        weights.pretrained("mobilenet_v3", file)
    with pytest.raises(WeightsError, match="To take them from a file: jaxq weights bert-tiny --file PATH"):
        weights.pretrained("bert-tiny")
    done = CliRunner().invoke(app, ["weights", "bert-tiny"])
    assert done.exit_code == 1 and "No package with weights of bert-tiny is known" in done.stderr
