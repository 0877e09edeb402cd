"""The command line: what it prints, on which stream, with which exit code."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import typer.main
from flax import nnx
from typer.testing import CliRunner

import jaxq
from jaxq.analyze.trials import Trials
from jaxq.cli.app import COMMANDS, app, command
from jaxq.cli.output import printable
from jaxq.export.flatbuffer.read import read
from jaxq.recipes import checkpoint

PRINTED = "a model's file may print\n"
MODELS = """\
import sys, time
import jax, numpy as np
from flax import linen, nnx

print("a model's file may print")

class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs)])
    def __call__(self, x):
        return self.layers[0](jax.nn.relu(self.conv(x)).mean((1, 2)))

def net(): return Net(nnx.Rngs(0)), np.zeros((1, 8, 8, 1), np.float32)

def dense():
    module, x = linen.Dense(3), np.zeros((1, 4), np.float32)
    return module, x, module.init(jax.random.key(0), x)

def dense_alone(): return dense()[:2]

def function():
    params = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
    return lambda p, x: jax.nn.relu(x @ p["w"]), np.zeros((1, 4), np.float32), params

def broken(): return {}["key"]

def number(): return 7

def no_example(): return net()[0], None

class Dividing(nnx.Module):
    def __call__(self, x):
        return x / (1 // 0)

def dividing(): return Dividing(), np.zeros((1, 4), np.float32)

def sleeping():
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(60)
"""


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*args: object) -> Answer:
    """Run a command in this process."""
    found = CliRunner().invoke(app, [str(a) for a in args], prog_name="jaxq")
    return Answer(found.exit_code, found.stdout, found.stderr)


def refused(code: int, *args: object) -> str:
    """Run a command that must fail without a traceback, and print nothing but on standard error; its message."""
    found = call(*args)
    assert (found.code, found.out.removeprefix(PRINTED)) == (code, ""), found
    assert found.err.startswith("error: ") and "Traceback" not in found.err, found.err
    return found.err.removeprefix("error: ").rstrip()


def process(*args: object, cwd: pathlib.Path | None = None) -> Answer:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "jaxq", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Models and data."""
    place = tmp_path_factory.mktemp("cli")
    (place / "models.py").write_text(MODELS)
    rng = np.random.default_rng(0)
    np.save(place / "images.npy", rng.normal(size=(70, 8, 8, 1)))
    np.save(place / "vectors.npy", rng.normal(size=(10, 4)).astype(np.float32))
    np.save(place / "nan.npy", np.full((2, 8, 8, 1), np.nan, np.float32))
    return place


@pytest.fixture(scope="module")
def file(folder: pathlib.Path) -> pathlib.Path:
    """A .tflite file."""
    out, images = folder / "net.tflite", folder / "images.npy"
    assert call("export", f"{folder}/models.py:net", "--out", out, "--calibrate", images).code == 0
    return out


# --- the program --------------------------------------------------------------------------------------------


def test_help_is_plain_in_a_pipe_and_names_every_command():
    found = process("--help")
    assert found.code == 0 and found.err == ""
    assert "  plan         Print how a model will be quantized.\n" in found.out
    commands = ("plan", "train", "export", "verify", "diff", "inspect", "lint", "check", "bench", "infer", "weights")
    assert all(f"\n  {name} " in found.out for name in ("search", "sensitivity", "tune"))
    assert "\n  proof " in found.out
    assert all(f"\n  {name} " in found.out for name in commands)


def test_version():
    assert process("--version") == Answer(0, f"jaxq {jaxq.__version__}\n", "")


def test_exit_codes_of_the_process(folder: pathlib.Path, file: pathlib.Path):
    assert process("plan", "models.py:net", cwd=folder).code == 0
    found = process("inspect", "models.py", "--json", cwd=folder)
    assert found.code == 1 and found.json["error"]["kind"] == "FormatError"
    found = process("plan", "models:net", "--recipe", "int9", cwd=folder)
    assert found.code == 2 and found.err == (
        "error: There is no recipe 'int9'. Did you mean 'int8' or 'int4' or 'int16x8'? "
        "Or give a path to a .toml file.\n"
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupt(folder: pathlib.Path, as_json: bool):
    command = [sys.executable, "-m", "jaxq", "plan", "models.py:sleeping", *(["--json"] if as_json else [])]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        while "asleep" not in child.stderr.readline():
            pass
        os.kill(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=30)
    message = "interrupted; nothing was written"
    assert child.returncode == 130
    if as_json:
        assert json.loads(out) == {"error": {"kind": "Interrupted", "message": message}}
    else:
        assert err == f"{message}\n"


LOST = """
import signal, time
from jaxq.cli.interrupts import heard

class Freed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # Python prints such an interrupt as ignored

with heard():
    Freed()
    time.sleep(20)
"""


def test_an_interrupt_in_a_callback_is_not_lost():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=15)
    assert done.returncode == 130 and done.stderr == "interrupted; nothing was written\n"


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_an_interrupt_while_options_are_parsed(flags: list[str], monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(typer.main.get_command(app)), "make_context", interrupted)
    found = call("inspect", "models.py", *flags)
    assert found.code == 130
    said = found.json["error"]["message"] if flags else found.err.strip()
    assert said == "interrupted; nothing was written"


def test_a_reader_that_goes_away_is_no_error(file: pathlib.Path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "jaxq", "inspect", str(file)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_usage_errors():
    assert refused(2) == "Missing command.\nTry: jaxq --help"
    assert refused(2, "plan").endswith("Try: jaxq plan --help")
    assert refused(2, "inpsect", "x").startswith("No such command 'inpsect'. Did you mean 'inspect'?")
    assert "'none.tflite' does not exist." in refused(2, "inspect", "none.tflite")
    found = call("plan", "--wrong", "--json")
    assert found.code == 2 and found.json["error"]["kind"] == "UsageError"
    assert "No such option: --wrong" in found.json["error"]["message"]


def test_an_error_in_the_model_keeps_its_traceback_and_the_document(folder: pathlib.Path):
    found = call("plan", f"{folder}/models.py:dividing", "--json")
    assert found.code == 1 and found.json["error"]["kind"] == "ZeroDivisionError"
    assert "return x / (1 // 0)" in found.err


# --- plan and TARGET ----------------------------------------------------------------------------------------


def test_plan_as_text(folder: pathlib.Path):
    found = call("plan", f"{folder}/models.py:net")
    assert found.code == 0 and "plan: recipe int8, target LiteRT" in found.out
    assert "  conv/kernel: int8, per channel (axis 3), symmetric, scale = max abs(w) / 127 at each step\n" in found.out


def test_plan_as_json(folder: pathlib.Path):
    found = call("plan", f"{folder}/models.py:net", "--json").json
    assert list(found["weights"]) == ["conv/kernel", "layers/0/kernel"]
    assert found["activations"][0]["name"] == "input" and found["float_islands"] == {}
    assert found["verdict"].startswith("every tensor is an integer")


@pytest.mark.parametrize(("name", "site"), [("dense", "kernel"), ("function", "w")])
def test_plan_of_linen_and_of_a_function(folder: pathlib.Path, name: str, site: str):
    assert list(call("plan", f"{folder}/models.py:{name}", "--json").json["weights"]) == [site]


def test_plan_of_a_shipped_recipe():
    with jax.numpy_dtype_promotion("standard"):  # flax's avg_pool divides float32 by int32
        assert "stem/kernel" in call("plan", "recipes/mnist.py", "--json").json["weights"]


def test_plan_with_a_recipe_file(folder: pathlib.Path):
    recipe = folder / "float_head.toml"
    recipe.write_text('[[rules]]\nmatch = "layers/*"\nfloat = true\n')
    found = call("plan", f"{folder}/models.py:net", "--recipe", recipe, "--json").json
    assert list(found["float_islands"]) == ["layers/0/kernel"]
    recipe.write_text('[[rules]]\nmatch = "head/*"\nfloat = true\n')
    message = refused(2, "plan", f"{folder}/models.py:net", "--recipe", recipe)
    assert message.startswith("The rule 'head/*' of recipe 'custom' matches none")
    assert "Cannot read the recipe none.toml" in refused(2, "plan", f"{folder}/models.py:net", "--recipe", "none.toml")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{}/models.py:nett", "{}/models.py has no function 'nett'. Did you mean 'net'"),
        ("{}/models.py", "{}/models.py is a file; name the function in it that returns (model, example)"),
        ("{}/none.py:net", "There is no file {}/none.py."),
        ("no.such.module:net", "There is no module 'no.such.module' on the path."),
        ("mnits", "There is no recipe 'mnits' that defines target(). Did you mean 'mnist'?"),
        ("{}/models.py:broken", "{}/models.py:broken raised KeyError: 'key' ({}/models.py, line "),
        ("{}/models.py:number", "{}/models.py:number returned int; it must return (model, example)"),
        ("{}/models.py:no_example", "The example that {}/models.py:no_example returned must be an array"),
        (
            "{}/models.py:dense_alone",
            "{}/models.py:dense_alone returned a Dense; with one goes (module, example, variables).",
        ),
    ],
)
def test_a_wrong_target(folder: pathlib.Path, target: str, message: str):
    found = refused(2, "plan", target.format(folder))
    assert found.startswith(message.format(folder, folder))


