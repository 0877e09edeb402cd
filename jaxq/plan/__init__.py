"""Decisions before training: the recipe and the target, and the plan that they give for a graph."""
