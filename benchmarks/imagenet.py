"""Published ImageNet weights in int8, without training: accuracy on twenty photos, and integers that differ.

python benchmarks/imagenet.py             # fetches weights and photos once, about 32 MB
python benchmarks/imagenet.py --write     # and puts the table into docs/results.md
"""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.recipes import weights
from jaxq.recipes.photos import photos

TITLES = {"mobilenet_v2": "MobileNetV2-1.0", "efficientnet_lite0": "EfficientNet-Lite0"}
HEAD = ("network", "reading", "top-1", "top-5", "xnnpack differs", "reference differs", "training forward differs")
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- benchmarks/imagenet.py begins -->\n", "<!-- benchmarks/imagenet.py ends -->\n"


def top(logits: np.ndarray, labels: np.ndarray, k: int) -> str:
    """Photos whose label is among the k greatest logits."""
    best = np.argsort(-logits, axis=-1)[:, :k]
    return f"{int(np.sum(best == labels[:, None]))} of {len(labels)}"


def rows(name: str) -> list[tuple[str, ...]]:
    """The float network's and the int8 file's accuracy, and the certificate of the file."""
    weights.install(name)
    published, model = weights.checkpoint(name), weights.pretrained(name)
    data = photos(interpolation=published.interpolation)
    x = published.preprocess(data.images)
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
    qmodel = jaxq.quantize(model, "int8", x[:1])
    jaxq.calibrate(qmodel, (x[i : i + 4] for i in range(0, len(x), 4)))
    artifact = jaxq.export.to_tflite(qmodel)
    (integers,) = artifact.run(x)
    proof = artifact.verify(x[i : i + 4] for i in range(0, len(x), 4))
    assert proof.simulation is not None
    forward = f"{proof.simulation_differing:,} of {proof.simulation.compared:,}"
    differing = [f"{tally.total:,} of {tally.compared:,}" for tally in proof.families.values()]
    return [
        (TITLES[name], "float", top(logits, data.labels, 1), top(logits, data.labels, 5), "", "", ""),
        ("", "int8 file", top(integers, data.labels, 1), top(integers, data.labels, 5), *differing, forward),
    ]


def write(table: str) -> None:
    """Put the table between its two marks in docs/results.md."""
    text = RESULTS.read_text()
    before, rest = text.split(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}{table}\n{rest[rest.index(END) :]}")


def main() -> None:
    """Print the table; with --write, into docs/results.md too."""
    found = [HEAD, tuple("---" for _ in HEAD), *(row for name in weights.CHECKPOINTS for row in rows(name))]
    table = "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in found)
    print(f"jax {jax.__version__}\n\n{table}")
    if "--write" in sys.argv[1:]:
        write(table)


if __name__ == "__main__":
    main()