def test_a_file_with_a_syntax_error(tmp_path: pathlib.Path):
    (tmp_path / "bad.py").write_text("def f(:\n")
    assert "bad.py raised SyntaxError: " in refused(2, "plan", f"{tmp_path}/bad.py:f")


# --- export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "data"), [("net", "images"), ("dense", "vectors"), ("function", "vectors")])
def test_export_and_verify(folder: pathlib.Path, tmp_path: pathlib.Path, name: str, data: str):
    out, arrays = tmp_path / f"{name}.tflite", folder / f"{data}.npy"
    arguments = ("--out", out, "--calibrate", arrays, "--verify", arrays, "--json")
    found = call("export", f"{folder}/models.py:{name}", *arguments)
    assert found.code == 0, found
    assert found.json["certificate"]["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert found.json["bytes"] == out.stat().st_size
    assert json.loads(out.with_suffix(".json").read_text())["sha256"] == found.json["sha256"]


def test_export_as_text_warns_when_unproven(folder: pathlib.Path, tmp_path: pathlib.Path):
    arguments = ("--out", tmp_path / "a.tflite", "--calibrate", folder / "vectors.npy")
    found = call("export", f"{folder}/models.py:dense", *arguments)
    assert found.code == 0 and "sha256" in found.out
    assert found.err.startswith("warning: the file is not verified. Give --verify data.npy")


def test_export_after_passes(folder: pathlib.Path, tmp_path: pathlib.Path):
    net, data = f"{folder}/models.py:function", folder / "vectors.npy"
    arguments = ("--calibrate", data, "--passes", "norm,bias", "--verify", data)
    found = call("export", net, "--out", tmp_path / "net.tflite", *arguments)
    assert found.code == 0, found.err
    assert "improve: bias, norm" in found.out and "dB after" in found.out
    assert "training forward, aarch64: 0 of" in found.out
    message = refused(2, "export", net, "--out", tmp_path / "b.tflite", "--passes", "bias")
    assert "--passes needs --calibrate data.npy" in message
    message = refused(2, "export", net, "--out", tmp_path / "b.tflite", "--calibrate", data, "--passes", "bais")
    assert "There is no pass 'bais'. Did you mean 'bias'?" in message


def trained(folder: pathlib.Path) -> Any:
    """A quantized Net unlike the one that models.py makes."""
    namespace: dict[str, Any] = {}
    exec(compile(MODELS, "models.py", "exec"), namespace)
    model, example = namespace["Net"](nnx.Rngs(7)), np.zeros((1, 8, 8, 1), np.float32)
    qmodel = jaxq.quantize(model, "int8", example)
    jaxq.calibrate(qmodel, [np.load(folder / "images.npy").astype(np.float32)], progress=False)
    return qmodel


@pytest.mark.parametrize("layout", ["checkpointer", "manager"])
def test_export_of_a_checkpoint(folder: pathlib.Path, tmp_path: pathlib.Path, layout: str):
    qmodel, place, out = trained(folder), tmp_path / "checkpoint", tmp_path / "a.tflite"
    if layout == "manager":
        with checkpoint.manager(place, every=1) as checkpoints:
            checkpoint.save(checkpoints, 0, qmodel, nnx.Dict(count=nnx.Param(np.float32(0))))
            checkpoint.save(checkpoints, 12, qmodel, nnx.Dict(count=nnx.Param(np.float32(0))))
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(place, nnx.to_pure_dict(nnx.state(qmodel)))
    found = call("export", f"{folder}/models.py:net", "--checkpoint", place, "--out", out)
    assert found.code == 0, found
    assert out.read_bytes() == jaxq.export.to_tflite(qmodel).data


def test_a_checkpoint_of_another_plan(folder: pathlib.Path, tmp_path: pathlib.Path):
    with checkpoint.manager(tmp_path / "trained", every=1) as checkpoints:
        checkpoint.save(checkpoints, 0, trained(folder))
    given = ("export", f"{folder}/models.py:net", "--checkpoint", tmp_path / "trained", "--recipe", "int4")
    message = refused(1, *given, "--out", tmp_path / "a.tflite")
    assert "holds the ranges of another plan" in message and "(weight) was 'int8, per channel" in message


def test_a_checkpoint_that_does_not_fit(folder: pathlib.Path, tmp_path: pathlib.Path):
    state = nnx.to_pure_dict(nnx.state(trained(folder)))
    net, out = f"{folder}/models.py:net", tmp_path / "a.tflite"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "few", {"model": state["model"]})
        state["model"]["conv"]["bias"] = np.zeros(5, np.float32)
        checkpointer.save(tmp_path / "shape", state)
    message = refused(1, "export", net, "--checkpoint", tmp_path / "few", "--out", out)
    assert message.startswith(f"The checkpoint {tmp_path}/few has no ranges/input/")
    message = refused(1, "export", net, "--checkpoint", tmp_path / "shape", "--out", out)
    assert message == f"model/conv/bias is (5,) in the checkpoint {tmp_path}/shape, (4,) in the model."
    message = refused(1, "export", net, "--checkpoint", folder, "--out", out)
    assert message.startswith(f"{folder} is no orbax checkpoint of a quantized model: ")
    message = refused(2, "export", f"{folder}/models.py:dense", "--checkpoint", folder, "--out", out)
    assert message.startswith("--checkpoint restores NNX models.")


