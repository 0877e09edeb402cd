"""The two interpreters that run a file's `xnnpack` and `reference` kernels: LiteRT's package, and TensorFlow's own.

TensorFlow carries an older copy of the same C++ sources, built apart. It judges the file a second time; phones run
LiteRT, and the exporter's checks are made with it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata

from jaxq.errors import ExportError


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """A package with a TFLite interpreter.

    title: its name in texts. packages: the distributions that bring it, the first found is it. install: for pip.
    """

    title: str
    packages: tuple[str, ...]
    install: str

    @property
    def version(self) -> str:
        """`ai-edge-litert 2.3.0`. Raises ExportError with pip's line where none of the packages is installed."""
        for name in self.packages:
            try:
                return f"{name} {importlib.metadata.version(name)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        raise self.missing()

    def missing(self) -> ExportError:
        """The error where the package is not installed."""
        return ExportError(f"The package {self.packages[0]} is not installed. Run: pip install '{self.install}'")


INTERPRETERS: dict[str, Interpreter] = {
    "litert": Interpreter("LiteRT", ("ai-edge-litert",), "jaxq[export]"),
    "tf.lite": Interpreter("tf.lite", ("tensorflow", "tensorflow-cpu"), "jaxq[tensorflow]"),
}


def interpreter_named(runtime: str) -> Interpreter:
    """An interpreter by its name. Raises ExportError for a name that does not exist."""
    if runtime not in INTERPRETERS:
        raise ExportError(f"There is no runtime {runtime!r}. Runtimes: {', '.join(INTERPRETERS)}.")
    return INTERPRETERS[runtime]
