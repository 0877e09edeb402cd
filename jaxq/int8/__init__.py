"""INT8 training: convolutions and matrix products whose forward and backward passes compute on int8.

model = jaxq.int8.training(model, "row", images[:1])
optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.sgd(0.1)), wrt=nnx.Param)
"""

from __future__ import annotations

from jaxq.gradients.backward import Backward as Backward
from jaxq.gradients.backward import BackwardRule as BackwardRule
from jaxq.gradients.statistics import combine_gradients as combine_gradients
from jaxq.int8.function import Int8Function as Int8Function
from jaxq.int8.linen import Int8Linen as Int8Linen
from jaxq.int8.nnx import GradientState as GradientState
from jaxq.int8.nnx import Int8Model as Int8Model
from jaxq.int8.train import training as training
