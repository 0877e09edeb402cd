"""What a run has found so far, on disk too: a run that is cut off keeps it, and one that resumes goes on from there."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from jaxq.export.files import write_whole
from jaxq.recipes import processes


class Notes:
    """`found`, and the file that holds it as JSON: of an earlier run, where this one resumes it. One process writes.

    `report`: lines about the pages that this run wrote, for the terminal; not in the file.
    """

    def __init__(self, file: pathlib.Path, *, resume: bool) -> None:
        self.file = file
        self.report: list[str] = []
        self.found: dict[str, Any] = json.loads(file.read_text()) if resume and file.is_file() else {}

    def add(self, **found: Any) -> None:
        """Keep some results."""
        self.found.update(found)
        if processes.writes():
            write_whole({self.file: (json.dumps(self.found, indent=2) + "\n").encode()})

    def once(self, name: str, measure: Callable[[], Any]) -> None:
        """Keep a measurement, unless it was made before the run was cut off."""
        if name not in self.found:
            self.add(**{name: measure()})
