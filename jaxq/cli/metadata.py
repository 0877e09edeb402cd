"""TFLite metadata of a command: from a TOML file that describes it, and as text."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from jaxq.cli.failures import usage
from jaxq.errors import RecipeError
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.plan.toml_file import read_toml

MetadataFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--metadata", metavar="FILE.toml", show_default=False, exists=True, dir_okay=False,
        help="What the file shall say of itself: names, normalization, labels.",
    ),
]  # fmt: skip
LARGEST_FILE = 1 << 20  # bytes: labels and vocabularies may stand in the file itself
FIELDS = {"labels", "vocabulary"}  # each a list of strings, or the path of a text file, from the TOML file's folder


def read_metadata_file(path: pathlib.Path) -> Metadata:
    """The metadata that a TOML file describes, by the names of Metadata's fields. Raises a usage error."""
    try:
        values = _with_lines(read_toml(path, LARGEST_FILE), path.parent)
        return msgspec.convert(_known(values, Metadata), Metadata)
    except RecipeError as e:
        raise usage(str(e)) from e
    except (msgspec.ValidationError, KeyError) as e:
        raise usage(f"In {path}: {e}.") from e


def _with_lines(values: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """The values, with the lines of each text file that is named in the place of a list."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in FIELDS and isinstance(value, str):
            value = (folder / value).read_text("utf-8").splitlines()
        elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
            value = [_known(_with_lines(one, folder), TensorMetadata) for one in value]
        found[key] = value
    return found


def _known(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """The values, if they are all fields. msgspec passes over others in silence."""
    known = list(kind.__dataclass_fields__)
    for key in values:
        if key not in known:
            raise usage(f"The metadata has no field {key!r}; there is {', '.join(known)}.")
    return values


def lines(metadata: Metadata) -> list[str]:
    """The metadata for people, a line each."""
    ends = [("input", e) for e in metadata.inputs] + [("output", e) for e in metadata.outputs]
    texts = [f"{key}: {getattr(metadata, key)}" for key in ("name", "description", "version", "author", "license")]
    found = [text for text in texts if not text.endswith(": ")]
    found += [f"{end} {entry.name!r}: {_facts(entry)}" for end, entry in ends if _facts(entry)]
    return [*found, *([f"vocabulary: {len(metadata.vocabulary):,} tokens"] if metadata.vocabulary else [])]


def _facts(entry: TensorMetadata) -> str:
    normalization = f"(pixel - {list(entry.mean)}) / {list(entry.std)}" if entry.mean else ""
    classes = f"{len(entry.labels):,} classes, {', '.join(entry.labels[:3])}, ..." if entry.labels else ""
    return "; ".join(filter(None, [entry.color, normalization, classes, entry.description]))
