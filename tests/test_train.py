"""The training script: batches, devices, exact resume, interruption, what it writes; image folders; range health."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import jaxq
from jaxq.errors import InputError
from jaxq.plan.recipe import Activations
from jaxq.recipes import checkpoint, images, stepping, train
from jaxq.recipes.processes import Share
from jaxq.recipes.train import Training

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = Training(epochs=2.0, batch=8, rate=1e-2, resolution=8, save=2, log=1, look=3)
DATA = images.synthetic(3, 24, 10, seed=0)


class Small(nnx.Module):
    """Convolution, BatchNorm, ReLU, dropout, head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(jax.nn.relu(self.bn(self.conv(x))).mean((1, 2))))


def preprocess(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


TX = jaxq.optim.partition(optax.adamw(train.schedule(CONFIG, 6)), observe=2, freeze=5)


@functools.cache
def float_start() -> Any:
    """A float model and its optimizer, as structure and state."""
    model = Small(nnx.Rngs(0))
    model.train()
    return nnx.split((model, nnx.Optimizer(model, TX, wrt=nnx.Param)))


@functools.cache
def int8_start() -> Any:
    """A calibrated int8 model and its optimizer, as structure and state."""
    model = Small(nnx.Rngs(0))
    model.eval()
    recipe = jaxq.Recipe(name="int8", activations=Activations(observe=True))
    qmodel = jaxq.quantize(model, recipe, np.zeros((1, 8, 8, 3), np.float32))
    jaxq.calibrate(qmodel, [preprocess(DATA.images[:8, :8, :8])], progress=False)
    qmodel.train()
    return nnx.split((qmodel, nnx.Optimizer(qmodel, TX, wrt=nnx.Param)))


@dataclasses.dataclass
class Kept:
    """A writer to a list, which may press Ctrl-C at some step."""

    numbers: list[tuple[str, float, int]] = dataclasses.field(default_factory=list)
    interrupt_at: int | None = None

    def scalar(self, name: str, value: float, step: int) -> None:
        self.numbers.append((name, value, step))
        if step == self.interrupt_at and name.endswith("loss"):
            signal.raise_signal(signal.SIGINT)


def fitted(start: Any, folder: pathlib.Path, config: Training = CONFIG, **options: Any) -> list[np.ndarray]:
    """The state of a model and its optimizer after training from `start`."""
    model, optimizer = nnx.merge(start[0], jax.tree.map(jnp.copy, start[1]))
    with checkpoint.manager(folder, every=config.save) as checkpoints:
        train.fit(
            model, optimizer, DATA, config, preprocess=preprocess, checkpoints=checkpoints, title="small", **options
        )
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(nnx.state((model, optimizer)))]


