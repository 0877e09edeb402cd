"""`jaxq lint`: every rule finds what it is for and nothing else; what jaxq writes has no findings."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.errors import ExportError
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.lint import ERROR, RULES, WARNING, lint
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.runtimes.litert import load_check
from tests.test_exact import OTHER_RECIPES, exported
from tests.zoo import ZOO

X, W = 0.05, np.array([0.01, 0.02, 0.03, 0.04], np.float32)  # scales of activations, and of four channels
PRODUCT: np.ndarray = np.float32(X) * W
IMAGE = (1, 4, 4, 4)
CONV = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
POOL: dict[str, Any] = {"filter_height": 2, "filter_width": 2, "stride_h": 1, "stride_w": 1}


def act(name: str, *shape: int, scale: Any = X, zero_point: int = -3, dtype: str = "int8") -> Tensor:
    return Tensor(name, shape or IMAGE, dtype, Quantization.of(scale, zero_point))


def const(name: str, data: Any, scale: Any = None, zero_point: int = 0, axis: int = 0, dtype: str = "int8") -> Tensor:
    array = np.asarray(data, dtype)
    q = None if scale is None else Quantization.of(np.asarray(scale, np.float32), zero_point, axis)
    return Tensor(name, array.shape, dtype, q, array)


def one(kind: str, inputs: list[Tensor], outputs: list[Tensor], version: int = 2, **options: Option) -> Program:
    """A program of one operator: inputs without data are the program's, and every end has a name."""
    tensors, n = (*inputs, *outputs), len(inputs)
    fed = tuple(i for i, t in enumerate(inputs) if t.data is None)
    made = tuple(range(n, len(tensors)))
    operators = (Operator(kind, tuple(range(n)), made, options, version),)
    return Program(tensors, operators, fed, made, tuple(tensors[i].name for i in fed), tuple(t.name for t in outputs))


def kernel(*shape: int, scale: Any = W, **rest: Any) -> Tensor:
    return const("w", np.full(shape, 5), scale, **rest)


def bias(scale: Any = PRODUCT, zero_point: int = 0, dtype: str = "int32") -> Tensor:
    return const("b", np.arange(4), scale, zero_point, dtype=dtype)


def conv(w: Tensor | None = None, b: Tensor | None = None, version: int = 3, y: Tensor | None = None) -> Program:
    inputs = [act("x"), w or kernel(4, 3, 3, 4), b or bias()]
    return one("CONV_2D", inputs, [y or act("y")], version, **CONV)


def dense(w: Tensor | None = None, version: int = 4) -> Program:
    return one("FULLY_CONNECTED", [act("x", 1, 6), w or kernel(4, 6), bias()], [act("y", 1, 4)], version)


def depthwise(axis: int = 3) -> Program:
    w = kernel(1, 4, 4, 4, scale=W, axis=axis)
    return one("DEPTHWISE_CONV_2D", [act("x"), w, bias()], [act("y")], 3, depth_multiplier=1, **CONV)


def binary(kind: str, a: float, b: float, y: float, version: int = 2) -> Program:
    return one(kind, [act("a", scale=a), act("b", scale=b)], [act("y", scale=y)], version)


def binary_of(kind: str, a: tuple[int, ...], b: tuple[int, ...]) -> Program:
    return one(kind, [act("a", *a), act("b", *b)], [act("y", *a)])


def unary(kind: str, y: Tensor, x: Tensor | None = None, version: int = 2, **options: Option) -> Program:
    return one(kind, [x or act("x")], [y], version, **options)


def softmax(*shape: int) -> Program:
    return unary("SOFTMAX", act("y", *shape, scale=1 / 256, zero_point=-128), act("x", *shape), beta=1.0)


def reshape(scale: float, version: int = 1) -> Program:
    inputs = [act("x"), const("shape", [1, 64], dtype="int32")]
    return one("RESHAPE", inputs, [act("y", 1, 64, scale=scale)], version, new_shape=(1, 64))


def floats(name: str) -> Tensor:
    return Tensor(name, IMAGE, "float32")


def island() -> Program:
    """int8 RELU, then a float SIN between DEQUANTIZE and QUANTIZE."""
    tensors = (act("x"), act("r"), floats("f"), floats("s"), act("y"))
    operators = (
        Operator("RELU", (0,), (1,), {}, 2),
        Operator("DEQUANTIZE", (1,), (2,), {}, 2),
        Operator("SIN", (2,), (3,), {}, 1),
        Operator("QUANTIZE", (3,), (4,), {}, 1),
    )
    return Program(tensors, operators, (0,), (4,), ("x",), ("y",))


