"""Export: a plan with its weights becomes a TFLite file, proven equal. Alone in knowing TFLite.

frozen = freeze(plan, params, ranges)      integers
program, tensor_of = lower(frozen)         TFLite's own ops
data = write(program)                      bytes
certificate = artifact.verify(images)      every tensor, two kernel families, LiteRT itself
"""

from __future__ import annotations

from jaxq.export.artifact import Artifact as Artifact
from jaxq.export.artifact import to_tflite as to_tflite
from jaxq.export.compare_files import compare as compare
from jaxq.export.evaluate.load import load as load
from jaxq.export.evaluate.program import evaluate as evaluate
from jaxq.export.lowering.freeze import freeze as freeze
from jaxq.export.lowering.lower import lower as lower
from jaxq.export.metadata import Metadata as Metadata
from jaxq.export.metadata import TensorMetadata as TensorMetadata
from jaxq.export.program import Program as Program
from jaxq.export.proof.certificate import Certificate as Certificate
from jaxq.export.proof.diff import Comparison as Comparison
from jaxq.export.proof.diff import diff as diff
from jaxq.export.saved_model import to_saved_model as to_saved_model
from jaxq.export.side_by_side import SideBySide as SideBySide

__all__ = [
    "Artifact",
    "Certificate",
    "Comparison",
    "Metadata",
    "Program",
    "SideBySide",
    "TensorMetadata",
    "compare",
    "diff",
    "evaluate",
    "freeze",
    "load",
    "lower",
    "to_saved_model",
    "to_tflite",
]
