"""Runs files on LiteRT, inside the emulated machine: numpy and ai-edge-litert alone.

run_files.py INPUTS OUTPUTS: for each INPUTS/NAME.npz writes OUTPUTS/NAME.npz. An input archive holds `family`, bytes
`model` (the file to run) and `every` (a copy whose outputs are all its tensors), and `in0`, `in1`, ..., each one
example after the other. The results are `out0`, ... of `model` and `all0`, ... of `every`, or `error`.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

RESOLVERS = {"xnnpack": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}


def outputs(data: bytes, family: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The file's outputs, an example after the other."""
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=RESOLVERS[family], num_threads=1)
    interpreter.allocate_tensors()
    found = []
    for example in zip(*inputs, strict=True):
        for detail, value in zip(interpreter.get_input_details(), example, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
        found.append([interpreter.get_tensor(d["index"]).copy() for d in interpreter.get_output_details()])
    return [np.stack(values) for values in zip(*found, strict=True)]


def run(case: np.lib.npyio.NpzFile) -> dict[str, Any]:
    """The results of one archive."""
    inputs = [case[f"in{i}"] for i in range(sum(name.startswith("in") for name in case.files))]
    try:
        own = outputs(case["model"].tobytes(), str(case["family"]), inputs)
        every = outputs(case["every"].tobytes(), str(case["family"]), inputs)
    except (RuntimeError, ValueError) as error:
        return {"error": np.array(str(error))}
    return {f"out{i}": v for i, v in enumerate(own)} | {f"all{i}": v for i, v in enumerate(every)}


def main() -> None:
    """Run all archives that have no results yet."""
    source, target = map(pathlib.Path, sys.argv[1:3])
    for path in sorted(source.glob("*.npz")):
        if not (target / path.name).exists():
            np.savez(target / f"part-{path.name}", **run(np.load(path)))
            (target / f"part-{path.name}").rename(target / path.name)


if __name__ == "__main__":
    main()
