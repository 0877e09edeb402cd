"""The schema of TFLite metadata as data: slots of the published `metadata_schema.fbs`, version 1.5.0.

Source: https://github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs (Apache-2.0).
Fields that jaxq neither writes nor reads are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxq.export.flatbuffer.field import Field, Fields, fields

ENTRY = "TFLITE_METADATA"  # the name of its buffer in the list of a Model's metadata

METADATA_TABLES: Mapping[str, Fields] = {
    "ModelMetadata": fields(
        Field("name", 0, "string"),
        Field("description", 1, "string"),
        Field("version", 2, "string"),
        Field("subgraph_metadata", 3, "tables", "SubGraphMetadata"),
        Field("author", 4, "string"),
        Field("license", 5, "string"),
        Field("min_parser_version", 7, "string"),
    ),
    "SubGraphMetadata": fields(
        Field("input_tensor_metadata", 2, "tables", "TensorMetadata"),
        Field("output_tensor_metadata", 3, "tables", "TensorMetadata"),
        Field("input_process_units", 5, "tables", "ProcessUnit"),
    ),
    "TensorMetadata": fields(
        Field("name", 0, "string"),
        Field("description", 1, "string"),
        Field("content", 3, "table", "Content"),
        Field("process_units", 4, "tables", "ProcessUnit"),
        Field("stats", 5, "table", "Stats"),
        Field("associated_files", 6, "tables", "AssociatedFile"),
    ),
    "Content": fields(
        Field("content_properties_type", 0, "number", "<u1"),
        Field("content_properties", 1, "union", "ContentProperties"),
    ),
    "FeatureProperties": fields(),
    "ImageProperties": fields(
        Field("color_space", 0, "number", "<i1"),
        Field("default_size", 1, "table", "ImageSize"),
    ),
    "ImageSize": fields(
        Field("width", 0, "number", "<u4"),
        Field("height", 1, "number", "<u4"),
    ),
    "ProcessUnit": fields(
        Field("options_type", 0, "number", "<u1"),
        Field("options", 1, "union", "ProcessUnitOptions"),
    ),
    "NormalizationOptions": fields(
        Field("mean", 0, "vector", "<f4"),
        Field("std", 1, "vector", "<f4"),
    ),
    "BertTokenizerOptions": fields(
        Field("vocab_file", 0, "tables", "AssociatedFile"),
    ),
    "Stats": fields(
        Field("max", 0, "vector", "<f4"),
        Field("min", 1, "vector", "<f4"),
    ),
    "AssociatedFile": fields(
        Field("name", 0, "string"),
        Field("description", 1, "string"),
        Field("type", 2, "number", "<i1"),
    ),
}

# Code to member, of members that are read.
METADATA_UNIONS: Mapping[str, Mapping[int, str]] = {
    "ContentProperties": {1: "FeatureProperties", 2: "ImageProperties"},
    "ProcessUnitOptions": {1: "NormalizationOptions", 4: "BertTokenizerOptions"},
}
COLOR_SPACES = {"RGB": 1, "GRAYSCALE": 2}
FILE_TYPES = {"TENSOR_AXIS_LABELS": 2, "VOCABULARY": 5}

# The schema's history: the version of it that knows a feature. Any reader knows the first.
PARSER_VERSIONS = {"labels": "1.0.0", "tokenizer": "1.1.0"}
