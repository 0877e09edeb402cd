"""Every network that ships, by name: who writes weights for it, under which names, and how it is built for them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxq.display.text import did_you_mean
from jaxq.errors import WeightsError
from jaxq.recipes import bert, mobilebert, weight_names
from jaxq.recipes.efficientnet_lite import STAGES, VARIANTS, EfficientNetLite
from jaxq.recipes.layers import Convention
from jaxq.recipes.matching import Match, Row, fit, match
from jaxq.recipes.mobilenet_v1 import MobileNetV1
from jaxq.recipes.mobilenet_v2 import TORCHVISION, MobileNetV2
from jaxq.recipes.mobilenet_v3 import MobileNetV3
from jaxq.recipes.weight_names import Names

# What our leaf is called by PyTorch; before 2020 the scale and bias of LayerNorm were gamma and beta.
LEAVES: dict[str, tuple[str, ...]] = {
    "bias": ("bias", "beta"),
    "embedding": ("weight",),
    "kernel": ("weight",),
    "mean": ("running_mean",),
    "scale": ("weight", "gamma"),
    "var": ("running_var",),
}
PREFIXES = ("", "bert.", "mobilebert.", "mobilenet_v1.", "module.", "model.")
HALF = (127.5, 127.5, 127.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
CLASSES = {"classes": "classifier/bias"}
Rgb = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights as one package writes them.

    names: of all modules. build(rngs, **sizes): the network as they were trained: padding, epsilon. sizes: what of it a
    file decides, as the first axis of one of our arrays. mean, std: an input is (pixel - mean) / std.
    """

    names: Names
    build: Callable[..., nnx.Module]
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mean: Rgb = (0.0, 0.0, 0.0)
    std: Rgb = (1.0, 1.0, 1.0)


Network = Mapping[str, Source]  # by who wrote the weights; the first is what is built without any


def _lite(variant: int) -> Network:
    depth = VARIANTS[variant][1]
    inner = [math.ceil(repeats * depth) for _, repeats, *_ in STAGES[1:-1]]  # first and last stage keep their depth
    build = functools.partial(_called, EfficientNetLite, variant)
    lite = Source(
        weight_names.by_pattern(weight_names.LITE), build, CLASSES, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    )
    timm = weight_names.timm_lite([STAGES[0][1], *inner, STAGES[-1][1]])
    return {"efficientnet_lite_pytorch": lite, "timm": Source(timm, build, CLASSES, HALF, HALF)}


def _mobilenet_v3(size: str) -> Network:
    names = weight_names.torchvision("block", {"hidden": "classifier.0", "classifier": "classifier.3"})
    build = functools.partial(_called, MobileNetV3, size, convention=Convention(padding="SYMMETRIC"))
    return {"torchvision": Source(names, build, CLASSES, IMAGENET_MEAN, IMAGENET_STD)}


def _bert(config: str) -> Network:
    def build(rngs: nnx.Rngs, **sizes: int) -> nnx.Module:
        return bert.SentenceEncoder(dataclasses.replace(bert.CONFIGS[config], **sizes), rngs=rngs)

    table = {"vocabulary": "word", "positions": "position", "types": "type"}
    sizes = {name: f"encoder/embeddings/{part}/embedding" for name, part in table.items()}
    return {"huggingface": Source(weight_names.by_pattern(weight_names.BERT), build, sizes)}


def _mobilebert() -> Network:
    def build(rngs: nnx.Rngs, **sizes: int) -> nnx.Module:
        return mobilebert.MobileBert(mobilebert.Config(**sizes), rngs=rngs)

    table = {"vocabulary": "word", "positions": "position", "types": "type"}
    sizes = {name: f"embeddings/{part}/embedding" for name, part in table.items()}
    return {"huggingface": Source(weight_names.by_pattern(weight_names.MOBILE_BERT), build, sizes)}


def _called(network: Callable[..., nnx.Module], *args: Any, rngs: nnx.Rngs, **settings: Any) -> nnx.Module:
    return network(*args, rngs=rngs, **settings)


NETWORKS: dict[str, Network] = {
    "all-MiniLM-L6-v2": _bert("minilm-l6"),
    "bert-base": _bert("bert-base"),
    "bert-mini": _bert("bert-mini"),
    "bert-small": _bert("bert-small"),
    "bert-tiny": _bert("bert-tiny"),
    **{f"efficientnet_lite{variant}": _lite(variant) for variant in VARIANTS},
    "mobilebert": _mobilebert(),
    "mobilenet_v1": {
        "huggingface": Source(
            weight_names.hugging_face_mobilenet_v1, functools.partial(_called, MobileNetV1), CLASSES, HALF, HALF
        )
    },
    "mobilenet_v2": {
        "torchvision": Source(
            weight_names.torchvision("conv", {"classifier": "classifier.1"}),
            functools.partial(_called, MobileNetV2, convention=TORCHVISION), CLASSES, IMAGENET_MEAN, IMAGENET_STD,
        )
    },
    "mobilenet_v3_large": _mobilenet_v3("large"),
    "mobilenet_v3_small": _mobilenet_v3("small"),
}  # fmt: skip