def round_trip() -> Program:
    operators = (Operator("DEQUANTIZE", (0,), (1,), {}, 2), Operator("QUANTIZE", (1,), (2,), {}, 1))
    return Program((act("x"), floats("f"), act("y", scale=0.1)), operators, (0,), (2,), ("x",), ("y",))


def with_tensor(tensor: Tensor) -> Program:
    return dataclasses.replace(conv(), tensors=(*conv().tensors, tensor))


def moved(program: Program, offset: int) -> Program:
    """Its first constant at a byte of a file."""
    at = next(i for i, t in enumerate(program.tensors) if t.data is not None)
    tensors = list(program.tensors)
    tensors[at] = dataclasses.replace(tensors[at], offset=offset)
    return dataclasses.replace(program, tensors=tuple(tensors))


CLEAN = {
    "conv": conv(),
    "grouped": conv(kernel(4, 3, 3, 2), version=6),
    "dense": dense(),
    "depthwise": depthwise(),
    "add": binary("ADD", 0.1, 0.1, 0.1),
    "mul": binary("MUL", 0.1, 0.1, 0.1),
    "mul from 1": binary("MUL", 1.0, 1.0, 0.5, version=3),
    "squared difference": binary("SQUARED_DIFFERENCE", 0.1, 0.1, 0.1),
    "softmax": softmax(1, 511),
    "tanh": unary("TANH", act("y", scale=1 / 128, zero_point=0)),
    "logistic": unary("LOGISTIC", act("y", scale=1 / 256, zero_point=-128)),
    "reshape": reshape(X),
    "relu6": unary("RELU6", act("y")),
    "requantize": unary("QUANTIZE", act("y", scale=0.1), version=1),
    "float io": unary("QUANTIZE", act("y"), floats("x"), version=1),
    "float graph": unary("SIN", floats("y"), floats("x"), version=1),
    "aligned": moved(conv(), 64),
    "split, one half unused": dataclasses.replace(
        one("SPLIT", [const("axis", 0, dtype="int32"), act("x", 2)], [act("y", 1), act("z", 1)], num_splits=2),
        outputs=(2,),
        output_names=("y",),
    ),
    "int16": one("ADD", [act(n, scale=X, zero_point=0, dtype="int16") for n in "ab"],
                 [act("y", zero_point=0, dtype="int16")], 3, pot_scale_int16=False),
}  # fmt: skip

