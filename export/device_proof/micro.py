"""A C file for TFLite Micro: the model, one example and the outputs that its kernels compute."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.program import evaluate
from jaxq.export.program import Program

NUMBERS = 16  # a line
TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t"}
TYPES |= {"float32": "float", "bool": "uint8_t"}
HEAD = """/* A .tflite model, one example and its expected outputs on TFLite Micro. Written by jaxq.
 *
 * Copy jaxq_input_K into the interpreter's input K, invoke, and give each output K to jaxq_differing_K: it returns how
 * many of its numbers differ, which must be 0. With -DJAXQ_MAIN the file is a program that checks itself. */
#include <stddef.h>
#include <stdint.h>
#ifdef JAXQ_MAIN
#include <stdio.h>
#endif

"""
MAIN = """
#ifdef JAXQ_MAIN
int main(void) {{
  size_t differing = {calls};
  printf("%zu bytes, %zu of {total} numbers differ\\n", sizeof jaxq_model, differing);
  return differing != 0;
}}
#endif
"""


def c_source(program: Program, data: bytes, inputs: Sequence[np.ndarray]) -> str:
    """The file's text; of a model that TFLite Micro has no kernel for, a comment that says so."""
    example = [a[:1] for a in inputs]
    try:
        outputs = jax.jit(evaluate(program, "tflm"))(*example)
    except ExportError as error:
        return f"/* {str(error).replace('*/', '* /')} So there is no proof for TFLite Micro. */\n"
    assert isinstance(outputs, tuple)
    found = [np.asarray(output) for output in outputs]
    parts = [_array("model", np.frombuffer(data, np.uint8), "_Alignas(16) ")]
    parts += [_array(f"input_{k}", a) for k, a in enumerate(example)]
    for k, output in enumerate(found):
        parts += [_array(f"expected_{k}", output), _differing(k, output)]
    calls = " + ".join(f"jaxq_differing_{k}(jaxq_expected_{k})" for k in range(len(found)))
    return HEAD + "\n".join(parts) + MAIN.format(calls=calls, total=sum(output.size for output in found))


def _array(name: str, array: np.ndarray, before: str = "") -> str:
    flat = [repr(float(x)) if array.dtype == np.float32 else str(int(x)) for x in array.reshape(-1)]
    rows = [", ".join(flat[i : i + NUMBERS]) for i in range(0, len(flat), NUMBERS)]
    body = ",\n  ".join(rows)
    return f"{before}const {TYPES[str(array.dtype)]} jaxq_{name}[{len(flat)}] = {{\n  {body}}};\n"


def _differing(k: int, output: np.ndarray) -> str:
    return (
        f"size_t jaxq_differing_{k}(const {TYPES[str(output.dtype)]} *found) {{\n"
        f"  size_t differing = 0;\n"
        f"  for (size_t i = 0; i < {output.size}; i++) differing += found[i] != jaxq_expected_{k}[i];\n"
        f"  return differing;\n}}\n"
    )
