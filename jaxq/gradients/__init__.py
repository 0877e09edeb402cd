"""Gradients in 8 or 4 bits: how a contraction's backward pass is quantized. `jaxq.int8` trains with it."""
