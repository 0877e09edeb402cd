"""From a trained plan to a TFLite program: weights to integers, ops to operators."""
