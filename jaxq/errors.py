"""Every exception that jaxq raises on purpose.

    JaxqError
    ├── CaptureError          a model that cannot become a graph
    │   ├── ControlFlowError      scan, while, cond
    │   └── BatchStatisticsError  a result that depends on other examples of the batch
    ├── GraphError            a rewrite of jaxq that broke a graph: a fault of jaxq
    ├── RecipeError           a recipe that cannot be read, or that says something impossible
    │   └── UnmatchedRuleError    a rule whose pattern matches no site
    ├── PlanError             a recipe, a graph and a target that do not fit together
    ├── RangeError            a range that is missing, not finite, or of no width
    ├── CalibrationError      data that cannot calibrate
    ├── AssignError           weights that no parameters of the model give
    ├── InputError            an input of the wrong shape, dtype or number
    ├── ExportError           a graph that cannot be written
    │   ├── TargetError           an op that the target forbids
    │   └── MismatchError         an integer of the artifact differs from the training forward's
    ├── FormatError           bytes that are not a valid TFLite file
    └── WeightsError          published weights that are not here, or not what they should be

One warning, `PrecisionWarning`: what integers cannot hold, though the file computes exactly what was trained.

A message has three parts: the fact with its numbers; where (site, the user's file and line); what to do.
"""

from __future__ import annotations


class JaxqError(Exception):
    """Base class of every error of jaxq."""


class CaptureError(JaxqError):
    """The model's function cannot be turned into a graph."""


class ControlFlowError(CaptureError):
    """The model holds `scan`, `while` or `cond`, which a static integer graph cannot."""


class BatchStatisticsError(CaptureError):
    """An op reads across the examples of a batch, such as a normalization on the statistics of its own batch."""


class GraphError(JaxqError):
    """A rewrite of jaxq made a graph that is not legal (`jaxq.graph.verify`): a fault of jaxq, not of its user."""


class RecipeError(JaxqError):
    """A recipe cannot be read, or a value in it is of the wrong type or out of its bounds."""


class UnmatchedRuleError(RecipeError):
    """A rule's pattern matches no site, so that the rule would be ignored in silence."""


class PlanError(JaxqError):
    """Recipe, graph and target contradict one another."""


class RangeError(JaxqError):
    """A range is uninitialised, not finite, or of no width."""


class CalibrationError(JaxqError):
    """The calibration data is empty, not finite, or would overwrite trained ranges."""


class AssignError(JaxqError):
    """A weight cannot be set through the model's parameters: it is shared, or no elementwise product of one of them."""


class InputError(JaxqError):
    """An input differs in number, shape or dtype from what the graph was captured with."""


class ExportError(JaxqError):
    """The graph, its ranges or its weights cannot be expressed in a TFLite file."""


class TargetError(ExportError):
    """The target has no kernel for an op, or forbids floating point that the plan needs."""


class MismatchError(ExportError):
    """An integer computed by the artifact differs from the integer of the training forward."""


class FormatError(JaxqError):
    """Bytes are not a TFLite file, or one that breaks a rule of the format."""


class WeightsError(JaxqError):
    """Published weights or photos are not downloaded, or are not the file that they should be."""


class PrecisionWarning(UserWarning):
    """What a range, a recipe or a file loses: a member or channel of few steps, outputs far from the float model's.

    Its text begins with "precision: ". To make it an error: `warnings.simplefilter("error", jaxq.PrecisionWarning)`.
    """
