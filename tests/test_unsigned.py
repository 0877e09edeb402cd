"""uint8 under XNNPACK, and 16-bit operators that it leaves to TFLite: every integer equals LiteRT's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxq.errors import ExportError
from jaxq.export.evaluate.program import evaluate
from jaxq.export.program import Program, Quantization, Tensor
from tests.test_kernels import (
    BOTH,
    NARROW,
    WIDE,
    X,
    Y,
    Z,
    binary,
    conv,
    convert,
    dense,
    depthwise,
    differing,
    examples,
    matmul,
    pool,
    program,
    reduce,
    resized,
    transpose_conv,
    unary,
    value,
    wide,
)


def unsigned(built: Program, weights_zero: int = 121) -> Program:
    """The program on uint8: data 128 higher, weights of one scale with a zero point of their own."""
    return dataclasses.replace(built, tensors=tuple(_unsigned(tensor, weights_zero) for tensor in built.tensors))


def _unsigned(tensor: Tensor, weights_zero: int) -> Tensor:
    q = tensor.quantization
    if tensor.dtype == "int32" and q is not None:
        assert tensor.data is not None
        return dataclasses.replace(tensor, quantization=Quantization.of(q.scale.mean()))
    if tensor.dtype != "int8" or q is None:
        return tensor
    if tensor.data is None:
        grid = Quantization.of(q.scale[0], int(q.zero_point[0]) + 128)
        return dataclasses.replace(tensor, dtype="uint8", quantization=grid)
    data = (tensor.data.astype(np.int16) + 128).astype(np.uint8)
    return dataclasses.replace(tensor, dtype="uint8", data=data, quantization=Quantization.of(0.0041, weights_zero))


def exact_bias(built: Program) -> Program:
    """Its bias on the scale that LiteRT asks of weights with one scale."""
    x, w, b, *rest = built.tensors
    assert x.quantization is not None and w.quantization is not None
    grid = Quantization.of(np.float32(x.quantization.scale[0] * w.quantization.scale[0]))
    return dataclasses.replace(built, tensors=(x, w, dataclasses.replace(b, quantization=grid), *rest))


UNSIGNED = {
    "conv": exact_bias(unsigned(conv((19, 17, 8), 24, (3, 3), y=(0.9, 5)))),
    "conv, strided, relu6": exact_bias(unsigned(conv((19, 17, 8), 24, (3, 5), (2, 2), act="RELU6", y=(0.9, -128)))),
    "depthwise": exact_bias(unsigned(depthwise((19, 17, 16), 32, (3, 3), y=(0.3, 9)), 3)),
    "depthwise, relu6": exact_bias(unsigned(depthwise((19, 17, 16), 16, (3, 3), act="RELU6", y=(0.025, -128)))),
    "dense": exact_bias(unsigned(dense(50, 96, 64, y=(1.7, 3)))),
    "dense, relu": exact_bias(unsigned(dense(50, 33, 10, "RELU", y=(0.7, -128)))),
    "add": unsigned(binary("ADD", X, Y, Z)),
    "add, broadcast, relu": unsigned(binary("ADD", X, Y, Z, "RELU", shapes=((1, 30, 30, 24), (1, 1, 1, 24)))),
    "sub": unsigned(binary("SUB", X, Y, Z)),
    "mul": unsigned(binary("MUL", X, Y, WIDE)),
    "maximum of windows": unsigned(pool("MAX_POOL_2D", (28, 28, 32), (3, 3), (2, 2))),
    "average": unsigned(pool("AVERAGE_POOL_2D", (28, 28, 32), (3, 3), (2, 2))),
    "average of all": unsigned(pool("AVERAGE_POOL_2D", (4, 4, 256), (4, 4), (1, 1), "VALID")),
    "mean": unsigned(reduce("MEAN", (1, 7, 7, 128), (1, 2), X, (0.0091, 0))),
    "softmax": program("SOFTMAX", [value("x", (40, 101), (0.16, 66), "uint8")],
                       [value("y", (40, 101), (1 / 256, 0), "uint8")], {"beta": 1.0}),
    "logistic": program("LOGISTIC", [value("x", (1, 256), (0.06, 130), "uint8")],
                        [value("y", (1, 256), (1 / 256, 0), "uint8")], {}),
    "unit rows": program("L2_NORMALIZATION", [value("x", (40, 101), (0.06, 130), "uint8")],
                         [value("y", (40, 101), (1 / 128, 128), "uint8")], {}, 1),
    "leaky relu": unsigned(unary("LEAKY_RELU", X, Z, alpha=0.2)),
    "to int8, wider": convert("uint8", (0.045, 241), "int8", (0.31, 126)),
    "to int8, narrower": convert("uint8", (0.31, 26), "int8", (0.045, -7)),
    "from int8, the same grid": convert("int8", NARROW, "uint8", (NARROW[0], NARROW[1] + 128)),
}  # fmt: skip
SIXTEEN = {
    "leaky relu": wide(unary("LEAKY_RELU", X, Z, alpha=0.3)),
    "leaky relu, steep": wide(unary("LEAKY_RELU", X, WIDE, alpha=1.7)),
    "dense, int64 bias": wide(dense(70, 33, 50), "int64"),
    "to int32": convert("int16", (0.0473 / 200, 0), "int32", (0.0301 / 20000, 0)),
}


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned_operators_equal_litert(name: str, family: str):
    assert differing(UNSIGNED[name], family, 2)[0] == 0


@pytest.mark.parametrize("name", ["twice", "corners"])
def test_resizing_of_unsigned_images_equals_litert(name: str):
    built = unsigned(resized("RESIZE_BILINEAR", (9, 11, 21, 30), align_corners=name == "corners"))
    assert differing(built, "xnnpack", 2)[0] == 0
    with pytest.raises(ExportError, match="RESIZE_BILINEAR of uint8.*Evaluate with family 'xnnpack'"):
        differing(built, "reference", 1)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("name", SIXTEEN)
def test_operators_of_16_bits_equal_litert(name: str, family: str):
    assert differing(SIXTEEN[name], family, 2)[0] == 0


def without_bias(built: Program) -> Program:
    operator = dataclasses.replace(built.operators[0], inputs=built.operators[0].inputs[:3])
    return dataclasses.replace(built, operators=(operator,))


TRANSPOSED = transpose_conv((7, 6, 5), 4, 3, 2, "SAME")


@pytest.mark.parametrize("built", [wide(TRANSPOSED, "int64"), without_bias(wide(TRANSPOSED))], ids=["int64", "none"])
def test_transposed_convolutions_of_16_bits_sum_in_64(built: Program):
    assert differing(built, "reference", 2)[0] == 0


def unsaid(built: Program) -> Program:
    """The program without the option that says the type of its bias."""
    kept = {name: value for name, value in built.operators[0].options.items() if name != "quantized_bias_type"}
    return dataclasses.replace(built, operators=(dataclasses.replace(built.operators[0], options=kept),))


AS_INT64 = "int32 bias, and its option quantized_bias_type is 0: kernels then read the bias as int64"
NOT_MODELLED = {
    "conv": (unsaid(wide(conv((5, 5, 3), 4, (3, 3)))), BOTH, AS_INT64),
    "transposed": (wide(TRANSPOSED), ("reference",), AS_INT64),
    "dense": (unsaid(wide(dense(7, 33, 5))), ("reference",), AS_INT64),
    "products": (wide(matmul((3, 4, 5), (3, 5, 6), (3, 4, 6))), BOTH, "its sums of 64 bits are not modelled. Use int8"),
    "prelu": (wide(binary("PRELU", X, Y, Z, shapes=((7, 3, 5), (1, 1, 5)))), BOTH, "modelled for 8 bits"),
    "sum": (wide(reduce("SUM", (1, 5, 5, 3), (1, 2), X, Y)), ("reference",), "uint8. Evaluate with 'xnnpack'"),
}


@pytest.mark.parametrize("name", NOT_MODELLED)
def test_what_16_bits_compute_otherwise_is_refused(name: str):
    """Each of these LiteRT runs, with other integers than the formula of 8 bits gives."""
    built, families, said = NOT_MODELLED[name]
    for family in families:
        with pytest.raises(ExportError, match=said):
            evaluate(built, family)(*examples(built, 1))


def test_a_bias_beyond_int32_is_refused():
    built = wide(conv((5, 5, 3), 4, (3, 3)), "int64")
    b = built.tensors[2]
    assert b.data is not None
    far = dataclasses.replace(b, data=b.data + 2**40)
    with pytest.raises(ExportError, match=r"CONV_2D has a bias of 1\.1e\+12: sums beyond int32 are not modelled"):
        evaluate(dataclasses.replace(built, tensors=(*built.tensors[:2], far, *built.tensors[3:])), "reference")(
            np.zeros(built.tensors[0].shape, np.int16)
        )


def test_tables_of_8_bits_are_not_taken_for_16():
    built = wide(unary("EXP", X, Z))
    with pytest.raises(ExportError, match="is int16: the operator's kernel is modelled for 8 bits"):
        evaluate(built, "xnnpack")(np.zeros(built.tensors[0].shape, np.int16))


def test_signed_weights_beside_unsigned_activations_are_refused():
    x, w, b, y = conv((5, 5, 3), 4, (3, 3)).tensors
    mixed = dataclasses.replace(unsigned(conv((5, 5, 3), 4, (3, 3))), tensors=(_unsigned(x, 0), w, b, _unsigned(y, 0)))
    shifted = dataclasses.replace(w, quantization=Quantization.of(0.01, 3))
    with pytest.raises(ExportError, match="CONV_2D of uint8: XNNPACK takes int8 or int4 weights of zero point 0"):
        evaluate(dataclasses.replace(mixed, tensors=(_unsigned(x, 0), shifted, b, _unsigned(y, 0))), "xnnpack")(
            np.zeros(x.shape, np.uint8)
        )
