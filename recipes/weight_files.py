"""Arrays out of other people's weight files, by name; nothing in such a file is run.

| format | told by | names |
| --- | --- | --- |
| PyTorch, before and since 1.6 | its pickle, read by `torch_file` | `features.0.0.weight` |
| safetensors | its header | as in the file |
| NumPy .npz | a zip of .npy | as in the file |
| Keras 3 .keras, .weights.h5 | a zip with model.weights.h5; HDF5 with `vars` | `layers/stem/kernel` |
| Keras 2 .h5 | HDF5 | `stem/kernel` |
| ONNX | anything else that parses | of the initializers |
| orbax | a folder | `params/conv/kernel` |
"""

from __future__ import annotations

import importlib
import io
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxq.errors import WeightsError
from jaxq.recipes import torch_file

HDF5, LEGACY_TORCH = b"\x89HDF\r\n\x1a\n", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"
LARGEST_RATIO = 1024  # of an array in memory to its file: what deflate can do, and no file of weights comes near it

# The variables of a Keras 3 layer by number; the longest beginning of the layer's name decides.
KERAS_VARIABLES = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv": ("kernel", "bias"),
    "embedding": ("embeddings",),
    "layer_normalization": ("gamma", "beta"),
}


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a weight file by name, in its own shapes and order of axes.

    Args:
      path: a file of PyTorch, safetensors, NumPy (.npz), Keras (.keras, .h5) or ONNX, or a folder of orbax. Its bytes
        tell which, not its name.

    Raises: WeightsError where it is none of these, is damaged, holds more than arrays, or a package is missing.
    """
    place = pathlib.Path(path)
    if place.is_dir():
        return _orbax(place)
    try:
        data = place.read_bytes()
    except OSError as e:
        raise WeightsError(f"Cannot read {place}: {e.strerror}.") from e
    try:
        return _reader(data)(data)
    except WeightsError as e:
        raise WeightsError(f"{place}: {e}") from e


def _reader(data: bytes) -> Callable[[bytes], dict[str, np.ndarray]]:
    if data[:8] == HDF5:
        return _hdf5
    if data[:8] == LEGACY_TORCH:
        return torch_file.read_tensors
    if data[:4] == b"PK\x03\x04":
        return _zip
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _safetensors
    return _onnx


def _zip(data: bytes) -> dict[str, np.ndarray]:
    """PyTorch since 1.6, .keras or .npz, by what is in the archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if any(name.endswith("/data.pkl") for name in names):
                return torch_file.read_archive(archive)
            if "model.weights.h5" in names:
                return _hdf5(archive.read("model.weights.h5"))
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError) as e:
        raise WeightsError(f"the archive is damaged or holds other things than arrays: {_line(e)}.") from e


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    from jaxq.recipes.safetensors_weights import read_safetensors

    return read_safetensors(data)


def _hdf5(data: bytes) -> dict[str, np.ndarray]:
    """Every dataset of numbers. Links out of the file, external and virtual storage are not followed."""
    h5py = _package("h5py")
    found: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiub":
            return
        if node.external or node.is_virtual:
            raise WeightsError(f"{name} is stored in another file.")
        if node.nbytes > LARGEST_RATIO * len(data):
            raise WeightsError(
                f"{name} has {node.nbytes:,} bytes in a file of {len(data):,}: it would fill memory. Save it with its "
                "data."
            )
        found[_keras_name(name, node.parent.attrs.get("name"))] = np.asarray(node[()])

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError, KeyError) as e:
        raise WeightsError(f"the HDF5 file is damaged: {_line(e)}.") from e
    return {name: array for name, array in found.items() if not name.startswith(("optimizer", "optimizer_weights"))}


def _keras_name(name: str, layer_name: Any) -> str:
    """`stem/net/stem/kernel:0` is `stem/kernel`; `layers/conv2d/vars/0` of the layer `stem` is `layers/stem/kernel`."""
    parts = re.sub(r":\d+$", "", name).removeprefix("model_weights/").split("/")
    if parts[0] in parts[1:-1]:  # Keras 2 begins with the layer, then has the path in the model
        parts = parts[len(parts) - 1 - parts[::-1].index(parts[0]) :]
    if len(parts) >= 3 and parts[-2] == "vars" and parts[-1].isdigit():
        layer, number = parts[-3], int(parts[-1])
        known = max((k for k in KERAS_VARIABLES if layer.startswith(k)), key=len, default="")
        names = KERAS_VARIABLES.get(known, ())
        own = layer_name if isinstance(layer_name, str) else layer
        parts = [*parts[:-3], own, names[number] if number < len(names) else parts[-1]]
    return "/".join(parts)


def _onnx(data: bytes) -> dict[str, np.ndarray]:
    """The initializers of a model. Data in other files is not read."""
    onnx = _package("onnx")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = onnx.load_model_from_string(data)
            initializers = list(model.graph.initializer)
            if not initializers:
                raise WeightsError("it is none of PyTorch, safetensors, NumPy, Keras, ONNX with initializers.")
            for tensor in initializers:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    raise WeightsError(f"{tensor.name} is stored in another file; save the model in one.")
            return {tensor.name: np.asarray(onnx.numpy_helper.to_array(tensor)) for tensor in initializers}
    except WeightsError:
        raise
    except Exception as e:  # protobuf's own classes differ by version
        raise WeightsError(f"it is none of PyTorch, safetensors, NumPy, Keras, ONNX: {_line(e)}.") from e


def _orbax(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """A checkpoint of a pytree of arrays; of a manager's step the item `default`."""
    import orbax.checkpoint as ocp

    place = next((p for p in (folder / "default", folder) if (p / "_METADATA").is_file()), None)
    if place is None:
        raise WeightsError(f"{folder} is no orbax checkpoint: it has no file _METADATA. Name the folder of one step.")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.restore(place.absolute())
    except (ValueError, OSError, KeyError, TypeError) as e:
        raise WeightsError(f"{place} cannot be restored: {_line(e)}.") from e
    return flat(tree)


def flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of nested mappings and lists by path, `params/conv/kernel`."""
    if isinstance(tree, Mapping):
        items = [(str(k), v) for k, v in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(i), v) for i, v in enumerate(tree)]
    else:
        return {prefix: np.asarray(tree)} if hasattr(tree, "shape") else {}
    return {path: a for k, v in items for path, a in flat(v, f"{prefix}/{k}" if prefix else k).items()}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != name:
            raise
        raise WeightsError(f"it needs the package {name}. Run: pip install 'jaxq[weights]'") from e


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
