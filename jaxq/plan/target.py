"""What a target takes, before training: which ops it maps, and whether it runs floating point at all.

Capabilities by kind of op only. A target's finer rules (strides, ranks, sizes, versions) are on finished files, in
`jaxq.export.targets`; tests hold the two tables together.
"""

from __future__ import annotations

import dataclasses

from jaxq.display.text import did_you_mean, shortened
from jaxq.errors import RecipeError

EVERYTHING = frozenset({"*"})


@dataclasses.dataclass(frozen=True)
class Target:
    """A device family.

    forbidden: op kinds it has no kernel for. tables: those that are written as a table of 256 entries for want of a
    kernel. float_islands: whether it can run floats between integers. packed: op kinds whose weights of 4 bits it reads
    two in a byte; of others they are stored as int8. one_scale: those whose weights have one scale for all channels.
    composed: kinds that other ops stand for where they can (`jaxq.plan.decompositions`).
    wide: whether it takes activations of 16 bits with weights of 8.
    evidence: "measured" on the runtime or compiler in the tests, by the "vendor" document that `source` names, or
    "inferred".
    """

    name: str
    title: str
    forbidden: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    float_islands: bool = True
    packed: frozenset[str] = frozenset()
    one_scale: frozenset[str] = frozenset()
    composed: frozenset[str] = frozenset()
    wide: bool = False
    source: str = ""
    evidence: str = "vendor"

    def refuses(self, kind: str) -> bool:
        """Whether an op of this kind cannot run there."""
        return kind in self.forbidden or (kind == "FLOAT" and not self.float_islands)


_VELA = "ethos-u-vela 5.2.0, --supported-ops-report"
_NOT_U55 = frozenset({"BROADCAST_TO", "COMPARE", "EMBEDDING", "GATHER", "LOGICAL_AND", "SELECT", "TABLE"})


def _ethos(name: str, title: str, forbidden: frozenset[str]) -> Target:
    composed = frozenset({"RESIZE_BILINEAR"})
    return Target(
        name, title, forbidden, float_islands=False, composed=composed, wide=True, source=_VELA, evidence="measured"
    )


TARGETS: dict[str, Target] = {
    "litert": Target(
        "litert",
        "LiteRT on a CPU (XNNPACK)",
        packed=frozenset({"CONV_2D", "FULLY_CONNECTED"}),
        wide=True,
        source="google-ai-edge/LiteRT, tflite/kernels/register.cc",
        evidence="measured",
    ),
    "tflm": Target(
        "tflm",
        "TensorFlow Lite for Microcontrollers",
        forbidden=frozenset({"RELU_N1_TO_1"}),
        tables=frozenset({"GELU"}),
        float_islands=False,
        wide=True,
        source="tensorflow/tflite-micro, python/tflite_micro/python_ops_resolver.cc",
        evidence="measured",
    ),
    "ethos-u": _ethos("ethos-u", "Arm Ethos-U, any of U55, U65, U85", _NOT_U55),
    "ethos-u55": _ethos("ethos-u55", "Arm Ethos-U55", _NOT_U55),
    "ethos-u65": _ethos("ethos-u65", "Arm Ethos-U65", _NOT_U55),
    "ethos-u85": _ethos("ethos-u85", "Arm Ethos-U85", frozenset({"BROADCAST_TO"})),
    "edgetpu": Target(
        "edgetpu",
        "Coral Edge TPU",
        forbidden=frozenset(
            {"ARG_MAX", "BATCH_MATMUL", "BROADCAST_TO", "EMBEDDING", "GATHER", "GELU", "HARD_SWISH", "LEAKY_RELU"}
            | {"COMPARE", "LOGICAL_AND", "SELECT", "TABLE"}
        ),
        float_islands=False,
        one_scale=frozenset({"FULLY_CONNECTED"}),
        composed=frozenset({"HARD_SWISH", "LEAKY_RELU"}),
        source="coral.ai, TensorFlow models on the Edge TPU, supported operations",
    ),
}


def target_named(name: str) -> Target:
    """The target of this name. Raises RecipeError with the nearest names."""
    if name in TARGETS:
        return TARGETS[name]
    raise RecipeError(f"There is no target {shortened(name)!r}. {did_you_mean(name, TARGETS)}")
