"""Mel-frequency cepstral coefficients (Davis and Mermelstein 1980), computed on the host, in front of the network.

A clip x of `samples` numbers in [-1, 1) has `frames` frames; frame t begins at sample t * hop. For each frame

    P[b]  = |sum_n window[n] x[t hop + n] exp(-2 pi i b n / fft)|^2      power of bin b, b = 0 .. fft / 2
    E[m]  = sum_b mel[m, b] P[b]                                         energy of filter m
    L[m]  = ln(E[m] + floor)
    c[k]  = sum_m dct[k, m] L[m]                                         coefficient k

with three tables: the periodic Hann window `window[n] = 1/2 - 1/2 cos(2 pi n / N)`, zero from N up to fft, the power
of two at or above N; triangles `mel[m]` of height 1 over frequency in Hz, whose corners are equally spaced on the mel
scale `mel(f) = 2595 log10(1 + f / 700)` (O'Shaughnessy 1987) from `low` to `high`; the orthonormal DCT-II
`dct[k, m] = sqrt((2 - [k = 0]) / M) cos(pi k (m + 1/2) / M)`. Sizes are those of Zhang et al. 2017 ("Hello Edge"):
frames of 40 ms, 20 ms apart, 40 filters from 20 to 4,000 Hz, 10 coefficients: [49, 10] for a second.

The same as librosa's `feature.mfcc(htk=True, norm=None, center=False)` but for librosa's decibels in place of ln.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from jaxq.errors import InputError

CHUNK = 64  # clips at a time: 25 MB of spectra for clips of a second

FORMULA = (
    "power = abs(rfft(window * x[t * hop : t * hop + len(window)], fft)) ** 2; "
    "coefficients = dct @ log(mel @ power + floor); input = (coefficients - mean) / std"
)


@dataclasses.dataclass(frozen=True)
class Mfcc:
    """Sizes of the coefficients.

    Attributes:
      rate: samples a second.
      samples: of a clip.
      window: samples of a frame.
      hop: samples from one frame's start to the next's.
      filters: of the mel scale.
      low: where the first filter begins, Hz.
      high: where the last one ends, Hz.
      coefficients: the first so many of the DCT.
      floor: added to an energy before its logarithm.
    """

    rate: int = 16_000
    samples: int = 16_000
    window: int = 640
    hop: int = 320
    filters: int = 40
    low: float = 20.0
    high: float = 4_000.0
    coefficients: int = 10
    floor: float = 1e-6

    @staticmethod
    def of(rate: int, seconds: float) -> Mfcc:
        """The sizes of Zhang et al. 2017 for clips of so many seconds at another rate.

        Raises: InputError where a clip is shorter than a frame, or the rate too low for the filters.
        """
        sizes = Mfcc(rate, round(rate * seconds), round(0.04 * rate), round(0.02 * rate), high=min(4000.0, rate / 2))
        if sizes.samples < sizes.window:
            raise InputError(f"A clip of {seconds:g} seconds is shorter than a frame of 0.04. Give longer ones.")
        if not tables(sizes).mel.any(1).all():
            raise InputError(
                f"{rate:,} samples a second are too few for {sizes.filters} filters up to {sizes.high:g} Hz. Give "
                "sound of 8,000 or more."
            )
        return sizes

    @property
    def fft(self) -> int:
        """Length of the Fourier transform: the power of two at or above the window."""
        return 1 << (self.window - 1).bit_length()

    @property
    def frames(self) -> int:
        """How many whole frames a clip has."""
        return 1 + (self.samples - self.window) // self.hop


class Tables(NamedTuple):
    """window float64 [window], mel float64 [filters, fft / 2 + 1], dct float64 [coefficients, filters]."""

    window: np.ndarray
    mel: np.ndarray
    dct: np.ndarray


@functools.cache
def tables(sizes: Mfcc) -> Tables:
    """The three tables of the module's equations."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(sizes.window) / sizes.window)
    k, m = np.arange(sizes.coefficients)[:, None], np.arange(sizes.filters)
    factor = np.sqrt(np.where(k == 0, 1.0, 2.0) / sizes.filters)
    return Tables(window, _triangles(sizes), factor * np.cos(np.pi * k * (m + 0.5) / sizes.filters))


