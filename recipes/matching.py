"""Which array of a weight file goes where in a model, by name and shape, in the layouts of PyTorch and Keras.

Names are compared after the user's rules, with `/` for `.`, and with Flax's words for the last part (`weight` is a
kernel, scale or embedding; `gamma` is scale; `running_mean` is mean). A name fits exactly, or as the end of the other
(`model.conv.weight` fits `conv/kernel`) where only one does. What is called `weight` has PyTorch's order of axes, any
other name Flax's and Keras's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxq.display.text import aligned, did_you_mean
from jaxq.errors import WeightsError
from jaxq.recipes.weight_files import flat

# The last part of a name in PyTorch and Keras, and in Flax.
LEAVES: dict[str, tuple[str, ...]] = {
    "beta": ("bias",),
    "depthwise_kernel": ("kernel",),
    "embeddings": ("embedding",),
    "gamma": ("scale",),
    "moving_mean": ("mean",),
    "moving_variance": ("var",),
    "running_mean": ("mean",),
    "running_var": ("var",),
    "weight": ("kernel", "scale", "embedding"),
}
# PyTorch's order of axes to Flax's: OIHW to HWIO, OIW to WIO, [out, in] to [in, out].
TORCH_AXES = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}
IGNORED = ("num_batches_tracked",)
SHOWN = 8  # names in a message


@dataclasses.dataclass(frozen=True)
class Row:
    """One array that found its place. layout: what was done to its axes, in words."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    layout: str


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """What went where. rows: by our names. missing: ours that no array fits, with their shapes. unused: theirs that fit
    nowhere. arrays: by our names, in our shapes and dtypes.
    """

    rows: tuple[Row, ...]
    missing: Mapping[str, tuple[int, ...]]
    unused: Mapping[str, tuple[int, ...]]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        """A table of what went where, then what did not."""
        cells = [(r.ours, r.theirs, _shape(r.shape), r.layout) for r in self.rows]
        lines = [aligned(("here", "in the file", "shape", "axes"), cells)] if cells else []
        lines += [f"missing: {name} {_shape(shape)}" for name, shape in self.missing.items()]
        lines += [f"unused: {name} {_shape(shape)}" for name, shape in self.unused.items()]
        ours = len(self.rows) + len(self.missing)
        return "\n".join([*lines, f"{len(self.rows)} of {ours} arrays found, {len(self.unused)} of the file unused"])

    def assign(self, model: Any, *, partial: bool = False) -> Any:
        """Give a model its arrays.

        Args:
          model: what was matched. An NNX module is changed in place; of a mapping a new one is returned.
          partial: leave what is missing as it is.

        Returns: the model.
        Raises: WeightsError where arrays are missing and `partial` is not given.
        """
        if self.missing and not partial:
            names = ", ".join([*self.missing][:SHOWN]) + (", ..." if len(self.missing) > SHOWN else "")
            raise WeightsError(
                f"{len(self.missing)} arrays of the model are not in the file: {names}. Give rules for their names "
                "(print the match), or partial=True to keep the model's own."
            )
        if not isinstance(model, nnx.Module):
            return _filled(model, self.arrays)
        state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        given = [(p, v.replace(jnp.asarray(self.arrays[_path(p)]))) for p, v in state if _path(p) in self.arrays]
        nnx.update(model, nnx.from_flat_state(given))
        return model


def match(model: Any, arrays: Mapping[str, np.ndarray], rules: Sequence[tuple[str, str]] = ()) -> Match:
    """Find the place of every array.

    Args:
      model: an NNX module, or a mapping of arrays (Linen's variables, a function's params).
      arrays: what `read` gave.
      rules: (pattern, replacement) for `re.sub` on the file's names, in order, before they are compared; the result may
        be written with `.` or `/`: `(r"^features\\.(\\d+)\\.conv", r"blocks.\\1.conv")`.

    Returns: the match; print it, then `assign` it.
    Raises: WeightsError for a rule that changes no name, and for two arrays that fit one place equally well.
    """
    wanted = places(model)
    named = _renamed(arrays, rules)
    rows: list[Row] = []
    found: dict[str, np.ndarray] = {}
    for ours, (shape, dtype) in wanted.items():
        theirs = _named(ours, named, wanted)
        if theirs is None:
            continue
        fitted = fit(arrays[theirs], ours, shape, torch=named[theirs].rsplit("/", 1)[-1] == "weight")
        if fitted is not None:
            rows.append(Row(ours, theirs, shape, fitted[1]))
            found[ours] = np.asarray(fitted[0]).astype(dtype)
    used = {row.theirs for row in rows}
    missing = {name: shape for name, (shape, _) in wanted.items() if name not in found}
    unused = {n: a.shape for n, a in arrays.items() if n not in used and not n.endswith(IGNORED)}
    return Match(tuple(rows), missing, unused, found)


