"""Weight files of PyTorch, Keras, ONNX and others, against what these libraries said of them, and their outputs.

The files in tests/golden/weights were written by torch 2.13 and Keras 3.15, which also wrote `*_wanted.npz`.
"""

from __future__ import annotations

import io
import json
import pathlib
import sys
import zipfile
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx
from safetensors.numpy import save

from jaxq.errors import WeightsError
from jaxq.recipes import matching, networks, weights

GOLDEN = pathlib.Path(__file__).parent / "golden" / "weights"


class Net(nnx.Module):
    """The network of both libraries' files; `multiplier` channels out of the depthwise convolution for each in."""

    def __init__(self, multiplier: int = 1) -> None:
        rngs, wide = nnx.Rngs(0), 4 * multiplier
        valid = {"padding": "VALID", "rngs": rngs}
        self.conv = nnx.Conv(3, 4, (3, 3), use_bias=False, **valid)
        self.bn = nnx.BatchNorm(4, epsilon=1e-5 if multiplier == 1 else 1e-3, use_running_average=True, rngs=rngs)
        self.depthwise = nnx.Conv(4, wide, (3, 3), feature_group_count=4, **valid)
        self.head = nnx.Linear(wide, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.depthwise(jax.nn.relu(self.bn(self.conv(x)))))
        return self.head(x.mean((1, 2)))


def wanted(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as stored:
        return {key: stored[key] for key in stored.files}


TORCH = wanted("torch_wanted.npz")
KERAS = wanted("keras_wanted.npz")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_torch_before_1_6() -> None:
    found, told = weights.read(GOLDEN / "torch_legacy.pth"), wanted("torch_legacy_wanted.npz")
    assert found.keys() == told.keys() and all(np.array_equal(found[n], told[n]) for n in told)


def test_torch_since_1_6_with_an_optimizer_beside_the_weights() -> None:
    found = weights.read(GOLDEN / "torch_zip.pth")
    for name in TORCH.keys() - {"x", "y"}:
        assert np.array_equal(found[f"state_dict.module.{name}"], TORCH[name])
    assert np.array_equal(found["half"], TORCH["head.weight"].astype(np.float16))
    assert np.array_equal(found["bf16"], TORCH["head.weight"].astype(jnp.bfloat16))
    assert np.array_equal(found["param"], TORCH["head.bias"])


def test_onnx() -> None:
    found = weights.read(GOLDEN / "net.onnx")
    assert np.array_equal(found["head.weight"], TORCH["head.weight"])
    assert np.array_equal(found["depthwise.bias"], TORCH["depthwise.bias"])


@pytest.mark.parametrize("file", ["net.h5", "net.keras", "net.weights.h5"])
def test_keras(file: str) -> None:
    found = weights.read(GOLDEN / file)
    told = {name: a for name, a in KERAS.items() if name not in "xy"}
    for name, array in told.items():
        layer, leaf = name.split(".")[-2:]
        own = f"{layer}/{leaf}" if file == "net.h5" else f"layers/{layer}/{leaf}"
        assert np.array_equal(found[own], array), own
    assert len(found) == len(told)


def test_npz_safetensors_and_orbax(tmp_path: pathlib.Path) -> None:
    arrays = {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.array([1, 2], np.int32)}
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "a.bin").write_bytes(save(arrays))
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", {"a": {"b": arrays["a.b"]}, "c": arrays["c"]})
    for place in ("a.npz", "a.bin"):
        found = weights.read(tmp_path / place)
        assert found.keys() == arrays.keys() and all(np.array_equal(found[n], arrays[n]) for n in arrays)
    found = weights.read(tmp_path / "step")
    assert np.array_equal(found["a/b"], arrays["a.b"]) and np.array_equal(found["c"], arrays["c"])


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name, data in files.items():
            written.writestr(name, data)
    return stream.getvalue()


def hdf5(write: Any) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return stream.getvalue()


def external_onnx() -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    return onnx.helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no weights at all", "it is none of PyTorch, safetensors, NumPy, Keras, ONNX"),
        (b"", "it is none of PyTorch, safetensors, NumPy, Keras, ONNX"),
        (archive({"x/data.pkl": b"\x80\x02cos\nsystem\n."}), "the name 'os system' is not allowed"),
        (archive({"x/data.pkl": b"\x80\x02K\x01."}), "it holds no dict"),
        (archive({"a.npy": b"\x93NUMPY"}), "the archive is damaged or holds other things than arrays"),
        (hdf5(lambda f: f.create_dataset("w", (2,), "f4", external=[("/etc/passwd", 0, 8)])), "w is stored in another"),
        (hdf5(lambda f: f.create_dataset("w", (1 << 33,), "f4", chunks=(1 << 20,))), "w has 34,359,738,368 bytes in a"),
        (external_onnx(), "w is stored in another file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "the HDF5 file is damaged"),
    ],
)
def test_what_is_no_weight_file_is_refused(data: bytes, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path / "w")


