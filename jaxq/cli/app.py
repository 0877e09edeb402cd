"""The application: its commands, and what happens around each of them."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from jaxq.cli import (
    bench,
    check,
    compare,
    diff,
    doctor,
    explain,
    export,
    infer,
    inspect,
    lint,
    plan,
    proof,
    report,
    search,
    sensitivity,
    snippet,
    train,
    verify,
    weights,
)
from jaxq.cli.failures import Failure, explained
from jaxq.cli.output import Result, show, warn, write_json
from jaxq.errors import PrecisionWarning

INTERRUPTED = Failure("Interrupted", "interrupted; nothing was written", 130)


class Commands(typer.core.TyperGroup):
    """Runs a command, then prints its Result or its error: as text, or with `--json` as one document."""

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
            sys.exit(_report(INTERRUPTED, as_json))
        except Exception as error:
            sys.exit(_fail(error, as_json))
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
            return INTERRUPTED


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
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train a Flax model on the integers that a phone computes, and write the int8 TFLite file that computes them."""


COMMANDS = (
    *(plan.plan, train.train, export.export, verify.verify),
    *(sensitivity.sensitivity, report.report, snippet.snippet, doctor.doctor, explain.explain),
    *(search.search, search.tune),
    *(
        diff.diff,
        compare.compare,
        inspect.inspect,
        lint.lint,
        check.check,
        bench.bench,
        infer.infer,
        weights.weights,
        proof.proof,
    ),
)
for _command in COMMANDS:
    app.command()(_command)