def places(model: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape and dtype of every array of a model by path; `params/` and `batch_stats/` are kept for mappings."""
    if isinstance(model, nnx.Module):
        state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        return {_path(path): (tuple(v.shape), v.dtype) for path, v in state}
    return {path: (array.shape, array.dtype) for path, array in flat(model).items()}


def fit(array: np.ndarray, ours: str, shape: tuple[int, ...], *, torch: bool) -> tuple[np.ndarray, str] | None:
    """The array in the shape that it has here and what was done to its axes; None where it does not fit.

    A kernel of PyTorch is transposed also where its shape would fit as it is. A depthwise kernel of Keras [h, w, in,
    multiplier] becomes Flax's [h, w, 1, in * multiplier]. Heads of attention are axes of their own here.
    """
    array, how = np.asarray(array), ""
    if torch and ours.endswith("kernel") and array.ndim in TORCH_AXES:
        array, how = array.transpose(TORCH_AXES[array.ndim]), f"transposed {TORCH_AXES[array.ndim]}"
    if array.shape == shape:
        return array, how or "as it is"
    depthwise = not torch and len(shape) == array.ndim == 4 and shape[2] == 1
    heads = array.ndim != len(shape) and _joins(array.shape, shape)
    if array.size == int(np.prod(shape)) and ((depthwise and array.shape[:2] == shape[:2]) or heads):
        return array.reshape(shape), f"{f'{how}, ' if how else ''}reshaped from {_shape(array.shape)}"
    return None


def _joins(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the shorter shape is the longer one with neighbouring axes joined."""
    short, long = sorted((a, b), key=len)
    left = list(long)
    for size in short:
        product = 1
        while product < size and left:
            product *= left.pop(0)
        if product != size:
            return False
    return all(size == 1 for size in left) and len(short) > 0


def _named(ours: str, named: Mapping[str, str], wanted: Mapping[str, Any]) -> str | None:
    """The array whose name fits: exactly, else as the end of the other, where one alone does."""
    exact = [theirs for theirs, name in named.items() if ours in _spellings(name)]
    if not exact:
        taken = {theirs for theirs, name in named.items() if any(s in wanted for s in _spellings(name))}
        ends = [t for t, name in named.items() if t not in taken and any(_ends(ours, s) for s in _spellings(name))]
        exact = ends
    if len(exact) > 1:
        raise WeightsError(
            f"{ours} fits {len(exact)} arrays of the file: {', '.join(exact[:SHOWN])}. Give a rule that tells them "
            "apart."
        )
    return exact[0] if exact else None


def _ends(a: str, b: str) -> bool:
    return a.endswith(f"/{b}") or b.endswith(f"/{a}")


def _spellings(name: str) -> list[str]:
    """A name with each of Flax's words for its last part."""
    head, _, leaf = name.rpartition("/")
    return [f"{head}/{word}" if head else word for word in LEAVES.get(leaf, (leaf,))]


def _renamed(arrays: Mapping[str, np.ndarray], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The file's names after the rules, with `/`."""
    named = {name: name for name in arrays if not name.endswith(IGNORED)}
    for pattern, replacement in rules:
        changed = {name: re.sub(pattern, replacement, new) for name, new in named.items()}
        if changed == named:
            raise WeightsError(
                f"The rule {pattern!r} changes no name of the file. {did_you_mean(pattern, named.values())}"
            )
        named = changed
    return {name: new.replace(".", "/") for name, new in named.items()}


def _filled(tree: Any, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Any:
    if isinstance(tree, Mapping):
        return {k: _filled(v, arrays, f"{prefix}/{k}" if prefix else str(k)) for k, v in tree.items()}
    return jnp.asarray(arrays[prefix]) if prefix in arrays else tree


def _path(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
