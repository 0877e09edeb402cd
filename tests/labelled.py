"""Two small files with metadata, written by hand: what `tests/golden/make_metadata.py` has standard readers read.

python -m tests.labelled     # writes both into tests/golden/
"""

from __future__ import annotations

import pathlib

import numpy as np

from jaxq.export.flatbuffer.attached import attach
from jaxq.export.flatbuffer.metadata import with_metadata
from jaxq.export.flatbuffer.write import write
from jaxq.export.metadata import Metadata, TensorMetadata, completed
from jaxq.export.program import Operator, Program, Quantization, Tensor

GOLDEN = pathlib.Path(__file__).parent / "golden"


def image_program() -> Program:
    """AVERAGE_POOL_2D of an image of 4 x 5: one score for each of its three channels."""
    grid = Quantization.of(np.float32(1 / 64), -14)
    tensors = Tensor("input", (1, 4, 5, 3), "int8", grid), Tensor("scores", (1, 1, 1, 3), "int8", grid)
    options = {"padding": "VALID", "stride_w": 1, "stride_h": 1, "filter_width": 5, "filter_height": 4}
    return Program(tensors, (Operator("AVERAGE_POOL_2D", (0,), (1,), options, 2),), (0,), (1,), ("image",), ("scores",))


def text_program() -> Program:
    """ADD of two vectors of token ids."""
    tensors = tuple(Tensor(name, (1, 4), "int32") for name in ("ids", "segments", "sum"))
    return Program(tensors, (Operator("ADD", (0, 1), (2,)),), (0, 1), (2,))


IMAGE = Metadata(
    name="pool",
    description="The mean of each channel.",
    version="v3",
    author="jaxq",
    license="Apache-2.0",
    inputs=(TensorMetadata("image", "An image.", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB"),),
    outputs=(TensorMetadata("score", "How much of it.", labels=("red", "green", "bleu ciel, café")),),
)
TEXT = Metadata("sum", inputs=(TensorMetadata("ids"), TensorMetadata()), vocabulary=("[PAD]", "[UNK]", "the", "##s"))
CASES = {"labelled_image": (image_program(), IMAGE), "labelled_text": (text_program(), TEXT)}


def labelled(name: str) -> bytes:
    """The bytes of one of the two files."""
    program, metadata = CASES[name]
    program, files = with_metadata(program, completed(metadata, program))
    return attach(write(program), files)


if __name__ == "__main__":
    for each in CASES:
        (GOLDEN / f"{each}.tflite").write_bytes(labelled(each))
