"""A run resumes its own checkpoints and no other's; killed at any moment it resumes to the same bits."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import InputError
from jaxq.recipes import checkpoint, identity, mnist


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    sizes: tuple[int, ...] = (4, 8)


def held(out: pathlib.Path, **changes: object) -> None:
    given = {"recipe": "x", "seed": 0, "config": Config(), "data": "00000000", **changes}
    identity.claim(out, True, **given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"config": Config(rate=0.2)}, "config.rate was 0.1 and is 0.2"),
        ({"config": Config(sizes=(4,))}, r"config.sizes was \[4, 8\] and is \[4\]"),
        ({"data": "12345678", "recipe": "y"}, "recipe was 'x' and is 'y'; data was '00000000' and is '12345678'"),
        ({"devices": 2}, "devices was None and is 2"),
    ],
)
def test_the_checkpoints_of_another_run_are_refused(tmp_path: pathlib.Path, changes: dict, words: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    identity.claim(tmp_path, False, recipe="x", seed=0, config=Config(), data="00000000")
    held(tmp_path)  # its own
    with pytest.raises(InputError, match=f"holds the checkpoints of another run: {words}. Resume with what it had"):
        held(tmp_path, **changes)
    held(tmp_path)  # a refusal changes nothing
    (tmp_path / "checkpoints").rmdir()
    held(tmp_path, **changes)  # nothing to resume


@pytest.mark.parametrize("text", [None, "", "[1]", '{"seed": '])
def test_checkpoints_that_nothing_is_known_of_are_refused(tmp_path: pathlib.Path, text: str | None) -> None:
    (tmp_path / "checkpoints").mkdir()
    if text is not None:
        (tmp_path / identity.FILE).write_text(text)
    with pytest.raises(InputError, match="holds checkpoints and no run.json that says of which run"):
        held(tmp_path)


def test_a_fingerprint_tells_data_apart() -> None:
    data = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "names": ("a", "b")}
    first = identity.fingerprint(data)
    assert first == identity.fingerprint(json.loads(json.dumps(["a", "b"])) and dict(data))
    for other in (
        {**data, "x": data["x"].reshape(3, 2)},
        {**data, "x": data["x"].astype(np.int32)},
        {**data, "x": data["x"] + 1},
        {**data, "names": ("a", "c")},
    ):
        assert identity.fingerprint(other) != first


def test_a_recipe_refuses_the_seed_of_another_run(tmp_path: pathlib.Path) -> None:
    """Before anything is trained."""
    (tmp_path / "checkpoints").mkdir()
    data = identity.fingerprint(mnist._data(mnist.SMOKE, 0))
    identity.claim(tmp_path, False, recipe="mnist", seed=0, config=mnist.SMOKE, data=data)
    with pytest.raises(InputError, match="another run: seed was 0 and is 5; data was"):
        mnist.run(tmp_path, smoke=True, resume=True, seed=5)


def test_the_ranges_of_another_plan_are_refused(tmp_path: pathlib.Path) -> None:
    """Where the ranges have the same names and shapes, and other integers."""
    x = np.ones((4, 6), np.float32)
    dense = [jaxq.quantize(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), recipe, x[:1]) for recipe in ("int8", "int8", "int4")]
    for model in dense:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jaxq.PrecisionWarning)
            jaxq.calibrate(model, [x], progress=False)
    with checkpoint.manager(tmp_path / "int8", every=1) as checkpoints:
        checkpoint.save(checkpoints, 0, dense[0])
        checkpoints.wait_until_finished()
        assert checkpoint.restore(checkpoints, dense[1]) == 1
        with pytest.raises(
            InputError, match=r"holds the ranges of another plan .*kernel \(weight\) was 'int8, "
        ) as error:
            checkpoint.restore(checkpoints, dense[2])
    assert "is 'int4, " in str(error.value) and "Quantize with the recipe that it was trained with" in str(error.value)
    checkpoint.refuse_another_plan(tmp_path, {"fingerprint": "", "facts": {}})  # a folder that says nothing


# Six steps of training, a checkpoint after each; `kill` = (step, when): SIGKILL before the step's checkpoint, or while
# it is being written.
TRAINED = """
import os, pathlib, signal, sys, zlib
import jax, numpy as np, optax
from flax import nnx
from jaxq.recipes import checkpoint, loop
from jaxq.recipes.data import batches
folder, step_of_death, when = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(32, 4, 4, 1)).astype(np.float32), rng.integers(0, 3, 32)
class Net(nnx.Module):
    def __init__(self, rngs): self.dense = nnx.Linear(16, 3, rngs=rngs)
    def __call__(self, x): return self.dense(x.reshape(len(x), -1))
model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
with checkpoint.manager(folder, every=1) as checkpoints:
    first = checkpoint.restore(checkpoints, model, optimizer)
    def save(step):
        if step == step_of_death and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save(checkpoints, step, model, optimizer, last=step == 5)
        if step == step_of_death:
            os.kill(os.getpid(), signal.SIGKILL)
    loop.fit(model, optimizer, batches(images, labels, 8, 6, 0, first), title="t", steps=6, first=first, after=save)
print(first, *(f"{zlib.crc32(np.asarray(leaf)):08x}" for leaf in jax.tree.leaves(nnx.state((model, optimizer)))))
"""


def trained(folder: pathlib.Path, step: int = -1, when: str = "") -> tuple[int, str]:
    command = [sys.executable, "-c", TRAINED, str(folder), str(step), when]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()[-1] if done.returncode == 0 else done.stderr


def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    code, whole = trained(tmp_path / "whole")
    assert code == 0 and whole.startswith("0 "), whole
    assert trained(tmp_path / "cut", 2, "before")[0] == -signal.SIGKILL
    assert trained(tmp_path / "cut", 4, "while it is written")[0] == -signal.SIGKILL
    code, resumed = trained(tmp_path / "cut")
    assert code == 0, resumed
    first, *rest = resumed.split()
    assert int(first) in (3, 4, 5) and rest == whole.split()[1:]