def test_export_needs_ranges(folder: pathlib.Path, tmp_path: pathlib.Path):
    net, out, images = f"{folder}/models.py:net", tmp_path / "a.tflite", folder / "images.npy"
    assert refused(2, "export", net, "--out", out) == (
        "The model has no ranges yet. Give --checkpoint DIR (trained), or --calibrate data.npy (not trained).\n"
        "Try: jaxq export --help"
    )
    both = refused(2, "export", net, "--out", out, "--calibrate", images, "--checkpoint", folder)
    assert both.startswith("--checkpoint and --calibrate exclude each other")
    assert not list(tmp_path.iterdir())


def test_existing_output_needs_force(folder: pathlib.Path, tmp_path: pathlib.Path):
    out = tmp_path / "a.tflite"
    out.write_bytes(b"precious")
    arguments = ("export", f"{folder}/models.py:dense", "--out", out, "--calibrate", folder / "vectors.npy")
    assert refused(1, *arguments) == f"{out} exists (8 bytes). Give another --out, or --force to replace it."
    assert out.read_bytes() == b"precious"
    assert call(*arguments, "--force").code == 0 and out.stat().st_size > 8
    out.unlink()
    assert refused(1, *arguments).startswith(f"{out.with_suffix('.json')} exists (")


def test_an_output_that_cannot_be(folder: pathlib.Path, tmp_path: pathlib.Path):
    arguments = ("export", f"{folder}/models.py:dense", "--calibrate", folder / "vectors.npy", "--out")
    below = folder / "images.npy" / "a.tflite"
    assert refused(1, *arguments, below) == f"Cannot write {below}: {below.parent} is not a directory."
    missing = tmp_path / "none" / "a.tflite"
    assert refused(1, *arguments, missing).endswith(f"{missing.parent} does not exist. Make it first.")
    assert refused(2, *arguments, tmp_path / "a.json").startswith(f"--out {tmp_path}/a.json must end in .tflite")


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("nan", "CalibrationError", "Calibration batch 0: input 0 holds 128 of 128 values that are NaN or infinite."),
        ("vectors", "InputError", "Input 0 has shape (10, 4); the model was quantized with (1, 8, 8, 1)"),
        ("models.py", "InputError", "models.py is not an .npy or .npz file of numbers: "),
        ("empty", "InputError", "empty.npy holds no example: its shape is (0, 8, 8, 1)."),
        ("text", "InputError", "text.npy holds <U1; the inputs of a model are numbers."),
        ("object", "InputError", "object.npy is not an .npy or .npz file of numbers: "),
    ],
)
def test_wrong_calibration_data(folder: pathlib.Path, tmp_path: pathlib.Path, data: str, kind: str, message: str):
    np.save(folder / "empty.npy", np.zeros((0, 8, 8, 1), np.float32))
    np.save(folder / "text.npy", np.array(["a"]))
    np.save(folder / "object.npy", np.array([{}]), allow_pickle=True)
    path = folder / (data if "." in data else f"{data}.npy")
    arguments = ("--out", tmp_path / "a.tflite", "--calibrate", path, "--json")
    found = call("export", f"{folder}/models.py:net", *arguments)
    assert found.code == 1 and found.json["error"]["kind"] == kind
    assert message in found.json["error"]["message"]
    assert not list(tmp_path.iterdir())


