"""The manifest beside a .tflite file, for the commands that read it."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

from jaxq.cli.output import warn
from jaxq.errors import FormatError


def manifest_beside(file: pathlib.Path, contents: bytes, reader: str) -> dict[str, Any] | None:
    """The manifest of a file, `model.json` beside `model.tflite`.

    Args:
      file: the .tflite file.
      contents: its bytes.
      reader: who goes on without it, as the warning says: "The report".

    Returns: None where there is none; also, with a warning, where it is another file's.
    Raises: FormatError where it is no JSON.
    """
    place = file.with_suffix(".json")
    if not place.is_file():
        return None
    try:
        found = json.loads(place.read_bytes())
    except ValueError as e:
        raise FormatError(f"{place} is no manifest: {e}. Export the file again, or move {place.name} away.") from e
    if not isinstance(found, dict) or found.get("sha256") != hashlib.sha256(contents).hexdigest():
        warn(f"{place} is not the manifest of {file}: its sha256 is another file's. {reader} does without it.")
        return None
    return found
