"""How a range comes from calibration data: one method, one short file, of pure functions over numpy arrays.

A method has `start() -> state`, `update(state, array) -> state` and `finish(state, ...) -> (low, high)`. The state's
size does not depend on how much data is seen.
"""