def network_named(name: str) -> Network:
    """A shipped network. Raises WeightsError with the nearest."""
    if name not in NETWORKS:
        raise WeightsError(
            f"There is no network {name!r}. {did_you_mean(name, NETWORKS)} Shipped are {', '.join(NETWORKS)}."
        )
    return NETWORKS[name]


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where the arrays of a file go: by the names of which source, in a network of which sizes."""

    source: str
    sizes: Mapping[str, int]
    match: Match


def placed(network: Network, arrays: Mapping[str, np.ndarray]) -> Placed:
    """The place of each array of a file, by the source whose names the most of them have.

    Where no source's names fit all, names are compared as `weights.match` compares them, and what places more counts.
    """
    found = [_placed(name, source, arrays) for name, source in network.items()]
    best = max(found, key=lambda one: len(one.match.rows))
    if not best.match.missing:
        return best
    name, source = next(iter(network.items()))
    sizes = _sizes(source, {path: path for path in source.sizes.values()}, arrays)
    try:
        other = Placed(name, sizes, match(shaped(source, sizes), arrays))
    except WeightsError:  # two arrays fit one place: its names are not ours
        return best
    return other if len(other.match.rows) > len(best.match.rows) else best


def shaped(source: Source, sizes: Mapping[str, int]) -> Any:
    """The network with shapes in place of arrays: nothing is computed."""
    return nnx.eval_shape(lambda: source.build(rngs=nnx.Rngs(0), **sizes))


def shapes(model: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of each parameter and statistic, by path."""
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): (tuple(variable.shape), variable.dtype) for path, variable in state}


def filled(source: Source, sizes: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> Any:
    """The network with these arrays, by our names, in evaluation mode."""
    model = shaped(source, sizes)
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    given = [(path, v.replace(jnp.asarray(arrays["/".join(map(str, path))]))) for path, v in state]
    nnx.update(model, nnx.from_flat_state(given))
    for _, module in nnx.iter_modules(model):  # its streams of random numbers: the rest was never initialised
        if isinstance(module, nnx.Dropout):
            module.rngs = nnx.Rngs(0)["dropout"].fork()
    model.eval()
    return model


def their_names(source: Source, paths: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What each of our arrays may be called in a file, without a prefix."""
    split = [path.rsplit("/", 1) for path in paths]
    modules = source.names(list(dict.fromkeys(module for module, _ in split)))
    return {f"{module}/{leaf}": tuple(f"{modules[module]}.{word}" for word in LEAVES[leaf]) for module, leaf in split}


def _placed(name: str, source: Source, arrays: Mapping[str, np.ndarray]) -> Placed:
    wanted = _shapes(source.build)
    known = _known(source, wanted, arrays)
    sizes, rows, found = _sizes(source, known, arrays), [], {}
    if any(wanted[source.sizes[size]][0][0] != value for size, value in sizes.items()):
        wanted = shapes(shaped(source, sizes))
    for ours, theirs in known.items():
        shape, dtype = wanted[ours]
        fitted = fit(arrays[theirs], ours, shape, torch=theirs.endswith("weight"))
        if fitted is not None:
            rows.append(Row(ours, theirs, shape, fitted[1]))
            found[ours] = np.ascontiguousarray(fitted[0], dtype)
    used = {row.theirs for row in rows}
    missing = {path: shape for path, (shape, _) in wanted.items() if path not in found}
    unused = {n: a.shape for n, a in arrays.items() if n not in used and not n.endswith("num_batches_tracked")}
    return Placed(name, sizes, Match(tuple(rows), missing, unused, found))


@functools.lru_cache(maxsize=2)
def _shapes(build: Callable[..., nnx.Module]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Of the network as it is built by default. Tracing takes seconds of CPU time; sources share a `build`."""
    return shapes(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))


def _known(source: Source, paths: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The file's name of each of our arrays that it has."""
    found = {}
    for ours, names in their_names(source, paths).items():
        fits = [prefix + name for prefix in PREFIXES for name in names if prefix + name in arrays]
        if fits:
            found[ours] = fits[0]
    return found


def _sizes(source: Source, known: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What the file decides of the network."""
    given = {size: known.get(path, "") for size, path in source.sizes.items()}
    return {size: arrays[name].shape[0] for size, name in given.items() if name in arrays and arrays[name].ndim}