def _triangles(sizes: Mfcc) -> np.ndarray:
    low, high = (2595 * math.log10(1 + f / 700) for f in (sizes.low, sizes.high))
    corners = 700 * (10 ** (np.linspace(low, high, sizes.filters + 2) / 2595) - 1)
    bins = np.arange(sizes.fft // 2 + 1) * sizes.rate / sizes.fft
    left, middle, right = (corners[i : i + sizes.filters, None] for i in range(3))
    return np.maximum(0.0, np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)))


def mfcc(clips: np.ndarray, sizes: Mfcc) -> np.ndarray:
    """The coefficients of some clips.

    Args:
      clips: samples [n, sizes.samples] in [-1, 1).
      sizes: of everything.

    Returns: float32 [n, sizes.frames, sizes.coefficients], computed in float64.
    """
    parts = [_coefficients(clips[i : i + CHUNK], sizes) for i in range(0, len(clips), CHUNK)]
    return np.concatenate([np.zeros((0, sizes.frames, sizes.coefficients), np.float32), *parts])


def _coefficients(clips: np.ndarray, sizes: Mfcc) -> np.ndarray:
    window, mel, dct = tables(sizes)
    places = np.arange(sizes.frames)[:, None] * sizes.hop + np.arange(sizes.window)
    power = np.abs(np.fft.rfft(clips[:, places].astype(np.float64) * window, sizes.fft)) ** 2
    return (np.log(power @ mel.T + sizes.floor) @ dct.T).astype(np.float32)


class FrontEnd(NamedTuple):
    """What makes an input of a clip: sizes, and the mean and standard deviation of each coefficient, float32."""

    sizes: Mfcc
    mean: np.ndarray
    std: np.ndarray

    def inputs(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, frames, coefficients, 1] of clips [n, samples]."""
        return self.normalized(mfcc(clips, self.sizes))

    def normalized(self, features: np.ndarray) -> np.ndarray:
        """float32 [n, frames, coefficients, 1] of coefficients [n, frames, coefficients]."""
        return ((features - self.mean) / self.std)[..., None]

    def recorded(self) -> dict[str, Any]:
        """The same as JSON, which `front_end` reads."""
        numbers = {"mean": [float(x) for x in self.mean], "std": [float(x) for x in self.std]}
        return {**recorded(self.sizes), **numbers}


def front_end(said: Any) -> FrontEnd:
    """The front end of a manifest's `preprocess`.

    Raises: InputError where it is of another kind, lacks a number, or was written with another formula.
    """
    kind = said.get("kind") if isinstance(said, dict) else None
    if kind != "mfcc" or said.get("formula") != FORMULA:
        other = "was written with another formula" if kind == "mfcc" else f"is of kind {kind!r}"
        raise InputError(f"`preprocess` {other}; jaxq computes MFCC by {FORMULA!r}.")
    try:
        kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(Mfcc)}
        sizes = Mfcc(**{name: kind(said[name]) for name, kind in kinds.items()})
        mean, std = (np.array(said[key], np.float32).reshape(sizes.coefficients) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"`preprocess` lacks a number, or has a wrong one: {type(e).__name__}: {e}.") from e
    return FrontEnd(sizes, mean, std)


def recorded(sizes: Mfcc) -> dict[str, Any]:
    """Sizes, formula and tables as JSON: what a host without jaxq needs.

    A filter of `mel` is its first bin that is not zero and the numbers from there on.
    """
    window, mel, dct = tables(sizes)
    found = {"kind": "mfcc", "formula": FORMULA, **dataclasses.asdict(sizes), "fft": sizes.fft, "frames": sizes.frames}
    return found | {"tables": {"window": window.tolist(), "mel": [_sparse(row) for row in mel], "dct": dct.tolist()}}


def _sparse(row: np.ndarray) -> dict[str, Any]:
    (places,) = np.nonzero(row)
    return {"first": int(places[0]), "weights": row[places[0] : places[-1] + 1].tolist()}
