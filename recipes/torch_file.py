"""The tensors of a PyTorch checkpoint (.pth), read without PyTorch.

A .pth file is a pickle: a program, and running one from a stranger runs his code. This reader runs nothing. It knows
the few instructions that a dict of tensors is written with, and the three names that they may refer to; anything else
is an error.
Layout since version 1.6: a zip archive with the pickle of the dict, `NAME/data.pkl`, and the numbers of each storage,
`NAME/data/KEY`. Layout before: pickles of a magic number, of the protocol's version, of facts about the machine, of
the dict, and of the keys of the storages in order; then each storage, as its length (int64) and its numbers.
"""

from __future__ import annotations

import io
import math
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxq.errors import WeightsError

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch BoolStorage": np.dtype("?"),
    "torch ByteStorage": np.dtype("u1"),
    "torch CharStorage": np.dtype("i1"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch IntStorage": np.dtype("<i4"),
    "torch LongStorage": np.dtype("<i8"),
    "torch ShortStorage": np.dtype("<i2"),
}
ORDERED_DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
NAMES = {*STORAGES, ORDERED_DICT, PARAMETER, TENSOR}
MARK = object()


class Storage(NamedTuple):
    """A block of numbers whose bytes come later."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A part of a storage without gaps, counted in numbers. order: the axes from the slowest to the fastest."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    order: tuple[int, ...]


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, float32 or int64. Raises WeightsError for any other bytes."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in an old kind of text, which is refused
            return _read(stream)
    except WeightsError as e:
        raise WeightsError(f"Not a PyTorch checkpoint of tensors, at byte {stream.tell():,}: {e}") from e
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as e:
        message = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise WeightsError(f"Not a PyTorch checkpoint of tensors, at byte {stream.tell():,}: {message}.") from e


def _read(stream: io.BytesIO) -> dict[str, np.ndarray]:
    if (found := (_value(stream), _value(stream))) != (MAGIC, VERSION):
        raise WeightsError(f"it begins with {_shown(found[0])} and {_shown(found[1])}, not with {MAGIC} and {VERSION}.")
    _value(stream)  # of the machine: byte order and sizes of integers, which the stream itself fixes
    tensors, keys = _value(stream), _value(stream)
    if not isinstance(tensors, dict) or not isinstance(keys, list):
        raise WeightsError("it holds no dict and no list of keys.")
    tensors = _flat(tensors)
    sizes = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if set(map(_text, keys)) != sizes.keys():
        raise WeightsError(f"its tensors have {len(sizes):,} storages; {len(keys):,} others follow.")
    storages = {key: _numbers(stream, sizes[key]) for key in keys}
    return {name: _part(name, tensor, storages) for name, tensor in tensors.items()}


def read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint written since PyTorch 1.6. Raises WeightsError for any other archive."""
    place = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
    order = f"{place}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise WeightsError(f"its byte order is {archive.read(order)[:20]!r}; only 'little' is supported.")
    stream = io.BytesIO(archive.read(f"{place}data.pkl"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            tensors = _value(stream)
        if not isinstance(tensors, dict):
            raise WeightsError("it holds no dict.")
        named = _flat(tensors)
        sizes = {tensor.storage.key: tensor.storage for tensor in named.values()}
        storages = {key: _stored(archive, f"{place}data/{key}", storage) for key, storage in sizes.items()}
        return {name: _part(name, tensor, storages) for name, tensor in named.items()}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as e:
        message = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise WeightsError(f"Not a PyTorch checkpoint of tensors: {message}.") from e


def _stored(archive: zipfile.ZipFile, name: str, storage: Storage) -> np.ndarray:
    size = storage.size * storage.dtype.itemsize
    if archive.getinfo(name).file_size != size:
        raise WeightsError(f"storage {storage.key} has {archive.getinfo(name).file_size:,} bytes; {size:,} are named.")
    return np.frombuffer(archive.read(name), storage.dtype)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a dict and of the dicts in it (`state_dict.conv.weight`); numbers and texts beside them are left
    out."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, int | float | str | list | tuple | None):
            raise WeightsError(f"{_shown(name)} is {_shown(value)}, no tensor.")
    if not found and not prefix:
        raise WeightsError("it holds no tensor.")
    return found


def _numbers(stream: io.BytesIO, storage: Storage) -> np.ndarray:
    size = int.from_bytes(stream.read(8), "little")
    if size != storage.size:
        raise WeightsError(f"storage {storage.key} holds {size:,} numbers; the tensors say {storage.size:,}.")
    data = stream.read(size * storage.dtype.itemsize)
    if len(data) < size * storage.dtype.itemsize:
        raise WeightsError(
            f"storage {storage.key} ends after {len(data):,} of {size * storage.dtype.itemsize:,} bytes."
        )
    return np.frombuffer(data, storage.dtype)


def _part(name: str, tensor: Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    numbers, end = storages[tensor.storage.key], tensor.offset + math.prod(tensor.shape)
    if not 0 <= tensor.offset <= end <= len(numbers):
        raise WeightsError(f"{name} reads the numbers {tensor.offset:,} to {end:,} of {len(numbers):,}.")
    stored = numbers[tensor.offset : end].reshape([tensor.shape[axis] for axis in tensor.order])
    return stored.transpose(np.argsort(tensor.order)) if tensor.order else stored


def _text(value: Any) -> str:
    """A key. Anything else might be nested so often that hashing or printing it never ends."""
    if not isinstance(value, str):
        raise WeightsError(f"{_shown(value)} stands where a name should.")
    return value


def _key(value: Any) -> str:
    """A key of a dict; optimizers number their states."""
    return str(value) if type(value) is int else _text(value)


def _shown(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int) else f"a {type(value).__name__}"


# --- a pickle's instructions --------------------------------------------------------------------------------------


def _value(stream: io.BytesIO) -> Any:
    """The value of the pickle that begins here. The instructions are those of Python's `pickletools`."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "STOP":
            break
        if code.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code.name in CONSTANTS:
            stack.append(CONSTANTS[code.name](argument))
        elif code.name in ACTIONS:
            ACTIONS[code.name](stack)
        elif code.name != "PROTO":
            raise WeightsError(f"the instruction {code.name} builds more than tensors.")
    return stack.pop()


def _name(argument: str) -> str:
    if argument not in NAMES:
        raise WeightsError(f"the name {argument[:80]!r} is not allowed; these are: {', '.join(sorted(NAMES))}.")
    return argument


CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "BINFLOAT": float, "BININT": int, "BININT1": int, "BININT2": int, "LONG1": int, "BINUNICODE": str,
    "NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {}, "EMPTY_LIST": lambda _: [], "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: MARK, "GLOBAL": _name,
}  # fmt: skip


def _marked(stack: list[Any]) -> list[Any]:
    """What stands above the last mark, taken off with it."""
    place = max(i for i, value in enumerate(stack) if value is MARK)
    values = stack[place + 1 :]
    del stack[place:]
    return values


def _tuple(stack: list[Any], size: int) -> None:
    stack[-size:] = [tuple(stack[-size:])]


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict):
        raise WeightsError("items are set in what is no dict.")
    stack[-1].update(zip(map(_key, items[::2]), items[1::2], strict=True))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _set_items(stack, [key, value])


def _append(stack: list[Any]) -> None:
    items = _marked(stack)
    if not isinstance(stack[-1], list):
        raise WeightsError("items are appended to what is no list.")
    stack[-1].extend(items)


def _append_one(stack: list[Any]) -> None:
    value = stack.pop()
    if not isinstance(stack[-1], list):
        raise WeightsError("an item is appended to what is no list.")
    stack[-1].append(value)


def _storage(stack: list[Any]) -> None:
    kind, name, key, _, size, *_ = stack.pop()
    if kind != "storage" or type(size) is not int or size < 0:
        raise WeightsError(f"{_shown(kind)} of {_shown(size)} numbers is no storage.")
    stack.append(Storage(_text(key), STORAGES[_text(name)], size))


def _call(stack: list[Any]) -> None:
    """An empty dict or a tensor: the two calls that a dict of tensors is written with."""
    arguments, name = stack.pop(), stack.pop()
    if name == ORDERED_DICT and arguments == ():
        stack.append({})
        return
    if name == PARAMETER and isinstance(arguments[0], Tensor):
        stack.append(arguments[0])
        return
    if name != TENSOR:
        raise WeightsError(f"a call of {_shown(name)}.")
    storage, offset, shape, strides, _, _ = arguments
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise WeightsError("a tensor of no storage, or of a negative size.")
    order = tuple(sorted(range(len(shape)), key=lambda axis: (shape[axis] > 1, -strides[axis])))
    dense = [math.prod(shape[inner] for inner in order[place + 1 :]) for place in range(len(order))]
    if any(shape[axis] > 1 and strides[axis] != stride for axis, stride in zip(order, dense, strict=True)):
        raise WeightsError(f"a tensor of shape {shape} with strides {strides}, which has gaps or overlaps.")
    stack.append(Tensor(storage, offset, shape, order))


def _drop(stack: list[Any]) -> None:
    stack.pop()


ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": lambda stack: stack.append(tuple(_marked(stack))),
    "TUPLE1": lambda stack: _tuple(stack, 1),
    "TUPLE2": lambda stack: _tuple(stack, 2),
    "TUPLE3": lambda stack: _tuple(stack, 3),
    "SETITEM": _set_item,
    "SETITEMS": lambda stack: _set_items(stack, _marked(stack)),
    "APPEND": _append_one,
    "APPENDS": _append,
    "BINPERSID": _storage,
    "REDUCE": _call,
    "BUILD": _drop,  # attributes of the dict: versions of the modules
}
