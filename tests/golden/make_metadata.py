"""What TensorFlow Lite Support's reader makes of the metadata that jaxq writes; and a file with metadata of its writer.

python -m venv v && v/bin/pip install tflite-support==0.4.4     # its library needs the system's libusb-1.0
v/bin/python tests/golden/make_metadata.py

It reads `labelled_image.tflite` and `labelled_text.tflite` (`python -m tests.labelled`), and writes
`metadata_read.json` and `labelled_by_support.tflite` beside them.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import tempfile
from typing import Any

from tensorflow_lite_support.metadata.cc.python import _pywrap_metadata_version  # pyright: ignore[reportMissingImports]
from tensorflow_lite_support.metadata.python import metadata  # pyright: ignore[reportMissingImports]
from tensorflow_lite_support.metadata.python.metadata_writers import image_classifier  # pyright: ignore[reportMissingImports]

HERE = pathlib.Path(__file__).parent
NAMES = ("labelled_image", "labelled_text")


def reading(path: pathlib.Path) -> dict[str, Any]:
    """The metadata as JSON, the version of the parser that its fields need, the files behind the model."""
    shown = metadata.MetadataDisplayer.with_model_file(str(path))
    files = {name: shown.get_associated_file_buffer(name).decode() for name in shown.get_packed_associated_file_list()}
    needed = _pywrap_metadata_version.GetMinimumMetadataParserVersion(shown.get_metadata_buffer())
    return {"metadata": json.loads(shown.get_metadata_json()), "parser version": needed, "files": files}


def written() -> bytes:
    """The first file with metadata as the standard writer has it for an image classifier."""
    data = bytearray((HERE / f"{NAMES[0]}.tflite").read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        labels = pathlib.Path(folder, "names.txt")
        labels.write_text("one\ntwo\nthree")
        writer = image_classifier.MetadataWriter.create_for_inference(data, [127.5], [127.5], [str(labels)])
        return bytes(writer.populate())


def main() -> None:
    source = f"tflite-support {importlib.metadata.version('tflite-support')}"
    found = {"source": source, **{name: reading(HERE / f"{name}.tflite") for name in NAMES}}
    (HERE / "metadata_read.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (HERE / "labelled_by_support.tflite").write_bytes(written())


if __name__ == "__main__":
    main()