def test_a_link_out_of_an_hdf5_file_is_not_followed(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["key"] = np.ones(3)

    def write(file: Any) -> None:
        file["w"] = np.zeros(2)
        file["out"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/key")

    (tmp_path / "w.h5").write_bytes(hdf5(write))
    assert weights.read(tmp_path / "w.h5").keys() == {"w"}


@pytest.mark.parametrize("file", ["torch_zip.pth", "net.h5", "net.onnx", "net.keras"])
def test_a_file_cut_anywhere_gives_arrays_or_a_weights_error(file: str, tmp_path: pathlib.Path) -> None:
    whole = (GOLDEN / file).read_bytes()
    for length in np.linspace(0, len(whole) - 1, 12).astype(int):
        (tmp_path / "w").write_bytes(whole[:length])
        try:
            assert all(isinstance(a, np.ndarray) for a in weights.read(tmp_path / "w").values())
        except WeightsError:
            continue


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"needs the package h5py. Run: pip install 'jaxq\[weights\]'"):
        weights.read(GOLDEN / "net.h5")


# --- matching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["torch_legacy.pth", "torch_zip.pth", "net.onnx"])
def test_a_network_of_torch_computes_the_same_here(file: str) -> None:
    told = TORCH if file != "torch_legacy.pth" else None
    arrays = {n: a for n, a in weights.read(GOLDEN / file).items() if not n.startswith("optimizer")}
    model = Net()
    found = weights.match(model, arrays)
    assert not found.missing, str(found)
    found.assign(model)
    if told is not None:
        y = model(told["x"].transpose(0, 2, 3, 1))
        np.testing.assert_allclose(y, told["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("file", ["net.h5", "net.keras", "net.weights.h5"])
def test_a_network_of_keras_computes_the_same_here(file: str) -> None:
    model = Net(multiplier=2)
    found = weights.match(model, weights.read(GOLDEN / file))
    assert not found.missing and not found.unused, str(found)
    np.testing.assert_allclose(found.assign(model)(KERAS["x"]), KERAS["y"], rtol=1e-4, atol=1e-4)


def test_rules_change_the_names_of_the_file() -> None:
    renamed = {name.replace("head", "classifier.1"): a for name, a in TORCH.items() if name not in "xy"}
    model = Net()
    assert [*weights.match(model, renamed).missing] == ["head/bias", "head/kernel"]
    assert not weights.match(model, renamed, [(r"^classifier\.1", "head")]).missing


def test_linens_variables_are_filled() -> None:
    class Dense(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.Dense(4, name="head")(x)

    module, x = Dense(), np.ones((2, 4), np.float32)
    variables = module.init(jax.random.key(0), x)
    found = weights.match(variables, TORCH)
    assert {r.ours: r.theirs for r in found.rows} == {
        "params/head/kernel": "head.weight", "params/head/bias": "head.bias",
    }  # fmt: skip
    y: Any = module.apply(found.assign(variables), x)
    np.testing.assert_allclose(y, x @ TORCH["head.weight"].T + TORCH["head.bias"], rtol=1e-5)


def test_the_table_says_what_went_where() -> None:
    arrays = {"head.weight": np.zeros((4, 4), np.float32), "head.bias": np.zeros(5, np.float32), "other": np.zeros(2)}
    found = weights.match({"head": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}}, arrays)
    assert str(found).splitlines()[1:] == [
        "  head/kernel  head.weight  [4, 4]  transposed (1, 0)",
        "missing: head/bias [4]",
        "unused: head.bias [5]",
        "unused: other [2]",
        "1 of 2 arrays found, 2 of the file unused",
    ]
    with pytest.raises(WeightsError, match="1 arrays of the model are not in the file: head/bias"):
        found.assign({})
    assert np.array_equal(found.assign({"head": {"bias": 7}}, partial=True)["head"]["bias"], 7)


def test_heads_of_attention_are_axes_of_their_own() -> None:
    w = np.arange(48, dtype=np.float32).reshape(8, 6)  # [out = 2 heads x 4, in]
    fitted = matching.fit(w, "query/kernel", (6, 2, 4), torch=True)
    assert fitted is not None and np.array_equal(fitted[0].reshape(6, 8), w.T)
    assert matching.fit(w, "query/kernel", (6, 3, 3), torch=True) is None
    assert matching.fit(w, "query/kernel", (4, 2, 6), torch=True) is None


def test_what_is_ambiguous_or_matches_nothing_is_refused() -> None:
    place = {"a": {"bias": np.zeros(2)}}
    with pytest.raises(WeightsError, match=r"a/bias fits 2 arrays of the file: x.a.bias, y.a.bias. Give a rule"):
        weights.match(place, {"x.a.bias": np.zeros(2), "y.a.bias": np.zeros(2)})
    with pytest.raises(WeightsError, match=r"The rule 'nothing' changes no name"):
        weights.match(place, {"a.bias": np.zeros(2)}, [("nothing", "x")])


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_published_network_takes_a_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from jaxq.cli.app import app

    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path / "cache"))
    source = networks.NETWORKS["mobilenet_v2"]["torchvision"]
    shapes = {path: shape for path, (shape, _) in networks.shapes(networks.shaped(source, {})).items()}
    back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    names = networks.their_names(source, shapes)
    theirs = {names[p][0]: a.transpose(back[a.ndim]) for p, a in arrays.items()}
    (tmp_path / "w.safetensors").write_bytes(save({n: np.ascontiguousarray(a) for n, a in theirs.items()}))
    done = CliRunner().invoke(app, ["weights", "mobilenet_v2", "--file", str(tmp_path / "w.safetensors"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"] == weights.parameters(arrays)
    assert all(np.array_equal(a, arrays[n]) for n, a in weights.load("mobilenet_v2").items())