# Rule -> programs that break it and nothing else, each with words of the finding.
BROKEN: dict[str, list[tuple[Program, str]]] = {
    "scale-invalid": [
        (unary("RELU", act("y", scale=np.float32(scale))), message)
        for scale, message in [(np.nan, "scale nan"), (np.inf, "scale inf"), (0, "scale 0"), (-1, "scale -1")]
    ],
    "scale-denormal": [(unary("RELU", act("y", scale=np.float32(1e-40))), r"scale 1e-40, below 2\^-126")],
    "scale-missing": [(unary("RELU", dataclasses.replace(act("y"), quantization=None)), "is int8 and has no scale")],
    "scale-per-channel": [
        (unary("RELU", Tensor("y", IMAGE, "int8", Quantization.of(W, -3, 3))), "computed at run time and has 4 scales")
    ],
    "zero-point-range": [
        (unary("RELU", act("y", zero_point=128)), "is int8 with zero point 128"),
        (unary("RELU", act("y", zero_point=1, dtype="int16"), act("x", zero_point=0, dtype="int16"), 3), "point 1"),
    ],
    "output-fixed": [
        (
            unary("SOFTMAX", act("y", scale=1 / 128, zero_point=-128), beta=1.0),
            "has scale 0.0078125 .* 0.00390625 and -1",
        ),
        (unary("LOGISTIC", act("y", scale=1 / 256, zero_point=0)), "zero point 0; the kernel has 0.00390625 and -128"),
        (
            unary("TANH", act("y", scale=np.nextafter(np.float32(1 / 128), np.float32(1)), zero_point=0)),
            "0.0078125 and",
        ),
        (unary("L2_NORMALIZATION", act("y", zero_point=0)), "the kernel has 0.0078125 and 0"),
        (unary("LOG_SOFTMAX", act("y", scale=16 / 256, zero_point=0)), "the kernel has 0.0625 and 127"),
    ],
    "scales-tied": [
        (reshape(0.06), "has scale 0.0500000007 zero point -3; the output has scale 0.0599999987"),
        (
            one("CONCATENATION", [act("a", 1, 2), act("b", 1, 2, zero_point=0)], [act("y", 1, 4)], axis=1),
            "zero point 0;",
        ),
        (binary("MAXIMUM", X, 0.2, X), "scale 0.2"),
        (
            unary("MAX_POOL_2D", act("y", zero_point=0), padding="SAME", **POOL),
            "zero point -3; the output has .* point 0",
        ),
        (one("PAD", [act("x"), const("p", np.zeros((4, 2)), dtype="int32")], [act("y", scale=1.0)]), "scale 1 "),
        (
            one("SPLIT", [const("axis", 0, dtype="int32"), act("x", 2)], [act("y", 1), act("z", 1, scale=1.0)]),
            "scale 1 ",
        ),
        (unary("SQUEEZE", Tensor("y", (4, 4, 4), "int8"), version=1), "the output has no scale"),
    ],
    "bias-scale": [
        (conv(b=bias(PRODUCT * np.float32(1.00001))), r"where s_x s_w is 0.000499999996 \(channel 0\)"),
        (conv(b=bias(np.append(PRODUCT[:3], np.float32(1)))), r"has scale 1 where .* \(channel 3\)"),
        (conv(b=bias(PRODUCT[:1])), r"\(channel 3\)"),
        (conv(b=bias(None)), "has no scale; s_x s_w is 0.000499999996"),
    ],
    "bias-zero-point": [(conv(b=bias(zero_point=2)), "has zero point 2")],
    "bias-type": [(conv(b=bias(dtype="int64")), "is int64 beside int8 activations")],
    "bias-missing": [(one("CONV_2D", [act("x"), kernel(4, 3, 3, 4)], [act("y")], 3, **CONV), "has no bias")],
    "weight-zero-point": [(conv(kernel(4, 3, 3, 4, zero_point=1)), "has zero point 1")],
    "dense-zero-point": [(dense(kernel(4, 6, zero_point=-1)), "has zero point -1")],
    "weight-range": [(conv(const("w", np.full((4, 1, 1, 4), -128), W)), "holds -128 16 times")],
    "weight-axis": [
        (conv(kernel(4, 3, 3, 4, axis=3)), "has its 4 scales along axis 3, not 0"),
        (depthwise(axis=1), "has its 4 scales along axis 1, not 3"),
        (
            one(
                "FULLY_CONNECTED", [act("x", 1, 4), const("w", np.ones((4, 4)), W, axis=1), bias()], [act("y", 1, 4)], 4
            ),
            "along axis 1, not 0",
        ),
    ],
    "add-aborts": [(binary("ADD", 1.0, 1.0, 2.0**-19), r"2 max\(s_1, s_2\) / \(2\^20 s_y\) = 1")],
    "squared-difference-aborts": [(binary("SQUARED_DIFFERENCE", 1.0, 0.5, 2.0**-12), "= 1")],
    "hard-swish-refused": [(unary("HARD_SWISH", act("y", scale=2.0**-8), act("x", scale=0.5), version=1), "= 1")],
    "matmul-zero-point": [
        (one("BATCH_MATMUL", [act("x", 2, 2, zero_point=0), act("w", 2, 2)], [act("y", 2, 2)]), "-3")
    ],
    "shapes-misfit": [
        (conv(y=act("y", 1, 4, 3, 4)), r"writes shape \(1, 4, 3, 4\), where its inputs make \(1, 4, 4, 4\)"),
        (binary_of("ADD", (1, 4), (1, 3)), r"broadcasts shapes \(1, 4\) and \(1, 3\)"),
    ],
    "not-evaluated": [
        (one("CUSTOM:filter", [Tensor("x", (4,), "uint64")], [act("y", 4)], 1), "is of type uint64"),
        (one("ABS", [dataclasses.replace(act("x"), unread="sparse data")], [act("y")]), "has sparse data"),
    ],
    "buffer-alignment": [(moved(conv(), 76), "begins at byte 76 of the file, 12 past a multiple of 16")],
    "xnnpack-window": [
        (binary("ADD", X, X * 2**11, X * 2**11), r"has s_1 / s_y = 0.0004883, outside \[0.0009766, 256\)"),
        (binary("SUB", X, X * 2**8, X), r"s_2 / s_y = 256, outside"),
        (binary("MUL", 2.0**-10, 2.0**-8, 1.0), r"s_1 s_2 / s_y = 3.815e-06"),
        (unary("QUANTIZE", act("y", scale=X / 257), version=1), "s_x / s_y = 257"),
        (unary("LEAKY_RELU", act("y"), version=1, alpha=0.001), r"alpha s_x / s_y = 0.001"),
        (conv(y=act("y", scale=float(PRODUCT[3]) / 260)), "the largest s_x s_w / s_y = 260, outside"),
    ],
    "sum-on-reference": [(one("SUM", [act("x"), const("axes", [1], dtype="int32")], [act("y", 1, 4, 4)]), "sums int8")],
    "softmax-classes": [(softmax(1, 512), "has 512 classes")],
    "sqrt-truncates": [(unary("SQRT", act("y")), "truncates")],
    "relu6-rescale": [
        (unary("RELU6", act("y", scale=0.02)), "has scale 0.0500000007 .* the output has scale 0.0199999996")
    ],
    "bilinear-differs": [
        (one("RESIZE_BILINEAR", [act("x"), const("s", [8, 8], dtype="int32")], [act("y", 1, 8, 8, 4)]), "resizes int8")
    ],
    "version-too-low": [
        (conv(version=1), "has version 1; on int8 it is 3"),
        (binary("ADD", 0.1, 0.1, 0.1, version=1), "has version 1; on int8 it is 2"),
    ],
    "version-too-high": [
        (conv(version=5), "has version 5; 3 is enough"),
        (dense(version=5), "has version 5; 4 is enough"),
        (unary("QUANTIZE", act("y", scale=0.1), version=3), "has version 3; 1 is enough"),
    ],
    "float-island": [(island(), "is float32 among integers")],
    "stray-quantize": [
        (round_trip(), r"quantizes what operator 0 \(DEQUANTIZE\) has just dequantized"),
        (unary("QUANTIZE", act("y"), version=1), "zero point -3 at both ends"),
    ],
    "signature-missing": [
        (dataclasses.replace(conv(), input_names=(), output_names=()), "no signature that names its 1 inputs and 1 out")
    ],
    "tensor-unread": [
        (with_tensor(const("left", [1, 2])), "is a constant that no operator reads"),
        (with_tensor(act("left")), "is read by no operator"),
    ],
    "name-duplicate": [(conv(y=act("x")), "has the name of tensor 0")],
}
CASES = [(rule, program, words) for rule, cases in BROKEN.items() for program, words in cases]
IDS = [f"{rule}-{i}" for rule, cases in BROKEN.items() for i in range(len(cases))]