def plain(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


# --- batches ----------------------------------------------------------------------------------------------------


def batches(seed: int, first: int = 0, share: Share | None = None, data: images.Images = DATA, **config: Any) -> list:
    with train.batches_from(data, dataclasses.replace(CONFIG, **config), seed, first, share=share) as found:
        return list(found)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    """Not on where the run began, nor on the number of processes that share it."""
    whole, other = batches(3), batches(4)
    assert len(whole) == CONFIG.steps(24) == 6
    assert whole[0][0].shape == (8, 8, 8, 3) and whole[0][0].dtype == np.uint8
    assert not np.array_equal(whole[4][0], other[4][0])
    for step, batch in enumerate(batches(3, first=4), start=4):
        assert all(np.array_equal(a, b) for a, b in zip(batch, whole[step], strict=True))
    for batch, *parts in zip(whole, *(batches(3, share=Share(i, 4)) for i in range(4)), strict=True):
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        assert all(np.array_equal(a, b) for a, b in zip(batch, joined, strict=True))
    with pytest.raises(InputError, match="A batch of 8 cannot be divided by 3 processes: take a multiple"):
        batches(3, share=Share(0, 3))


def test_an_epoch_shows_every_image_once() -> None:
    data = images.Images(
        np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(3, -1), np.zeros(10, np.int32), ("a",)
    )
    seen = np.concatenate([batch.ravel()[::3] for batch, _ in batches(0, data=data, batch=4, resolution=1)])
    assert len(seen) == 20
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(seen[10:])


def test_augmentation_crops_and_mirrors() -> None:
    picture, rng = np.arange(16, dtype=np.uint8).reshape(4, 4, 1), np.random.default_rng(0)
    found = {train.augmented((picture, 7), rng, size=3)[0].tobytes() for _ in range(200)}
    crops = [picture[y : y + 3, x : x + 3] for y in (0, 1) for x in (0, 1)]
    assert found == {crop.tobytes() for c in crops for crop in (c, c[:, ::-1])}
    np.testing.assert_array_equal(train.middle(picture[None], 2)[0, ..., 0], [[5, 6], [9, 10]])


def test_the_schedule_warms_up_and_falls_by_a_cosine() -> None:
    rate = train.schedule(Training(rate=1.0, warmup=0.1), 100)
    assert [round(np.asarray(rate(step)).item(), 3) for step in (0, 5, 10, 55, 100)] == [0.0, 0.5, 1.0, 0.505, 0.01]


# --- resume and interruption --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [float_start, int8_start])
def test_a_run_cut_off_and_resumed_is_the_whole_run_bit_for_bit(start: Any, tmp_path: pathlib.Path) -> None:
    begin, config = start(), dataclasses.replace(CONFIG, look=0)
    whole = fitted(begin, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt, match="small was stopped after step 2; its checkpoint is saved"):
        fitted(begin, tmp_path / "cut", config, writer=Kept(interrupt_at=2))
    assert max(int(p.name) for p in (tmp_path / "cut").iterdir() if p.name.isdigit()) == 2
    rest = Kept()
    resumed = fitted(begin, tmp_path / "cut", config, writer=rest)
    assert [step for name, _, step in rest.numbers if name == "small/loss"] == [3, 4, 5]
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_second_ctrl_c_does_not_wait() -> None:
    with stepping.interruptible() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stepping.interruptible() as stopped:
            seen.append((signal.getsignal(signal.SIGINT) is before, stopped()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


# --- what is written ----------------------------------------------------------------------------------------------


def test_what_a_writer_gets(tmp_path: pathlib.Path) -> None:
    kept = Kept()
    fitted(int8_start(), tmp_path, dataclasses.replace(CONFIG, epochs=1.0, look=2), writer=kept)
    steps = {name: [step for n, _, step in kept.numbers if n == name] for name, _, _ in kept.numbers}
    every = ["small/loss", "small/accuracy", "small/images_per_second", "small/waiting"]
    assert steps == {
        **dict.fromkeys(every, [0, 1, 2]),
        **dict.fromkeys(["small/clipped", "small/dead_channels"], [0, 2]),
    }
    assert all(np.isfinite(value) for _, value, _ in kept.numbers)


def test_writers(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    class Summary:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

    class Run:
        def log(self, numbers: dict[str, float], step: int) -> None:
            seen.append((*numbers.items(), step))

    seen: list[Any] = []
    train.TensorBoard(Summary()).scalar("a/loss", 0.5, 3)
    train.WeightsAndBiases(Run()).scalar("a/loss", 0.5, 3)
    assert seen == [("a/loss", 0.5, 3), (("a/loss", 0.5), 3)]
    with caplog.at_level("INFO"):
        train.Logged(logging.getLogger("training")).scalar("a/loss", 0.5, 3)
    assert caplog.messages == ["step 3: a/loss 0.5"]
    lines = train.JsonLines(tmp_path / "log.jsonl")
    lines.scalar("a/loss", 0.5, 3)
    lines.scalar("a/loss", 0.25, 4)
    read = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert read == [{"step": 3, "name": "a/loss", "value": 0.5}, {"step": 4, "name": "a/loss", "value": 0.25}]


# --- devices ------------------------------------------------------------------------------------------------------


def devices(kind: str) -> dict[str, Any]:
    """What tests/devices.py finds on one device and on eight."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests" / "devices.py"), kind]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == [1, 8]
    return found


@pytest.mark.parametrize(
    ("kind", "bitwise", "tolerance"),
    [
        ("images", {"logits", "calibrated", "observed"}, 1e-5),
        # A deviation is 1 - cos: a last bit of the cosine is 1.2e-4 of the least number that devices.py divides by.
        pytest.param("gradients", {"logits", "calibrated"}, 2e-4, marks=pytest.mark.slow),
        pytest.param("sentences", {"logits", "calibrated"}, 1e-5, marks=pytest.mark.slow),
    ],
    ids=["images", "gradients", "sentences"],
)
def test_eight_devices_train_as_one_does(kind: str, bitwise: set[str], tolerance: float) -> None:
    """Bitwise: calibrated ranges, logits, and the ranges after a step that observes: integers and extremes are exact.

    To 1e-5: losses, weights and ranges after three steps (one, of sentences), for the sums over a batch are taken in
    another order. States of gradients' schemes are found in the whole batch too.
    """
    found = devices(kind)
    assert {name: found["differing"][name] for name in bitwise} == dict.fromkeys(bitwise, 0)
    assert found["largest"]["loss"] < 1e-5 and found["largest"]["state"] < tolerance
    assert found["refused"] == "A batch of 12 cannot be divided by 8 devices: take a multiple of 8."


@pytest.mark.slow
def test_parameters_and_ranges_divided_over_eight_devices_train_as_on_one() -> None:
    """To 1e-5, ranges too: a device computes some channels of a convolution of floats, whose sums it orders otherwise
    than those of all channels.
    """
    found = devices("sharded")
    assert max(found["largest"].values()) < 1e-5 and found["largest"].keys() >= {"calibrated", "observed", "state"}
    assert found["held"][0] == 1.0 and found["held"][1] < 0.25  # 1/8, and what has no axis of a multiple of 8


# --- image folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.full((20, 30, 3), 100 * label + 10 * i, np.uint8)
                Image.fromarray(picture).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_of_images(folder: pathlib.Path) -> None:
    training, test = images.read_splits(folder, 16, None, 2, seed=0)
    assert training.images.shape == (6, 16, 16, 3) and training.images.dtype == np.uint8
    assert training.classes == ("cat", "dog") and training.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert training.images[:, 8, 8, 0].tolist() == [0, 10, 20, 100, 110, 120]
    assert test.labels.tolist() == [0, 1]


def test_fewer_images_are_drawn_by_seed_from_every_class(folder: pathlib.Path) -> None:
    drawn = {tuple(images.read_folder(folder, "train", 4, limit=2, seed=s).images[:, 0, 0, 0]) for s in range(8)}
    assert len(drawn) > 1 and all(first < 100 <= second for first, second in drawn)


def test_the_middle_square_of_a_picture(tmp_path: pathlib.Path) -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "wide.png")
    assert (images.read_folder(tmp_path, "train", 8).images == 200).all()


def test_what_is_wrong_with_a_folder(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def said(root: pathlib.Path) -> str:
        with pytest.raises(InputError) as error:
            images.read_splits(root, 8, None, None, 0)
        return str(error.value)

    assert said(tmp_path / "none").startswith(f"There is no folder {tmp_path}/none/train. The images belong in ")
    (folder / "test").rename(folder / "tests")
    assert f"There is no folder {folder}/test. {folder} holds tests, train. Did you mean 'tests'?" in said(folder)
    (folder / "tests").rename(folder / "test")
    (folder / "train" / "cat" / "0.png").write_bytes(b"no picture")
    assert said(folder).startswith(f"{folder}/train/cat/0.png cannot be read as a photo: ")
    for file in (folder / "train" / "cat").iterdir():
        file.unlink()
    assert said(folder).startswith(f"{folder}/train/cat holds no image (.bmp, .jpeg, .jpg, .png, .webp).")
    (folder / "train" / "cat").rmdir()
    assert said(folder) == f"{folder}: the class cat is in one of train/ and test/ only; both must have every class."
    for file in (folder / "test" / "cat").iterdir():
        file.unlink()
    (folder / "test" / "cat").rmdir()
    assert said(folder).startswith(f"{folder} has one class, dog; there must be two or more. Add a folder of another")
    for split in ("train", "test"):
        (folder / split).rename(folder / f"old {split}")
        (folder / split).mkdir()
    assert said(folder).startswith(f"{folder}/train holds no folder: the images belong in {folder}/train/CLASS/, by")
