"""The application: its commands, and what happens around each of them."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from jaxq.cli.failures import Failure, explained
from jaxq.cli.interrupts import CODE, INTERRUPTED
from jaxq.cli.output import Result, show, warn, write_json
from jaxq.errors import PrecisionWarning

STOPPED = Failure("Interrupted", INTERRUPTED, CODE)

# Name: module of jaxq.cli, and what the help says, the first paragraph of the function's docstring.
COMMANDS = {
    "plan": ("plan", "Print how a model will be quantized."),
    "train": ("train", "Run a shipped recipe: train, quantize, export."),
    "export": ("export", "Write a model as an int8 TFLite file."),
    "verify": ("verify", "Compare a .tflite file's integers with LiteRT's, TensorFlow's or TFLite Micro's."),
    "sensitivity": ("sensitivity", "Say of each op what the model loses when that op alone is quantized otherwise."),
    "report": (
        "report",
        "Write one HTML page on a .tflite file: verdict, remedies, the network in colours, every tensor's numbers.",
    ),
    "snippet": (
        "snippet",
        "Print a program that feeds a .tflite file, anyone's, exactly: normalize, quantize, run, dequantize.",
    ),
    "doctor": (
        "doctor",
        "Say which versions, extras, runtimes, compilers and devices there are, and how to get what is missing.",
    ),
    "explain": (
        "explain",
        "Explain a word that jaxq prints: a lint rule, an error, an op, a recipe, a target, a finding, a model's site.",
    ),
    "search": (
        "search",
        "Find a recipe: weights of 4 and 8 bits under a budget, or what must leave int8 for a drop of accuracy.",
    ),
    "tune": (
        "search",
        "Quantize as far as a drop of accuracy allows: calibrators compared, partial quantization if it is needed, "
        "then with --steps training.",
    ),
    "diff": ("diff", "Say where a model's integers leave its floats, and where its file leaves the model."),
    "compare": (
        "compare",
        "Compare a model's file with the one that TFLiteConverter makes: bytes, latency, accuracy, agreement.",
    ),
    "inspect": ("inspect", "Print what is in a .tflite file, anyone's."),
    "lint": (
        "lint",
        "Check a .tflite file, anyone's, against the laws of int8 TFLite and its known kernel bugs. Nothing is run.",
    ),
    "check": (
        "check",
        "Which operators of a .tflite file, anyone's, a target takes; the share of work on it; what to change first.",
    ),
    "bench": ("bench", "Measure the latency of a .tflite file, anyone's, under LiteRT with XNNPACK."),
    "infer": (
        "infer",
        "Run a .tflite file, anyone's, on a photo, sound, sentence or array; print its top classes or the embedding.",
    ),
    "weights": ("weights", "Fetch published weights, or take those of a file."),
    "proof": (
        "proof",
        "Write a folder with examples and the integers that a .tflite file must give, to run on a device without jaxq.",
    ),
}
MARKUP = "rich" if sys.stdout.isatty() else None


class Commands(typer.core.TyperGroup):
    """Runs a command, then prints its Result or its error: as text, or with `--json` as one document.

    The module of a command is imported when the command runs: help and errors of usage need none.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: typer.core.TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was named, with its arguments and options."""
        name, named, rest = super().resolve_command(ctx, args)
        return name, named if name is None else command(name), rest

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any
    ) -> NoReturn:
        """Parse, run, print, exit."""
        args = sys.argv[1:] if args is None else list(args)
        as_json = "--json" in args
        extra["standalone_mode"] = False
        # Whatever else prints (a model's file, a progress bar) must not spoil the document.
        quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        try:
            with quiet:
                result = super().main(args, prog_name, *rest, **extra)
        except KeyboardInterrupt:  # before or after the command itself
            sys.exit(_report(STOPPED, as_json))
        except Exception as error:
            sys.exit(_fail(error, as_json))
        result = STOPPED if result == CODE else result  # the parser's answer to Ctrl-C outside of `invoke`
        if isinstance(result, Failure):
            sys.exit(_report(result, as_json))
        if not isinstance(result, Result):
            sys.exit(result or 0)
        _print(result, as_json)
        sys.exit(result.code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named. Ctrl-C is an answer of its own."""
        try:
            with _warnings_told():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            return STOPPED


def command(name: str) -> Any:
    """A command, from its module."""
    module, _ = COMMANDS[name]
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=MARKUP)
    alone.command(name)(getattr(importlib.import_module(f"jaxq.cli.{module}"), name))
    return typer.main.get_command(alone)


@contextlib.contextmanager
def _warnings_told() -> Iterator[None]:
    """A PrecisionWarning is shown without the line of jaxq that raised it; others as Python shows them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        try:
            yield
        finally:
            told = list(caught)
    for one in told:
        if issubclass(one.category, PrecisionWarning):
            warn(str(one.message))
        else:
            warnings.showwarning(one.message, one.category, one.filename, one.lineno)


def _print(result: Result, as_json: bool) -> None:
    """Print a result. A reader that has gone away (`| head`) is no error."""
    try:
        write_json(result.data) if as_json else show(result.blocks)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


def _fail(error: Exception, as_json: bool) -> int:
    """Print an error; one that nobody foresaw keeps its traceback."""
    failure = explained(error)
    if failure is not None:
        return _report(failure, as_json)
    traceback.print_exception(error)
    if as_json:
        write_json(Failure(type(error).__name__, str(error), 1).data)
    return 1


def _report(failure: Failure, as_json: bool) -> int:
    if as_json:
        write_json(failure.data)
    else:
        print(failure, file=sys.stderr)
    return failure.code


def _version(wanted: bool) -> bool:
    if wanted:
        import jaxq

        print(f"jaxq {jaxq.__version__}")
        raise typer.Exit()
    return wanted


app = typer.Typer(
    cls=Commands,
    add_completion=True,  # --install-completion and --show-completion
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train a Flax model on the integers that a phone computes, and write the int8 TFLite file that computes them."""
