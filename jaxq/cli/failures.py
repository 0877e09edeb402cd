"""What a command says when it cannot go on, and the code it exits with."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

from jaxq.cli import NEEDED, needs
from jaxq.errors import JaxqError, RecipeError


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error as the user sees it."""

    kind: str
    message: str
    code: int
    hint: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """The JSON document."""
        return {"error": {"kind": self.kind, "message": self.message}}

    def __str__(self) -> str:
        """The text for standard error."""
        if self.kind == "Interrupted":
            return self.message
        return f"error: {self.message}" + (f"\n{self.hint}" if self.hint else "")


class Usage(typer.BadParameter):
    """A command line that makes no sense: exit code 2."""

    def format_message(self) -> str:
        """The message alone; the parser would put "Invalid value" before it."""
        return self.message


def usage(message: str) -> Usage:
    """The exception to raise for a wrong argument."""
    return Usage(message)


def explained(error: Exception) -> Failure | None:
    """The failure to print for an exception; None for one that is a bug and needs its traceback."""
    if isinstance(error, JaxqError):
        return Failure(type(error).__name__, str(error), 2 if isinstance(error, RecipeError) else 1)
    if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
        return Failure("ModuleNotFoundError", needs(NEEDED[error.name]), 1)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("jaxq"):
        message = f"The package {error.name} is not installed. For all that jaxq can use: pip install 'jaxq[recipes]'"
        return Failure("ModuleNotFoundError", message, 1)
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return Failure(type(error).__name__, f"Cannot use{where}: {error.strerror or error}.", 1)
    return _usage_failure(error)


def _usage_failure(error: Exception) -> Failure | None:
    """A failure of the parser. Its classes are typer's own or click's, by version; both have these members."""
    code, context = getattr(error, "exit_code", None), getattr(error, "ctx", None)
    format_message = getattr(error, "format_message", None)
    if code is None or format_message is None:
        return None
    return Failure("UsageError", format_message(), code, f"Try: {context.command_path} --help" if context else "")
