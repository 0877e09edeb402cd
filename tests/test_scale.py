"""More than one process, image files decoded as steps need them, and compiled programs kept between runs.

Of two processes (tests/two_processes.py) everything is bit for bit what one process of two devices computes. What one
device computes has the same ranges and integers bit for bit, and losses equal to 1e-6: its sums over a batch are not
sums of two halves.
"""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from PIL import Image
from typer.testing import CliRunner

from jaxq.cli import train as command
from jaxq.cli.app import app
from jaxq.cli.shipped import recipe_names
from jaxq.errors import InputError
from jaxq.recipes import compilation_cache, identity, images, stepping, train
from jaxq.recipes.images import Squares
from jaxq.recipes.input_pipeline import Batches
from jaxq.recipes.processes import Share

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHILD = ROOT / "tests" / "two_processes.py"

# --- two processes ------------------------------------------------------------------------------------------------


def started(folder: pathlib.Path, *arguments: object, devices: int = 1) -> subprocess.Popen[str]:
    """A process that runs tests/two_processes.py."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, str(CHILD), str(folder), *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, **flags}, stderr=subprocess.PIPE, text=True)


def ended(*processes: subprocess.Popen[str]) -> list[int]:
    """Their exit codes, when all have ended."""
    try:
        told = [process.communicate(timeout=900)[1] for process in processes]
        print(*(text[-2000:] for text in told))  # shown where the test fails
        return [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()


def pair(folder: pathlib.Path, *last: object) -> list[int]:
    """Two processes that train together; `last` are arguments of the second one alone."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ended(started(folder, 2, 0, port), started(folder, 2, 1, port, *last))


def alone(folder: pathlib.Path, devices: int) -> dict[str, np.ndarray]:
    """What one process finds."""
    folder.mkdir()
    assert ended(started(folder, 1, devices=devices)) == [0]
    return found(folder)


def found(folder: pathlib.Path, index: int = 0) -> dict[str, np.ndarray]:
    with np.load(folder / f"found.{index}.npz") as arrays:
        return dict(arrays)


def differing(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], *but: str) -> list[str]:
    assert one.keys() == other.keys() and one
    return [name for name in one if name not in but and not np.array_equal(one[name], other[name])]


@pytest.mark.slow
def test_two_processes_train_as_one_and_survive_the_death_of_one(tmp_path: pathlib.Path) -> None:
    """Ranges, losses, checkpoints and the file; then once more, the second process killed at its fourth step."""
    assert pair(tmp_path / "two") == [0, 0]
    two = found(tmp_path / "two")
    assert differing(two, found(tmp_path / "two", 1), "losses") == []  # the first one writes
    assert differing(two, alone(tmp_path / "devices", 2)) == []
    one = alone(tmp_path / "one", 1)
    exact = [name for name in one if name.startswith("calibrated") or name == "logits"]
    assert len(exact) > 8 and not set(exact).intersection(differing(two, one))
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-6)
    assert two["losses"].shape == (6,)

    codes = pair(tmp_path / "cut", "--die", 4)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert not (tmp_path / "cut" / "found.0.npz").exists()
    assert pair(tmp_path / "cut") == [0, 0]
    assert differing(two, found(tmp_path / "cut"), "losses") == []
    rest = found(tmp_path / "cut")["losses"]
    assert 0 < len(rest) < 6 and np.array_equal(rest, two["losses"][-len(rest) :])


