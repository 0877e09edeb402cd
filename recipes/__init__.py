"""Recipes: models, data and training scripts."""
