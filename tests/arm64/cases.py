"""The files that are run on emulated machines: the zoo, the sixty-three networks, and files of one operator.

A case is (name, data, family, inputs): inputs are arrays in the file's shapes or with a batch in place of their leading
1. A network that a recipe refuses gives no case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxq
import jaxq.export
from jaxq.errors import JaxqError
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import quantized
from jaxq.export.program import Program
from tests import sixty_three, zoo

RECIPES = ("int8", "int4", "int16x8", "dynamic-range-int8", "float16")
FAMILIES = ("xnnpack", "reference")


class Case(NamedTuple):
    """A file, and what it is run on."""

    name: str
    data: bytes
    family: str
    inputs: list[np.ndarray]


def networks(recipe: str, examples: int, names: tuple[str, ...] = ()) -> Iterator[Case]:
    """Every network of the zoo and of the sixty-three, or those named, by a recipe, in the family `xnnpack`."""
    wanted = [*(f"zoo/{n}" for n in zoo.ZOO), *(f"63/{n}" for n in sixty_three.SIXTY_THREE)]
    for name in names or wanted:
        try:
            artifact, inputs = _exported(name, recipe, examples)
        except JaxqError as error:
            print(f"  {name}, {recipe}: refused, {str(error).splitlines()[0][:100]}")
            continue
        yield Case(f"{recipe}/{name}/xnnpack", artifact.data, "xnnpack", inputs)
        jax.clear_caches()


def _exported(name: str, recipe: str, examples: int) -> tuple[jaxq.export.Artifact, list[np.ndarray]]:
    group, own = name.split("/", 1)
    if group == "zoo":
        case = zoo.ZOO[own]()
        args, kwargs = case.first(1)
        qmodel, batches = jaxq.quantize(case.model, recipe, *args, **kwargs), case.batches
        arrays: Any = tuple(a[:examples] for a in case.arrays)
    else:
        network = sixty_three.case(own)
        qmodel, batches = jaxq.quantize(network.model, recipe, network.examples[:1]), [network.examples]
        arrays = (network.examples[:examples],)
    if not qmodel.plan.recipe.floats:
        jaxq.calibrate(qmodel, batches, progress=False)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    return artifact, [quantized(a, entry) for a, entry in zip(arrays, artifact.manifest["inputs"], strict=True)]


def operators(most: int) -> Iterator[Case]:
    """Every file of one operator of the kernel tests, each family, on at most so many examples."""
    from tests import test_kernels

    for name, (built, count) in test_kernels.CASES.items():
        for family in FAMILIES:
            inputs = test_kernels.examples(built, min(count, most))
            yield Case(f"operators/{name}/{family}", write(built), family, inputs)


def one_after_the_other(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """(examples, *the file's shape) of each input."""
    shapes = [program.tensors[index].shape for index in program.inputs]
    if all(a.shape == shape for a, shape in zip(inputs, shapes, strict=True)):
        return [a[None] for a in inputs]
    count = next(len(a) for a, shape in zip(inputs, shapes, strict=True) if a.shape != shape)
    return [
        np.broadcast_to(a, (count, *shape)) if a.shape == shape else a.reshape(count, *shape)
        for a, shape in zip(inputs, shapes, strict=True)
    ]