# --- inspect and verify -------------------------------------------------------------------------------------


def test_inspect_as_text(file: pathlib.Path):
    found = call("inspect", file)
    assert found.code == 0 and f"{file}: {file.stat().st_size:,} bytes, 3 operators, 9 tensors" in found.out
    assert "  CONV_2D" in found.out and "\n  1  conv/kernel " in found.out
    assert "\x1b" not in found.out


def test_inspect_as_json(file: pathlib.Path):
    found = call("inspect", file, "--json").json
    assert [op["kind"] for op in found["operators"]] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    assert all(op["version"] >= 1 for op in found["operators"])
    assert found["inputs"][0]["signature"] == "x"
    by_op = {"CONV_2D": 4 * 9 + 4 * 4, "FULLY_CONNECTED": 12 + 3 * 4, "MEAN": 8}
    assert found["weight_bytes"] == {"by_op": by_op, "total": sum(by_op.values())}
    kernel = next(t for t in found["tensors"] if t["name"] == "conv/kernel")
    assert len(kernel["quantization"]["scale"]) == 4 and kernel["quantization"]["axis"] == 0


def test_inspect_of_bytes_that_are_no_file(file: pathlib.Path, tmp_path: pathlib.Path):
    bad = tmp_path / "bad.tflite"
    rng = np.random.default_rng(0)
    whole = file.read_bytes()
    for data in (b"", whole[:-40], whole[:100], rng.bytes(500), whole[:8] + rng.bytes(500)):
        bad.write_bytes(data)
        assert refused(1, "inspect", bad).startswith(f"{bad}: ")
        found = call("verify", bad, "--random", 1, "--json")
        assert found.code == 1 and found.json["error"]["kind"] == "FormatError"


