"""Metadata to the bytes that a `.tflite` holds of it, and back: a flatbuffer, and text files behind the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.errors import FormatError
from jaxq.export.flatbuffer import schema
from jaxq.export.flatbuffer.attached import attached
from jaxq.export.flatbuffer.metadata_table import COLOR_SPACES, ENTRY, FILE_TYPES, METADATA_UNIONS, PARSER_VERSIONS
from jaxq.export.flatbuffer.pack import pack
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.table import Table
from jaxq.export.flatbuffer.verify import verify_metadata
from jaxq.export.metadata import Metadata, TensorMetadata, by_name
from jaxq.export.program import Program

VOCABULARY = "vocab.txt"
_COLORS = {code: name for name, code in COLOR_SPACES.items()}


def with_metadata(program: Program, metadata: Metadata) -> tuple[Program, dict[str, bytes]]:
    """The program with the metadata's buffer, and the files that belong behind it. `metadata` is `completed`."""
    names = by_name(metadata.outputs)
    files = {name: _text(metadata.outputs[i].labels) for i, name in names.items()}
    if metadata.vocabulary:
        files[VOCABULARY] = _text(metadata.vocabulary)
    content = pack("ModelMetadata", _values(metadata, program, names), schema.METADATA_IDENTIFIER)
    return dataclasses.replace(program, metadata={**program.metadata, ENTRY: content}), files


def _text(lines: tuple[str, ...]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _values(metadata: Metadata, program: Program, names: Mapping[int, str]) -> dict[str, Any]:
    graph = {
        "input_tensor_metadata": [
            _input(entry, program.tensors[i].shape) for entry, i in zip(metadata.inputs, program.inputs, strict=True)
        ],
        "output_tensor_metadata": [_output(entry, names.get(i)) for i, entry in enumerate(metadata.outputs)],
        "input_process_units": _tokenizer(metadata),
    }
    return {
        **{key: getattr(metadata, key) for key in ("name", "description", "version", "author", "license")},
        "subgraph_metadata": [graph],
        "min_parser_version": PARSER_VERSIONS["tokenizer" if metadata.vocabulary else "labels"],
    }


def _input(entry: TensorMetadata, shape: tuple[int, ...]) -> dict[str, Any]:
    content = ("FeatureProperties", {})
    if entry.color:
        size = {"width": shape[2], "height": shape[1]}
        content = ("ImageProperties", {"color_space": COLOR_SPACES[entry.color], "default_size": size})
    mean, std = np.asarray(entry.mean, np.float32), np.asarray(entry.std, np.float32)
    unit = {"options": ("NormalizationOptions", {"mean": entry.mean, "std": entry.std})}
    stats = {"max": ((255 - mean) / std).tolist(), "min": (-mean / std).tolist()}
    return {
        "name": entry.name,
        "description": entry.description,
        "content": {"content_properties": content},
        "process_units": [unit] if entry.mean else [],
        "stats": stats if entry.mean else None,
    }


def _output(entry: TensorMetadata, file: str | None) -> dict[str, Any]:
    return {
        "name": entry.name,
        "description": entry.description,
        "content": {"content_properties": ("FeatureProperties", {})},
        "associated_files": [] if file is None else [_file(file, "The names of the classes.", "TENSOR_AXIS_LABELS")],
    }


def _tokenizer(metadata: Metadata) -> list[dict[str, Any]]:
    if not metadata.vocabulary:
        return []
    file = _file(VOCABULARY, "The tokens of the WordPiece tokenizer, in the order of their ids.", "VOCABULARY")
    return [{"options": ("BertTokenizerOptions", {"vocab_file": [file]})}]


def _file(name: str, description: str, kind: str) -> dict[str, Any]:
    return {"name": name, "description": description, "type": FILE_TYPES[kind]}


# --- reading --------------------------------------------------------------------------------------------------------


def read_metadata(data: bytes, program: Program | None = None) -> Metadata | None:
    """The metadata of a `.tflite`, whoever wrote it; None where it has none. `program`: `read(data)`, if at hand.

    Of labels in several languages the first is taken. Raises FormatError for metadata that is torn, or that names a
    file which is not behind the flatbuffer.
    """
    content = (program or read(data)).metadata.get(ENTRY)
    if content is None:
        return None
    verify_metadata(content)
    model, files = Table.root(content, "ModelMetadata"), attached(data)
    graphs = model.tables("subgraph_metadata")
    inputs = graphs[0].tables("input_tensor_metadata") if graphs else []
    outputs = graphs[0].tables("output_tensor_metadata") if graphs else []
    return Metadata(
        **{key: model.text(key) or "" for key in ("name", "description", "version", "author", "license")},
        inputs=tuple(_described(table, files) for table in inputs),
        outputs=tuple(_described(table, files) for table in outputs),
        vocabulary=_vocabulary(graphs[0], files) if graphs else (),
    )


def _described(table: Table, files: Mapping[str, bytes]) -> TensorMetadata:
    normalization = _unit(table.tables("process_units"), "NormalizationOptions")
    content = table.table("content")
    image = None if content is None else _member(content, "content_properties", "ImageProperties")
    return TensorMetadata(
        name=table.text("name") or "",
        description=table.text("description") or "",
        mean=_floats(normalization, "mean"),
        std=_floats(normalization, "std"),
        color="" if image is None else _COLORS.get(image.index("color_space"), ""),
        labels=_lines(table.tables("associated_files"), "TENSOR_AXIS_LABELS", files),
    )


def _vocabulary(graph: Table, files: Mapping[str, bytes]) -> tuple[str, ...]:
    options = _unit(graph.tables("input_process_units"), "BertTokenizerOptions")
    return () if options is None else _lines(options.tables("vocab_file"), "VOCABULARY", files)


def _unit(units: list[Table], member: str) -> Table | None:
    found = (_member(unit, "options", member) for unit in units)
    return next((options for options in found if options is not None), None)


def _member(table: Table, field: str, member: str) -> Table | None:
    """A union's value where it is this member."""
    code = table.index(f"{field}_type")
    union = {"content_properties": "ContentProperties", "options": "ProcessUnitOptions"}[field]
    if METADATA_UNIONS[union].get(code) != member:
        return None
    return table.table(field, schema.member_fields(union, code))


def _floats(table: Table | None, name: str) -> tuple[float, ...]:
    values = None if table is None else table.vector(name)
    return () if values is None else tuple(values.tolist())


def _lines(listed: list[Table], kind: str, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The lines of the first listed file of a kind; blank ones at its end are none."""
    names = [table.text("name") or "" for table in listed if table.index("type") == FILE_TYPES[kind]]
    if not names:
        return ()
    if names[0] not in files:
        raise FormatError(
            f"The file's metadata names {names[0]!r}, which is not among the {len(files)} files behind its "
            "flatbuffer. It was cut off: copy the file again, or write the metadata again."
        )
    text = files[names[0]].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return tuple(line.rstrip("\r") for line in text.split("\n"))