def test_a_share_of_a_batch() -> None:
    rows = np.arange(12).reshape(6, 2)
    assert np.array_equal(np.concatenate([Share(i, 3).of(rows) for i in range(3)]), rows)
    assert Share().of(rows) is not rows and np.array_equal(Share().of(rows), rows)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), PartitionSpec()),
        ((3,), PartitionSpec()),
        ((8,), PartitionSpec("data")),
        ((3, 3, 16, 24), PartitionSpec(None, None, None, "data")),
        ((48, 24), PartitionSpec("data")),
        ((0, 5), PartitionSpec()),
    ],
)
def test_an_array_is_divided_along_its_longest_axis(shape: tuple[int, ...], spec: PartitionSpec) -> None:
    assert stepping.divided(8, shape) == spec


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--processes", "2"), "--coordinator HOST:PORT, --processes N and --process I belong together"),
        (("--coordinator", "a:1", "--processes", "2", "--process", "2"), "are numbered from 0 to 1"),
        (("--coordinator", "a:1", "--processes", "2", "--process", "1"), "the recipe mnist trains in one process"),
        (("--workers", "2"), "--workers: the recipe mnist has no files to decode"),
    ],
)
def test_what_is_said_of_options_that_do_not_fit(given: tuple[str, ...], said: str, tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(app, ["train", "mnist", "--smoke", "--out", str(tmp_path / "x"), *given])
    assert done.exit_code == 2 and said in done.output


def test_recipes_of_many_processes_are_recipes() -> None:
    assert set(recipe_names("run")) >= command.MANY_PROCESSES


# --- image files that are decoded as steps need them --------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (root / split / name).mkdir(parents=True)
        for i in range(4):
            picture = rng.integers(0, 256, (12, 14, 3)).astype(np.uint8)
            Image.fromarray(picture).save(root / split / name / f"{i}.png")
    return root


def test_files_give_the_batches_of_images_in_memory(folder: pathlib.Path) -> None:
    """Read by threads, and by the thread that asks."""
    files, _ = images.read_splits(folder, 10, None, None, 0, held=False)
    assert isinstance(files.images, Squares) and files.images.shape == (8, 10, 10, 3)
    config, held = train.Training(epochs=2.0, batch=4, resolution=8), images.held(files)
    assert isinstance(held.images, np.ndarray) and held.images.shape == files.images.shape
    assert np.array_equal(files.images[np.array([5, 2])], held.images[[5, 2]])
    with train.batches_from(files, config, 0) as lazily, train.batches_from(held, config, 0) as at_once:
        for a, b in zip(lazily, at_once, strict=True):
            assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
        assert lazily.waited > 0


@pytest.mark.slow
def test_worker_processes_give_the_batches_of_threads(folder: pathlib.Path) -> None:
    files, _ = images.read_splits(folder, 10, None, None, 0, held=False)
    config = train.Training(epochs=3.0, batch=4, resolution=8)
    with train.batches_from(files, config, 0, 1, workers=2) as workers, train.batches_from(files, config, 0, 1) as here:
        for a, b in zip(workers, here, strict=True):
            assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_more_images_than_memory_holds_stay_files(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = images.read_splits(folder, 10, None, None, 0, held=False)
    monkeypatch.setattr(images, "HELD", 8 * 10 * 10 * 3 - 1)
    assert images.held(files) is files


def test_a_fingerprint_reads_the_bytes_of_files(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    first = identity.fingerprint(Squares((tmp_path / "a.png",), 8))
    (tmp_path / "a.png").write_bytes(b"2")
    assert identity.fingerprint(Squares((tmp_path / "a.png",), 8)) != first


def test_an_error_of_a_thread_reaches_the_loop(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with (
        Batches(Squares((tmp_path / "a.png",), 8), batch=1, steps=1, seed=0) as batches,
        pytest.raises(InputError, match="Delete or replace it"),
    ):
        next(batches)


# --- compiled programs --------------------------------------------------------------------------------------------


def test_programs_are_kept_in_the_cache_of_jaxq(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path))
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")}
    try:
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", None)
        with compilation_cache.kept() as folder:
            assert folder == tmp_path / "xla" and jax.config.values["jax_compilation_cache_dir"] == str(folder)
        assert jax.config.values["jax_compilation_cache_dir"] is None
        with compilation_cache.kept(wanted=False) as folder:
            assert folder is None and jax.config.values["jax_compilation_cache_dir"] is None
        jax.config.update("jax_compilation_cache_dir", "/elsewhere")  # as JAX_COMPILATION_CACHE_DIR sets it
        with compilation_cache.kept() as folder:
            assert folder is None and jax.config.values["jax_compilation_cache_dir"] == "/elsewhere"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
