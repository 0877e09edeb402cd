"""The numbers that calibration finds, against oracles that jaxq did not compute; each check kills mutants.

CHECKS hold an observer to its oracle. MUTANTS are observers with one fault; the check of their method fails on each.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import RecipeError
from jaxq.observers import METHODS, WEIGHT_METHODS, Batch, Observer, Wanted, entropy, mse, octav
from jaxq.plan import recipe
from jaxq.plan.scheme import Grid

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "observers.json").read_text())
RNG = np.random.default_rng(5)
BATCHES, SIZE = 4, 2000
NUMBERS: dict[str, np.ndarray] = {
    "normal": RNG.normal(0.3, 1.0, (BATCHES, SIZE)),
    "outliers": RNG.normal(0.0, 1.0, (BATCHES, SIZE)) * np.where(RNG.random((BATCHES, SIZE)) < 1e-3, 20.0, 1.0),
    "skewed": RNG.gamma(2.0, 1.0, (BATCHES, SIZE)) - 0.5,
    "relu": np.maximum(RNG.normal(0.0, 1.0, (BATCHES, SIZE)), 0.0),
}
GRIDS: dict[str, Grid] = {
    "int8": Grid(-128, 127),
    "int8 symmetric": Grid(-128, 127, symmetric=True),
    "int8 nonnegative": Grid(-128, 127, nonnegative=True),
    "int4": Grid(-8, 7),
    "int4 symmetric": Grid(-8, 7, symmetric=True),
    "int4 nonnegative": Grid(-8, 7, nonnegative=True),
    "int16": Grid(-32768, 32767, symmetric=True),
}


def found(observer: Observer, numbers: np.ndarray, grid: Grid, percentile: float = 99.9) -> tuple[float, float]:
    """The range of numbers that come batch by batch."""
    state = observer.start()
    for row in numbers:
        values = [row.astype(np.float32)] if observer.reads_values else []
        state = observer.update(state, Batch(np.array([row.min(), row.max()], np.float32), values))
    return observer.finish(state, Wanted(grid, percentile))


def squared_error(x: np.ndarray, low: float, high: float, grid: Grid) -> float:
    """Of numbers as TFLite would round them, the range [low, high] made to hold zero and nudged."""
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        scale, zero = max(-low, high) / grid.qmax, 0.0
    else:
        scale = (high - low) / (grid.qmax - grid.qmin)
        zero = grid.qmin if grid.nonnegative else np.clip(np.round(grid.qmin - low / scale), grid.qmin, grid.qmax)
    q = np.clip(np.round(x / scale) + zero, grid.qmin, grid.qmax)
    return float(np.mean(((q - zero) * scale - x) ** 2))


# --- checks: an observer against its oracle --------------------------------------------------------------------------


def check_minmax(observer: Observer) -> None:
    for x in NUMBERS.values():
        assert found(observer, x, GRIDS["int8"]) == (np.float32(x.min()), np.float32(x.max()))


def check_mean(observer: Observer) -> None:
    for x in NUMBERS.values():
        wanted = x.min(1).mean(), x.max(1).mean()
        np.testing.assert_allclose(found(observer, x, GRIDS["int8"]), wanted, rtol=1e-6)


def check_percentile(observer: Observer) -> None:
    """numpy.percentile, to within one bin of the histogram."""
    for x in NUMBERS.values():
        bin_width = 4 * np.abs(x).max() / 4096  # the bound doubles: a bin is at most this
        for percentile in (90.03, 99.07, 99.91, 100.0):  # no whole number of examples
            tail = (100.0 - percentile) / 2.0
            wanted = np.percentile(x, [tail, 100.0 - tail], method="inverted_cdf")
            np.testing.assert_allclose(found(observer, x, GRIDS["int8"], percentile), wanted, atol=bin_width)


def check_mse(observer: Observer) -> None:
    """The least error over a dense grid of ranges, tried on the numbers themselves."""
    for name, x in NUMBERS.items():
        for kind, grid in GRIDS.items():
            if grid.nonnegative != (name == "relu"):
                continue
            least = min(squared_error(x, low, high, grid) for low, high in ranges(x, grid))
            assert squared_error(x, *found(observer, x, grid), grid) <= 1.02 * least, (name, kind)


def ranges(x: np.ndarray, grid: Grid) -> list[tuple[float, float]]:
    """Many ranges: both ends of an asymmetric grid apart, else one bound."""
    shrinks = np.geomspace(0.02, 1.0, 40 if grid.symmetric or grid.nonnegative else 26)
    if grid.symmetric or grid.nonnegative:
        return [(-s * np.abs(x).max(), s * np.abs(x).max()) for s in shrinks]
    return [(low * x.min(), high * x.max()) for low in shrinks for high in shrinks]


def check_entropy(observer: Observer) -> None:
    """NVIDIA ModelOpt's bound, bin for bin."""
    for case in GOLDEN["entropy"]:
        grid = Grid(-(2 ** (case["bits"] - 1)), 2 ** (case["bits"] - 1) - 1, nonnegative=case["unsigned"])
        counts = np.array(case["counts"])
        centres = np.repeat(np.arange(len(counts)) + 0.5, counts)
        state = observer.update(observer.start(), Batch(np.zeros(2), [np.array([2048.0])]))  # bins of width 1
        blank = dataclasses.replace(state, counts=np.zeros_like(state.counts), low=-1e9, high=1e9)
        state = observer.update(blank, Batch(np.zeros(2), [centres]))
        assert observer.finish(state, Wanted(grid, 0.0))[1] == case["kept"], case["name"]


