"""Exact integer arithmetic of the runtimes, one function an operator, one file a family."""
