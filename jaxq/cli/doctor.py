"""`jaxq doctor`: what is installed, what runs, and the line that installs what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator
from typing import Any

from jaxq.cli import options
from jaxq.cli.output import Result, Table

REQUIRED = ("jax", "flax", "optax", "numpy", "jaxtyping", "msgspec", "rich")
# By extra of pyproject.toml: what it is for, and the packages that it brings itself.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "export": ("writing, reading and proving .tflite files, the command line",
               ("ai-edge-litert", "flatbuffers", "typer")),
    "recipes": ("jaxq train, published weights, checkpoints",
                ("absl-py", "grain", "mlxtend", "orbax-checkpoint", "pillow", "safetensors")),
    "report": ("jaxq report, jaxq snippet", ("altair", "jinja2", "vl-convert-python")),
    "tensorflow": ("tf.lite as a referee, SavedModels, jaxq compare", ("tensorflow",)),
    "text": ("sentences for jaxq infer and the movie recipes", ("tokenizers",)),
    "weights": ("weight files of Keras and ONNX", ("h5py", "onnx")),
    "vela": ("jaxq check --compile for Ethos-U", ("ethos-u-vela",)),
}  # fmt: skip
# Not of an extra: what it is for, and how to get it.
OTHERS: dict[str, tuple[str, str]] = {
    "tflite-micro": ("the kernel family tflm as a referee", "pip install --pre tflite-micro  (Linux on x86-64)"),
}
PROGRAMS: dict[str, tuple[str, str]] = {
    "edgetpu_compiler": ("compiling for the Coral Edge TPU", "https://coral.ai/docs/edgetpu/compiler"),
    "chromium": ("looking at reports without a screen", "apt install chromium"),
}
MISSING = "missing"
OTHER_NAMES = {"tensorflow": "tensorflow-cpu"}  # of a package, a distribution that brings the same modules
DRIVER, JAX_ON_A_GPU = "nvidia-smi", "pip install 'jax[cuda12]'  # an NVIDIA GPU is here, and JAX computes on the CPU"


def doctor(json: options.Json = False) -> Result:
    """Say which versions, extras, runtimes, compilers and devices there are, and how to get what is missing.

    Exit code 1 when a package that jaxq needs is missing, or LiteRT is installed and does not run.
    """
    import jaxq

    packages = {name: version(name) for name in REQUIRED}
    extras = {extra: {name: version(name) for name in names} for extra, (_, names) in EXTRAS.items()}
    runs, devices = litert_runs(), _devices()
    data = {
        "jaxq": jaxq.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "extras": extras,
        "others": {name: version(name) for name in OTHERS},
        "programs": {name: shutil.which(name) for name in PROGRAMS},
        "litert": runs,
        "devices": devices,
    }
    ok = None not in packages.values() and runs in ("runs", MISSING)
    head = f"jaxq {data['jaxq']}, Python {data['python']}, {data['platform']}"
    facts = [f"LiteRT: {runs}", f"JAX computes on: {', '.join(devices)}"]
    blocks = [
        "\n".join([head, *facts]),
        _required(packages),
        Table("extras", ["extra", "for", "packages"], [*_rows(extras)]),
    ]
    lines = [*_lines(packages, extras), *_others(data)]
    return Result(
        data, [*blocks, *(["\n".join(["to install what is missing:", *lines])] if lines else [])], 0 if ok else 1
    )


def version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return version(OTHER_NAMES[name]) if name in OTHER_NAMES else None


def litert_runs() -> str:
    """Whether LiteRT computes a file of one operator: "runs", "missing", or what it said."""
    import numpy as np

    from jaxq.errors import JaxqError

    if version("ai-edge-litert") is None or version("flatbuffers") is None:
        return MISSING
    from jaxq.export.flatbuffer.write import write
    from jaxq.export.program import Operator, Program, Tensor
    from jaxq.export.runtimes import litert

    tensors = (Tensor("x", (1, 2), "float32"), Tensor("y", (1, 2), "float32"))
    data, x = write(Program(tensors, (Operator("RELU", (0,), (1,)),), (0,), (1,))), np.array([[-1, 2]], np.float32)
    try:
        found = litert.run(data, [x], "xnnpack")
    except (JaxqError, ImportError, OSError) as e:
        return f"fails: {str(e).splitlines()[0]}"
    return "runs" if np.array_equal(found[0], [[0, 2]]) else f"computes {found[0]} of relu(-1, 2)"


def _devices() -> list[str]:
    import jax

    return [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]


def _required(packages: dict[str, str | None]) -> Table:
    return Table("packages", ["package", "version"], [[name, found or MISSING] for name, found in packages.items()])


def _rows(extras: dict[str, dict[str, str | None]]) -> Iterator[list[str]]:
    for extra, packages in extras.items():
        yield [extra, EXTRAS[extra][0], ", ".join(f"{name} {found or MISSING}" for name, found in packages.items())]


def _lines(packages: dict[str, str | None], extras: dict[str, dict[str, str | None]]) -> Iterator[str]:
    if None in packages.values():
        yield "  pip install jaxq"
    for extra, found in extras.items():
        if None in found.values():
            yield f"  pip install 'jaxq[{extra}]'  # {EXTRAS[extra][0]}"


def _others(data: dict[str, Any]) -> Iterator[str]:
    if shutil.which(DRIVER) and not any(device.startswith(("gpu", "cuda")) for device in data["devices"]):
        yield f"  {JAX_ON_A_GPU}"
    for kind, known in (("others", OTHERS), ("programs", PROGRAMS)):
        for name, found in data[kind].items():
            if found is None:
                yield f"  {known[name][1]}  # {name}: {known[name][0]}"
