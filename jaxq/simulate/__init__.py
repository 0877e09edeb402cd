"""The differentiable reading of a plan: integers in float arrays, with straight-through gradients."""