def test_names_in_files_are_never_obeyed():
    assert printable("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\nc\\u202e"


def test_verify_random(file: pathlib.Path):
    first, second = (call("verify", file, "--random", 3, "--json") for _ in range(2))
    assert first == second and first.code == 0
    assert first.json["ok"] and first.json["examples"] == 3 and first.json["differing_tensors"] == []


def test_verify_by_chosen_families(file: pathlib.Path):
    found = call("verify", file, "--random", 2, "--family", "reference", "--json")
    assert found.code == 0 and found.json["differing_integers"] == {"reference": 0}
    message = "There is no kernel family 'ruy'. Families: xnnpack, reference, tflm."
    assert refused(2, "verify", file, "--random", 2, "--family", "ruy").startswith(message)


def test_verify_on_floats_and_on_their_integers(folder: pathlib.Path, file: pathlib.Path, tmp_path: pathlib.Path):
    found = call("verify", file, "--data", folder / "images.npy")
    assert found.code == 0 and "certificate: 70 examples" in found.out
    assert "  xnnpack: 0 of " in found.out and "  reference: 0 of " in found.out
    np.save(tmp_path / "int8.npy", np.zeros((1, 8, 8, 1), np.int8))
    assert call("verify", file, "--data", tmp_path / "int8.npy", "--json").json["examples"] == 1
    np.savez(tmp_path / "int8.npz", x=np.zeros((2, 8, 8, 1), np.int8))
    assert call("verify", file, "--data", tmp_path / "int8.npz", "--json").json["examples"] == 2


def test_verify_refuses_wrong_data(folder: pathlib.Path, file: pathlib.Path, tmp_path: pathlib.Path):
    assert refused(2, "verify", file).startswith("Give either --data inputs.npy or --random N.")
    vectors = folder / "vectors.npy"
    message = refused(1, "verify", file, "--data", vectors)
    assert message == "The data for 'input' is (10, 4); the file says (1, 8, 8, 1)."
    assert "values that are NaN or infinite" in refused(1, "verify", file, "--data", folder / "nan.npy")
    np.save(tmp_path / "u8.npy", np.zeros((1, 8, 8, 1), np.uint8))
    message = refused(1, "verify", file, "--data", tmp_path / "u8.npy")
    assert message.startswith("The data for 'input' is uint8; the file says int8[1,8,8,1] scale=")
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 8, 8, 1)), b=np.zeros((1, 8, 8, 1)))
    message = refused(1, "verify", file, "--data", tmp_path / "two.npz")
    assert message.startswith("The data has 2 arrays; the file has 1 inputs (input: int8[1,8,8,1]")
    np.savez(tmp_path / "uneven.npz", a=np.zeros((1, 2)), b=np.zeros((3, 2)))
    assert "2 arrays of [1, 3] examples" in refused(1, "verify", file, "--data", tmp_path / "uneven.npz")


