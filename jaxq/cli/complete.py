"""What a shell offers for the words of a command line: the names that are known, beside files."""

from __future__ import annotations

from collections.abc import Iterable


def recipes(incomplete: str) -> list[str]:
    """Shipped ways to quantize that begin so."""
    from jaxq.plan.recipe import SHIPPED

    return _beginning(SHIPPED, incomplete)


def targets(incomplete: str) -> list[str]:
    """Devices that begin so."""
    from jaxq.plan.target import TARGETS

    return _beginning(TARGETS, incomplete)


def models(incomplete: str) -> list[str]:
    """Shipped recipes that have a model, `recipes/mnist`."""
    return _shipped("target", incomplete)


def trainings(incomplete: str) -> list[str]:
    """Shipped recipes that train, `recipes/mnist`."""
    return _shipped("run", incomplete)


def languages(incomplete: str) -> list[str]:
    """Languages of `jaxq snippet`."""
    from jaxq.snippets import LANGUAGES

    return _beginning(LANGUAGES, incomplete)


def _shipped(function: str, incomplete: str) -> list[str]:
    from jaxq.cli.shipped import recipe_names

    return _beginning((f"recipes/{name}" for name in recipe_names(function)), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
