"""Progress bars: on the terminal's error stream while long work runs, and nothing at all when nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def bar(wanted: bool = True) -> Progress:
    """A progress bar to use as a context manager; silent unless `wanted` and standard error is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (wanted and console.is_terminal))
