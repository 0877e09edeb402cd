"""Pure arithmetic on arrays: rounding, TFLite's fixed point, its dynamic-range quantizers, its tables of 16 bits.

Imports nothing else of jaxq.
"""
