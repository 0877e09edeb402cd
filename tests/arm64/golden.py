"""Writes tests/golden/aarch64.npz: what LiteRT computes on an emulated Cortex-A76, for files of one operator.

python tests/arm64/golden.py [WORK]   (needs what `make arm64` needs)
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jaxq.export.flatbuffer.write import write  # noqa: E402
from jaxq.export.program import Program  # noqa: E402
from tests import test_kernels as kernels  # noqa: E402
from tests.arm64.cases import Case  # noqa: E402
from tests.arm64.compare import CACHE, emulate, prepare  # noqa: E402

SOFTMAX = (1 / 256, -128)
COARSE = (0.0006, 0.025)


def softmax(classes: int, scale: float, beta: float = 1.0) -> Program:
    """A row of so many classes."""
    return kernels.unary("SOFTMAX", (scale, 5), SOFTMAX, shape=(1, 20, classes), beta=beta)


FILES: dict[str, tuple[Program, int]] = {
    "conv int16": (kernels.wide(kernels.conv((6, 6, 8), 8, (3, 3), scale=COARSE)), 8),
    "conv int4": (kernels.packed(kernels.conv((6, 6, 8), 8, (3, 3), y=(0.05, 3))), 8),
    "conv int8, everywhere": (kernels.conv((6, 6, 8), 8, (3, 3), y=(0.05, 3)), 8),
    "dense int16": (kernels.wide(kernels.dense(300, 64, 10, scale=COARSE)), 1),
    "dense int4, even, everywhere": (kernels.packed(kernels.dense(300, 64, 10, y=(0.05, 3))), 1),
    "dense int4, one row, everywhere": (kernels.packed(kernels.dense(1, 63, 1000, y=(0.05, 3), largest=127)), 1),
    "dense int4, odd": (kernels.packed(kernels.dense(300, 63, 10, y=(0.05, 3))), 1),
    "mul, halves": (kernels.binary("MUL", (0.5, 3), (0.25, -2), (0.25, 1), shapes=((1, 9, 30), (1, 9, 30))), 8),
    "softmax, flat": (softmax(100, 0.02), 10),
    "softmax, steep": (softmax(19, 0.09, 0.7), 20),
    "softmax, ten": (softmax(10, 0.03), 8),
}  # fmt: skip


def main() -> None:
    """Run the files and write the archive."""
    work = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "arm64")
    cases = {name: (write(built), kernels.examples(built, count)) for name, (built, count) in FILES.items()}
    folder = work / "golden"
    prepare((Case(name, data, "xnnpack", inputs) for name, (data, inputs) in cases.items()), folder / "cases")
    emulate(CACHE, "cortex-a76", folder / "cases", folder / "found")
    kept: dict[str, np.ndarray] = {}
    for path in sorted((folder / "cases").glob("*.npz")):
        name, found = str(np.load(path)["name"]), np.load(folder / "found" / path.name)["out0"]
        data, inputs = cases[name]
        kept[f"{name}:model"] = np.frombuffer(data, np.uint8)
        kept |= {f"{name}:in{i}": a for i, a in enumerate(inputs)}
        kept[f"{name}:out"] = found[:, 0] if found.shape[1] == 1 else found.reshape(-1, *found.shape[2:])
    np.savez_compressed(ROOT / "tests" / "golden" / "aarch64.npz", **kept)  # type: ignore[arg-type]
    print(f"tests/golden/aarch64.npz: {len(cases)} files")


if __name__ == "__main__":
    main()
