"""A SavedModel for TF Serving that computes the file's integers: the file as StableHLO, by jax2tf.

TensorFlow and jax2tf are imported here alone, when `to_saved_model` is called.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxq.errors import ExportError
from jaxq.export.artifact import Artifact, to_tflite
from jaxq.export.evaluate.kernels.machine import PHONE
from jaxq.export.evaluate.load import Loaded, Port, load
from jaxq.export.files import refuse_place
from jaxq.export.runtimes.interpreters import INTERPRETERS

PLATFORMS = ("cpu", "cuda")
FLOATS, INTEGERS = "serving_default", "integers"  # the names of the two signatures


def to_saved_model(
    target: Any,
    path: str | os.PathLike[str],
    *state: Any,
    machine: str | None = None,
    platforms: Sequence[str] = ("cpu",),
    progress: bool = True,
) -> pathlib.Path:
    """Write a TensorFlow SavedModel that computes the integers of the exported file.

    It has two signatures. `serving_default` takes and returns real numbers, float32, as `artifact.run` does:
    `q = clip(rint(x * f32(1 / scale)) + zero_point)` before the file's operators and `scale * (q - zero_point)` after
    them; inputs that have no scale, such as indices, are as in the file. `integers` takes and returns the file's own
    integers. Inputs and outputs have the names of the file's, with `_` in place of what TensorFlow allows in no name.

    The operators are jaxq's reading of the family `xnnpack`, compiled by TensorFlow's XLA. They are not TFLite's
    kernels and run at XLA's speed. Float32 operators agree within a tolerance, as in `Artifact.verify`.

    Args:
      target: what `jaxq.quantize` gave, or an `Artifact`.
      path: the folder, made here. TF Serving reads `NAME/VERSION`, such as `models/net/1`.
      state: as for `to_tflite`: nothing for NNX and for an artifact, `variables` for Linen, `params, ranges` for a
        function.
      machine: whose integers: "aarch64" or "x86_64". By default those of the model's target.
      platforms: where the SavedModel runs: "cpu", "cuda". Its integers are tested on the CPU.
      progress: show a progress bar.

    Returns:
      The path.

    Raises:
      ExportError: TensorFlow is missing, the path exists, an operator has no exact kernel, or a platform is not
        known.
    """
    folder = pathlib.Path(path)
    tf = _tensorflow()
    _refuse(folder, platforms)
    artifact = target if isinstance(target, Artifact) else to_tflite(target, *state, progress=progress)
    read = load(artifact.data, machine=machine or (artifact.proof.machine if artifact.proof else PHONE))
    module = tf.Module()
    functions = {FLOATS: _function(tf, read, read.real, True, platforms),
                 INTEGERS: _function(tf, read, read.__call__, False, platforms)}  # fmt: skip
    module.functions = functions  # a signature's function must be reachable from the module
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".jaxq.") as part:
        made = pathlib.Path(part, "model")
        tf.saved_model.save(module, str(made), signatures=functions)
        os.rename(made, folder)
    return folder


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise INTERPRETERS["tf.lite"].missing() from error
    return tf


def _refuse(folder: pathlib.Path, platforms: Sequence[str]) -> None:
    if unknown := [p for p in platforms if p not in PLATFORMS]:
        raise ExportError(f"A SavedModel for {unknown[0]!r} is not known. Platforms: {', '.join(PLATFORMS)}.")
    if os.path.lexists(folder):
        raise ExportError(
            f"{folder} exists. Give another path: TF Serving takes the next version as a folder beside it."
        )
    refuse_place(folder, force=False)


def _function(
    tf: Any, read: Loaded, call: Callable[..., tuple[jax.Array, ...]], real: bool, platforms: Sequence[str]
) -> Any:
    """A tf.function of the file's inputs, by name, to a dict of its outputs, by name. A leading 1 is any batch."""
    from jax.experimental import jax2tf

    inputs, outputs = read.inputs, _names(read.outputs)
    batched = [port.shape[:1] == (1,) for port in inputs]
    converted = jax2tf.convert(
        lambda *arrays: dict(zip(outputs, call(*arrays), strict=True)),
        polymorphic_shapes=["(b, ...)" if has_batch else None for has_batch in batched],
        with_gradient=False,
        native_serialization_platforms=tuple(platforms),
    )
    specs = [
        tf.TensorSpec((None, *port.shape[1:]) if has_batch else port.shape, _dtype(port, real), name=name)
        for port, has_batch, name in zip(inputs, batched, _names(inputs), strict=True)
    ]
    return tf.function(converted, input_signature=specs, autograph=False)


def _dtype(port: Port, real: bool) -> str:
    return "float32" if real and port.scale is not None else port.dtype


def _names(ports: Sequence[Port]) -> list[str]:
    """The names of ports as TensorFlow's signatures take them, each once."""
    found: list[str] = []
    for port in ports:
        name = re.sub(r"[^A-Za-z0-9_]", "_", port.name).lstrip("_0123456789") or "x"
        found.append(name if name not in found else f"{name}_{len(found)}")
    return found