# --- train --------------------------------------------------------------------------------------------------


def test_train_refuses(folder: pathlib.Path, tmp_path: pathlib.Path):
    message = refused(2, "train", "recipes/mnits")
    assert message.startswith("There is no recipe 'recipes/mnits' that defines run(). Did you mean 'mnist'?")
    assert refused(2, "train", "loop").startswith("There is no recipe 'loop' that defines run().")
    assert refused(2, "train", "mnist", "--force", "--resume").startswith("--force begins again and --resume goes on")
    message = refused(2, "train", "mnist", "--out", folder / "images.npy")
    assert message.startswith(f"--out {folder}/images.npy is a file")
    (tmp_path / "model.tflite").write_bytes(b"precious")
    assert "model.tflite exists. Go on with --resume" in refused(1, "train", "mnist", "--smoke", "--out", tmp_path)


@pytest.mark.slow
def test_train_smoke_prints_one_document(tmp_path: pathlib.Path):
    found = process("train", "recipes/mnist", "--smoke", "--out", tmp_path / "run", "--json")
    assert found.code == 0, found.err
    assert found.json["summary"]["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert (tmp_path / "run" / "model.tflite").is_file()


# --- sensitivity --------------------------------------------------------------------------------------------


def test_sensitivity_prints_a_table(folder: pathlib.Path):
    np.save(folder / "labels.npy", np.arange(70) % 2)
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy", "--choices", "w4")
    found = call("sensitivity", *given)
    assert found.code == 0 and "each alone under another choice, 70 examples; noise / signal" in found.out
    found = call("sensitivity", *given, "--labels", folder / "labels.npy", "--json")
    assert found.json["measure"] == "cross entropy" and found.json["scores"][0]["choice"] == "w4"


def test_sensitivity_misused(folder: pathlib.Path):
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy")
    assert refused(1, "sensitivity", *given, "--choices", "w5").startswith("There is no choice 'w5'.")
    np.save(folder / "few.npy", np.arange(3))
    found = refused(1, "sensitivity", *given, "--labels", folder / "few.npy")
    assert "the first with 3 labels" in found and "holds 70 examples" in found


# --- search and tune ----------------------------------------------------------------------------------------


def test_search_writes_a_recipe_that_quantizes(folder: pathlib.Path):
    out = folder / "found.toml"
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy")
    found = call("search", *given, "--budget", "100%", "--out", out)
    assert found.code == 0 and f"wrote {out}: --recipe {out}" in found.out and "the file: at most " in found.out
    assert call("plan", f"{folder}/models.py:net", "--recipe", out).code == 0
    assert refused(1, "search", *given, "--ranges", "--out", out).startswith(f"{out} exists (")
    found = call("search", *given, "--ranges", "--json")
    assert found.json["complete"] and found.json["recipe"]["activations"]["calibration"] == found.json["method"]


def test_tune_and_rollback(folder: pathlib.Path):
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy", "--max-drop", "100")
    file = folder / "tuned.tflite"
    found = call("tune", *given, "--json", "--file", file, "--force")
    certificate = json.loads(file.with_suffix(".json").read_text())["certificate"]
    assert read(file.read_bytes()).operators and certificate["examples"] == 16
    assert found.code == 0 and found.json["reached"] and set(found.json["metrics"]) >= {"minmax", "mse", "entropy"}
    found = call("search", *given)
    assert found.code == 0 and "with 0 taken back" in found.out


@pytest.mark.slow
def test_ctrl_c_writes_what_was_found(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    out, calls, measured = folder / "cut_off.toml", [0], Trials.measured

    def interrupted(self: Trials, *args: Any, **kwargs: Any) -> float:
        calls[0] += 1
        if calls[0] == 3:  # as it is, one kernel alone, and then
            raise KeyboardInterrupt
        return measured(self, *args, **kwargs)

    monkeypatch.setattr(Trials, "measured", interrupted)
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy")
    found = call("search", *given, "--budget", "100%", "--out", out)
    assert found.code == 130 and "(interrupted; the best so far)" in found.out and out.exists()


def test_search_misused(folder: pathlib.Path):
    given = (f"{folder}/models.py:net", "--calibrate", folder / "images.npy")
    assert refused(2, "search", *given).startswith("Give one of --budget 2.5MB, --max-drop 0.5 and --ranges.")
    assert refused(1, "search", *given, "--budget", "1KB").startswith("--budget 1KB is 1,000 bytes; the file has ")
    found = refused(2, "search", *given, "--budget", "1MB", "--out", "found.json")
    assert found.startswith("--out found.json must end in .toml: it is a recipe.")


# --- diff ---------------------------------------------------------------------------------------------------


def test_diff_prints_every_tensor_and_every_link(folder: pathlib.Path, file: pathlib.Path):
    found = call("diff", f"{folder}/models.py:net", file, "--calibrate", folder / "images.npy", "--sort", "own")
    assert found.code == 0, found
    table, integers = found.out.removeprefix(PRINTED).rstrip().split("\n\n")
    head, columns, *rows = table.splitlines()
    assert head.startswith("training forward against the float reading, 70 examples; errors in steps of ")
    assert columns.split()[:2] == ["tensor", "op"]
    assert {row.split()[0] for row in rows} == {"input", "conv/kernel:out", "mean", "layers/0/kernel:out"}
    own = [float(row.split()[3]) for row in rows]
    assert own == sorted(own)
    assert integers.splitlines()[0].startswith("integers, 70 examples, ai-edge-litert ")
    assert integers.count(": 0 of ") == 5


def test_diff_names_the_first_divergent_tensor(folder: pathlib.Path, file: pathlib.Path):
    bias = read(file.read_bytes()).tensors
    numbers = next(t.data for t in bias if t.name == "layers/0/kernel")
    assert numbers is not None
    place = file.read_bytes().index(numbers.tobytes())
    bad, whole = folder / "bad.tflite", bytearray(file.read_bytes())
    whole[place] ^= 0x40
    bad.write_bytes(bytes(whole))
    found = call("diff", f"{folder}/models.py:net", bad, "--calibrate", folder / "images.npy", "--json")
    assert found.code == 1, found
    integers = found.json["integers"]
    assert not integers["ok"] and [change["name"] for change in integers["changes"]] == ["layers/0/kernel"]
    firsts = [link["first_divergence"] for link in integers["links"]]
    assert [first and first["tensor"] for first in firsts] == [None, *["layers/0/kernel:out"] * 2, None, None]
    assert found.json["not_exported"] is None and len(found.json["float"]["tensors"]) == 4


def test_diff_of_a_model_that_cannot_be_exported(folder: pathlib.Path):
    (folder / "islands.py").write_text(ISLAND)
    model, data = f"{folder}/islands.py:running", folder / "vectors.npy"
    found = call("diff", model, "--calibrate", data)
    assert found.code == 0 and "\n\nintegers not compared: float runs in floating point: `cumlogsumexp` (" in found.out


ISLAND = """\
import jax, numpy as np

def running():
    params = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
    return lambda p, x: jax.lax.cumlogsumexp(x @ p["w"], 1), np.zeros((1, 4), np.float32), params
"""


def test_diff_misused(folder: pathlib.Path, file: pathlib.Path):
    model = f"{folder}/models.py:net"
    assert refused(2, "diff", model) == "Give --data inputs.npy to compare on.\nTry: jaxq diff --help"
    found = refused(2, "diff", model, "--data", folder / "images.npy", "--sort", "sqn")
    assert found.startswith("There is no order 'sqn'. Did you mean 'sqnr'?")
    assert refused(2, "diff", model, "--data", folder / "images.npy").startswith("The model has no ranges yet.")
    found = refused(1, "diff", f"{folder}/models.py:function", file, "--calibrate", folder / "vectors.npy")
    assert found.startswith("The file takes other inputs than the model: input: int8[1,8,8,1] ")
    found = refused(1, "diff", model, folder / "models.py", "--calibrate", folder / "images.npy")
    assert found.startswith(f"{folder}/models.py: ")


def test_the_help_of_the_commands_is_their_own() -> None:
    """Without their modules the help says what each command's own help begins with."""
    for name in COMMANDS:
        real = command(name)
        assert (real.name, real.help.split("\n\n")[0].replace("\n", " ")) == (name, COMMANDS[name][1])
