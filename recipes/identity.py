"""Which run a folder holds: its recipe, seed, settings and data, kept beside the checkpoints.

What a step sees depends on these and on its number alone, so a run that resumes equals one that was never cut off; with
another seed or other data the folder would hold neither the one run nor the other. `claim` refuses that.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxq.errors import InputError
from jaxq.export.files import write_whole
from jaxq.recipes import processes
from jaxq.recipes.images import Squares

FILE = "run.json"
SHOWN = 8  # differences in a message


def fingerprint(data: Any) -> str:
    """CRC-32 of all arrays of a pytree, with their shapes and types: `9f2ab301`. Of image files that are not decoded,
    of their bytes.
    """
    found = 0
    for leaf in jax.tree.leaves(data):
        found = _of_files(leaf, found) if isinstance(leaf, Squares) else _of_array(np.ascontiguousarray(leaf), found)
    return f"{found:08x}"


def _of_array(array: Any, found: int) -> int:
    found = zlib.crc32(f"{array.dtype}{array.shape}".encode(), found)
    return zlib.crc32(array if array.dtype.kind not in "OSU" else repr(array.tolist()).encode(), found)


def _of_files(squares: Squares, found: int) -> int:
    found = zlib.crc32(f"{squares.shape}".encode(), found)
    for file in squares.files:
        found = zlib.crc32(file.read_bytes(), zlib.crc32(file.name.encode(), found))
    return found


def claim(out: pathlib.Path, resume: bool, **identity: Any) -> None:
    """Note which run a folder holds. Where one resumes, refuse another than the folder's.

    Args:
      out: the folder, which exists.
      resume: whether to go on from its checkpoints, if there are any.
      identity: what the run depends on: `recipe`, `seed`, `config` (a dataclass), `data` (a fingerprint) ...

    Raises: InputError that names what differs, with both values.
    """
    now, file = _flat("", _plain(identity)), out / FILE
    if resume and (out / "checkpoints").is_dir():
        _refuse_another(out, _known(file), now)
    processes.wait("the run was known")
    if processes.writes():
        write_whole({file: (json.dumps(now, indent=2) + "\n").encode()})


def _known(file: pathlib.Path) -> dict[str, Any] | None:
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _refuse_another(out: pathlib.Path, known: dict[str, Any] | None, now: Mapping[str, Any]) -> None:
    again = "Resume with what it had, start again with --force, or give another --out."
    if known is None:
        raise InputError(f"{out} holds checkpoints and no {FILE} that says of which run. {again}")
    differences = differing(known, now)
    if differences:
        raise InputError(f"{out} holds the checkpoints of another run: {differences}. {again}")


def differing(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, with both values: `seed was 0 and is 5; data was ...`; nothing where all are equal."""
    names = [name for name in dict.fromkeys([*known, *now]) if known.get(name) != now.get(name)]
    shown = "; ".join(f"{n} was {known.get(n)!r} and is {now.get(n)!r}" for n in names[:SHOWN])
    return shown + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _plain(value: Any) -> Any:
    """A value as JSON has it; a function by its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Callable):
        return getattr(value, "__qualname__", type(value).__name__)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= _flat(f"{prefix}.{name}" if prefix else name, one)
    return found