@pytest.mark.parametrize(("rule", "program", "words"), CASES, ids=IDS)
def test_each_rule_finds_what_breaks_it_and_no_other_does(rule: str, program: Program, words: str):
    findings = lint(program)
    assert {f.rule.id for f in findings} == {rule}, [str(f) for f in findings]
    assert re.search(words, str(findings[0])), str(findings[0])


@pytest.mark.parametrize("name", CLEAN)
def test_programs_without_findings(name: str):
    assert [str(f) for f in lint(CLEAN[name])] == []
    assert [str(f) for f in lint(read(write(CLEAN[name])))] == []


def test_every_rule_is_tested_and_complete():
    assert list(BROKEN) == [rule.id for rule in RULES]
    for rule in RULES:
        assert rule.severity in (ERROR, WARNING)
        assert rule.what.endswith(".") and rule.fix.endswith(".") and rule.source
        assert rule.check.__doc__


def test_a_finding_as_text():
    findings = lint(conv(b=bias(zero_point=2)))
    assert [str(f) for f in findings] == ["error bias-zero-point: operator 0 (CONV_2D), tensor 2 'b' has zero point 2"]
    assert str(lint(BROKEN["signature-missing"][0][0])[0]).startswith("warning signature-missing: the file has no sig")
    assert "tensor 3 'n" in str(lint(conv(y=dataclasses.replace(act("n" * 999), quantization=None)))[0])


# --- what runtimes say of it --------------------------------------------------------------------------------

# LiteRT itself refuses these before it computes anything.
REFUSED = ["bias-missing", "bias-type", "bias-zero-point", "weight-zero-point", "hard-swish-refused"]


