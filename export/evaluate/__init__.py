"""A program as a JAX function, bit for bit as a family of kernels computes it."""
