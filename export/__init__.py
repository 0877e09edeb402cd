"""Export: a plan with its weights becomes a TFLite file, proven equal. Alone in knowing TFLite.

frozen = freeze(plan, params, ranges)      integers
program, tensor_of = lower(frozen)         TFLite's own ops
data = write(program)                      bytes
certificate = artifact.verify(images)      every tensor, two kernel families, LiteRT itself
"""

from __future__ import annotations

from jaxq.export.artifact import Artifact as Artifact
from jaxq.export.artifact import to_tflite as to_tflite
from jaxq.export.diff import Comparison as Comparison
from jaxq.export.diff import diff as diff
from jaxq.export.evaluate import evaluate as evaluate
from jaxq.export.freeze import freeze as freeze
from jaxq.export.load import load as load
from jaxq.export.lower import lower as lower
from jaxq.export.metadata import Metadata as Metadata
from jaxq.export.metadata import TensorMetadata as TensorMetadata
from jaxq.export.program import Program as Program
from jaxq.export.verify import Certificate as Certificate

__all__ = [
    "Artifact",
    "Certificate",
    "Comparison",
    "Metadata",
    "Program",
    "TensorMetadata",
    "diff",
    "evaluate",
    "freeze",
    "load",
    "lower",
    "to_tflite",
]