CHECKS: dict[str, Callable[[Observer], None]] = {
    "entropy": check_entropy,
    "mean": check_mean,
    "minmax": check_minmax,
    "mse": check_mse,
    "percentile": check_percentile,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_finds_what_its_oracle_finds(method: str) -> None:
    CHECKS[method](METHODS[method])


# --- mutants ---------------------------------------------------------------------------------------------------------


def finishing(method: str, finish: Callable[..., tuple[float, float]]) -> Observer:
    """The method with another `finish`, which is given the method's own first."""
    return dataclasses.replace(METHODS[method], finish=functools.partial(finish, METHODS[method].finish))


def one_end(finish: Any, state: Any, wanted: Wanted) -> tuple[float, float]:
    """Only the upper end is searched."""
    return (min(state.low, 0.0), finish(state, wanted)[1])


MUTANTS: dict[str, tuple[str, Observer]] = {
    "entropy keeps one bin less": ("entropy", finishing("entropy", lambda f, s, w: (0.0, f(s, w)[1] - 1.0))),
    "entropy as if nothing were negative": (
        "entropy",
        finishing("entropy", lambda f, s, w: f(s, w._replace(grid=w.grid._replace(nonnegative=True)))),
    ),
    "mean forgets a batch": ("mean", finishing("mean", lambda f, s, w: f(s._replace(batches=s.batches + 1), w))),
    "minmax of the last batch": ("minmax", dataclasses.replace(METHODS["minmax"], update=lambda s, b: b.extremes)),
    "mse clips nothing": ("mse", finishing("mse", lambda f, s, w: (s.low, s.high))),
    "mse clips half of what it keeps": ("mse", finishing("mse", lambda f, s, w: tuple(0.5 * e for e in f(s, w)))),
    "mse searches one end": ("mse", finishing("mse", one_end)),
    "mse for 8 bits whatever is asked": (
        "mse",
        finishing("mse", lambda f, s, w: f(s, w._replace(grid=w.grid._replace(qmin=-128, qmax=127)))),
    ),
    "percentile clips ten times too much": (
        "percentile",
        finishing("percentile", lambda f, s, w: f(s, w._replace(percentile=100.0 - 10.0 * (100.0 - w.percentile)))),
    ),
    "percentile clips it at each end": (
        "percentile",
        finishing("percentile", lambda f, s, w: f(s, w._replace(percentile=2.0 * w.percentile - 100.0))),
    ),
    "percentile clips nothing": (
        "percentile",
        finishing("percentile", lambda f, s, w: f(s, w._replace(percentile=100.0))),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_check_kills_the_mutant(name: str) -> None:
    method, mutant = MUTANTS[name]
    with pytest.raises(AssertionError):
        CHECKS[method](mutant)


# --- weights ---------------------------------------------------------------------------------------------------------

WEIGHTS = {
    "normal": RNG.normal(0.0, 1.0, (3, 3, 200, 5)),
    "heavy": RNG.standard_t(3, (2000, 5)) * np.array([0.01, 0.1, 1.0, 5.0, 80.0]),
}


def check_weight_mse(bound: Callable[[np.ndarray, int], np.ndarray]) -> None:
    for w in WEIGHTS.values():
        w, qmaxes = w.astype(np.float32), (7, 127)
        rows = w.reshape(-1, w.shape[-1])
        for qmax in qmaxes:
            given = bound(w, qmax)
            for channel, magnitude in zip(rows.T, given, strict=True):
                grid = Grid(-qmax, qmax, symmetric=True)
                tried = np.abs(channel).max() * np.linspace(0.05, 1.0, 200)
                least = min(squared_error(channel, -t, t, grid) for t in tried)
                assert squared_error(channel, -magnitude, magnitude, grid) <= 1.05 * least


def check_octav(bound: Callable[[np.ndarray, int], np.ndarray]) -> None:
    for case in GOLDEN["octav"]:
        given = bound(np.array(case["w"], np.float32), 2 ** (case["bits"] - 1) - 1)
        # It counts exact zeros, of which there are a few, among the rounded numbers; the paper and jaxq do not.
        np.testing.assert_allclose(given, case["bound"], rtol=5e-4, err_msg=case["name"])


def test_weights_bounds_are_those_of_their_oracles() -> None:
    check_weight_mse(mse.weight_bound)
    check_octav(octav.weight_bound)
    for w in WEIGHTS.values():
        largest = np.abs(w.reshape(-1, w.shape[-1])).max(0)
        np.testing.assert_array_equal(WEIGHT_METHODS["max"](w, 7), largest)
        assert all(np.all(method(w, 7) <= largest * (1 + 1e-6)) for method in WEIGHT_METHODS.values())


@pytest.mark.parametrize("check", [check_weight_mse, check_octav])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_weights_bounds_a_tenth_off_are_seen(check: Any, factor: float) -> None:
    right = {check_weight_mse: mse, check_octav: octav}[check].weight_bound
    with pytest.raises(AssertionError):
        check(lambda w, qmax: right(w, qmax) * factor)


def test_a_channel_of_zeros_has_no_bound() -> None:
    for name, method in WEIGHT_METHODS.items():
        np.testing.assert_array_equal(method(np.zeros((4, 2), np.float32), 127), [0.0, 0.0], err_msg=name)


# --- memory, recipes -------------------------------------------------------------------------------------------------


def size_of(state: Any) -> int:
    """Bytes of a state's arrays and numbers."""
    parts = vars(state).values() if dataclasses.is_dataclass(state) else state
    return sum(np.asarray(part).nbytes for part in parts)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_does_not_grow(method: str) -> None:
    observer, sizes = METHODS[method], []
    state = observer.start()
    for factor in np.geomspace(1.0, 1e3, 30):
        x = np.float32(factor) * RNG.normal(size=64).astype(np.float32)
        state = observer.update(state, Batch(np.array([x.min(), x.max()]), [x]))
        sizes.append(size_of(state))
    assert len(set(sizes)) == 1


def test_the_recipe_knows_the_tables() -> None:
    assert get_args(recipe.Calibration) == tuple(sorted(METHODS)) == tuple(METHODS)
    assert get_args(recipe.WeightCalibration) == tuple(sorted(WEIGHT_METHODS)) == tuple(WEIGHT_METHODS)
    assert entropy.levels(GRIDS["int8"]) == 128


IMAGES = RNG.normal(size=(8, 6, 6, 3)).astype(np.float32)


def model() -> nnx.Module:
    """A convolution with a ReLU, another, and a dense layer."""
    rngs = nnx.Rngs(0)
    convs = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (1, 1), rngs=rngs)
    return nnx.Sequential(convs[0], nnx.relu, convs[1], nnx.Linear(4, 2, rngs=rngs))


RULES = [
    {"match": "layers/0/kernel", "calibration": "octav"},
    {"match": "layers/0/kernel:out", "calibration": "entropy"},
    {"match": "layers/2/*", "calibration": "mse"},
    {"match": "layers/3/kernel:out", "calibration": "percentile", "percentile": 99.0},
]


def test_each_site_may_have_a_calibration_of_its_own_and_the_file_is_exact() -> None:
    recipe = {"activations": {"calibration": "mean"}, "weights": {"ranges": "learned"}, "rules": RULES}
    q = jaxq.quantize(model(), recipe, IMAGES[:1])
    methods = {name: g.scheme.calibration for name, g in q.plan.groups.items()}
    assert methods == {
        "input": "mean", "layers/0/kernel:out": "entropy", "layers/2/kernel:out": "mse",
        "layers/3/kernel:out": "percentile",
    }  # fmt: skip
    assert [s.calibration for s in q.plan.weights.values()] == ["octav", "mse", "max"]
    assert "learned range, calibrated by percentile 99" in str(q.plan)
    jaxq.calibrate(q, [IMAGES], progress=False)
    artifact = jaxq.export.to_tflite(q, verify=IMAGES)
    assert artifact.certificate is not None and artifact.certificate.ok
    wide = jaxq.quantize(model(), {"weights": {"ranges": "learned"}}, IMAGES[:1])
    jaxq.calibrate(wide, [IMAGES], progress=False)
    narrow, largest = q.pure_ranges(), wide.pure_ranges()
    assert np.all(np.asarray(narrow["layers/0/kernel"]["scale"] < largest["layers/0/kernel"]["scale"]))
    np.testing.assert_array_equal(narrow["layers/3/kernel"]["scale"], largest["layers/3/kernel"]["scale"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"weights": {"calibration": "octav"}}, 'weights.calibration is "octav", and weights.ranges is "follow"'),
        ({"rules": [{"match": "input", "calibration": "octav"}]}, "it matches nothing that takes it"),
        ({"rules": [{"match": "layers/0/kernel", "calibration": "mse"}]}, "weights whose ranges are learned or frozen"),
        ({"rules": [{"match": "input", "percentile": 20.0}]}, "percentile is 20.0; it lies in"),
        ({"activations": {"calibration": "kl"}}, "Invalid enum value 'kl'"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        jaxq.quantize(model(), given, IMAGES[:1])
