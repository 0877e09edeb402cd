"""The image networks at full size (224x224) on accelerators: what maps to the Edge TPU, what Vela makes of them.

pip install 'jaxq[recipes,vela]'
python benchmarks/targets.py             # random weights: what maps depends on shapes alone
python benchmarks/targets.py --write     # and puts the table into docs/results.md
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.export.targets import TARGETS, check, vela
from jaxq.recipes.efficientnet_lite import EfficientNetLite
from jaxq.recipes.mobilenet_v1 import MobileNetV1
from jaxq.recipes.mobilenet_v2 import MobileNetV2
from jaxq.recipes.mobilenet_v3 import MobileNetV3

Make = Callable[..., Any]
NETWORKS: dict[str, Make] = {
    "MobileNetV1": MobileNetV1,
    "MobileNetV2": MobileNetV2,
    "EfficientNet-Lite0": functools.partial(EfficientNetLite, 0),
    "MobileNetV3 small": functools.partial(MobileNetV3, "small"),
    "MobileNetV3 large": functools.partial(MobileNetV3, "large"),
}
ETHOS = ("ethos-u55", "ethos-u65", "ethos-u85")
HEAD = ("network", "Edge TPU: mapped", "of MACs", "first that is not", *ETHOS)
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- benchmarks/targets.py begins -->\n", "<!-- benchmarks/targets.py ends -->\n"


def exported(model: nnx.Module, x: np.ndarray, target: str) -> jaxq.export.Artifact:
    """The network's file for a target."""
    qmodel = jaxq.quantize(model, jaxq.Recipe(target=target), x)
    jaxq.calibrate(qmodel, [x], progress=False)
    return jaxq.export.to_tflite(qmodel, progress=False)


def for_edge_tpu(model: nnx.Module, x: np.ndarray) -> tuple[str, str, str]:
    """How many operators map, of MACs, the first that does not."""
    report = check(exported(model, x, "edgetpu").program, TARGETS["edgetpu"])
    first = next((p.kind for p in report.placements if not p.mapped), "")
    return f"{report.mapped} of {len(report.placements)}", f"{100 * report.mapped_macs / report.macs:.0f} %", first


def by_vela(data: bytes, target: str) -> str:
    """The operators that Vela leaves to the CPU, and its estimate of the time."""
    result = vela.compiled(data, TARGETS[target].compilers[0])
    return f"{len(result.cpu)}, {1e3 * result.seconds:.1f}"


def row(name: str) -> tuple[str, ...]:
    """The table's row of a network."""
    model, x = NETWORKS[name](rngs=nnx.Rngs(0)), np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    model.eval()
    artifact = exported(model, x, "litert")
    return name, *for_edge_tpu(model, x), *(by_vela(artifact.data, target) for target in ETHOS)


def write(table: str) -> None:
    """Put the table between its two marks in docs/results.md."""
    text = RESULTS.read_text()
    before, rest = text.split(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}{table}\n{rest[rest.index(END) :]}")


def main() -> None:
    """Print the table; with --write, into docs/results.md too."""
    found = [HEAD, tuple("---" for _ in HEAD), *map(row, NETWORKS)]
    table = "\n".join(f"| {' | '.join(cells)} |".replace("  ", " ") for cells in found)
    print(table)
    if "--write" in sys.argv[1:]:
        write(table)


if __name__ == "__main__":
    main()