@pytest.mark.parametrize("rule", REFUSED)
def test_litert_refuses_what_the_rule_says_it_refuses(rule: str):
    with pytest.raises(ExportError):
        load_check(write(BROKEN[rule][0][0]))


@pytest.mark.parametrize("rule", ["add-aborts", "squared-difference-aborts"])
def test_litert_aborts_where_the_rule_says_so(rule: str, tmp_path: pathlib.Path):
    file = tmp_path / "aborts.tflite"
    file.write_bytes(write(BROKEN[rule][0][0]))
    code = f"from ai_edge_litert.interpreter import Interpreter; Interpreter({str(file)!r}).allocate_tensors()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -6


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_what_jaxq_writes_has_no_findings(name: str):
    assert [str(f) for f in lint(read(exported(name).artifact.data))] == []


@pytest.mark.parametrize("recipe", OTHER_RECIPES)
def test_nor_with_any_recipe(recipe: str):
    assert [str(f) for f in lint(read(exported("parts", recipe).artifact.data))] == []


def test_the_generated_writer_misaligns_constants():
    model: Any = schema_py_generated.ModelT.InitFromPackedBuf(write(conv()), 0)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    data = bytes(builder.Output())
    findings = lint(read(data))
    assert [(f.rule.id, f.rule.severity) for f in findings] == [("buffer-alignment", WARNING)]
    assert findings[0].places
    for place in findings[0].places:
        tensor = read(data).tensors[place.tensor or 0]
        assert tensor.offset is not None and tensor.data is not None
        assert data[tensor.offset :].startswith(tensor.data.tobytes())


# --- the command --------------------------------------------------------------------------------------------


def run(*args: Any) -> Any:
    return CliRunner().invoke(app, ["lint", *map(str, args)])


@pytest.fixture
def broken(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file with an error and two warnings."""
    file = tmp_path / "broken.tflite"
    program = conv(b=bias(zero_point=2), version=5)
    file.write_bytes(write(dataclasses.replace(program, input_names=(), output_names=())))
    return file


def test_the_command_as_text(broken: pathlib.Path):
    answer = run(broken)
    assert answer.exit_code == 1
    assert answer.stdout.startswith(f"{broken}: 1 error, 2 warnings\n\nfindings\n")
    assert re.search(r"error +bias-zero-point +1 +0 CONV_2D +2 b +has zero point 2\n", answer.stdout)
    assert "\n  fix: Quantize the bias symmetrically.\n  source: tflite/kernels/conv.cc (Prepare)\n" in answer.stdout


def test_the_command_as_json(broken: pathlib.Path):
    answer = run(broken, "--json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert (document["ok"], document["errors"], document["warnings"]) == (False, 1, 2)
    first = document["findings"][0]
    assert (first["rule"], first["severity"], first["message"]) == ("bias-zero-point", "error", "has zero point 2")
    assert first["operator"] == {"index": 0, "kind": "CONV_2D"} and first["tensor"] == {"index": 2, "name": "b"}
    assert first["fix"] and first["source"] and first["what"]
    assert document["findings"][-1]["operator"] is None and document["findings"][-1]["tensor"] is None


def test_one_finding_a_rule_with_a_count_and_its_first_places(tmp_path: pathlib.Path):
    file, program = tmp_path / "wrong.tflite", conv()
    names = [*program.tensors, *(act("x") for _ in range(5))]
    file.write_bytes(write(dataclasses.replace(program, tensors=tuple(names))))
    answer, document = run(file), json.loads(run(file, "--json").stdout)
    assert [(f["rule"], f["count"], len(f["places"])) for f in document["findings"]] == [
        ("tensor-unread", 5, 5), ("name-duplicate", 5, 5),
    ]  # fmt: skip
    assert answer.stdout.startswith(f"{file}: 0 errors, 2 warnings\n")
    assert "tensor-unread: 2 more places; --json lists them\n" in answer.stdout
    assert str(lint(read(file.read_bytes()))[0]).endswith("is read by no operator (and in 4 other places)")


def test_the_exit_codes(tmp_path: pathlib.Path):
    file = tmp_path / "warned.tflite"
    file.write_bytes(write(conv(version=5)))
    assert (run(file).exit_code, run(file, "--json").exit_code) == (0, 0)
    file.write_bytes(write(conv()))
    assert run(file).stdout == f"{file}: 0 errors, 0 warnings\n"
    assert run(tmp_path / "none.tflite").exit_code == 2
    file.write_bytes(b"TFL3")
    assert run(file).exit_code == 1
