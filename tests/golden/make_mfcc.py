"""Writes mfcc.npz: MFCC of made-up sounds, their filters, window and DCT, as librosa computes them.

    pip install librosa==1.0.0
    python make_mfcc.py

Sizes are those of `jaxq.recipes.mfcc.Mfcc`. librosa puts a window of 640 into the middle of a transform of 1,024, so
that a sound is given with 192 zeros in front, and the power of a frame is the same. `samples` is what both read.
"""

import pathlib

import librosa  # pyright: ignore[reportMissingImports]
import numpy as np
import scipy.fft


def sounds() -> np.ndarray:
    """A gliding tone with noise, and a second of silence with one click."""
    rng, t = np.random.default_rng(0), np.arange(16_000) / 16_000
    glide = 0.4 * np.sin(2 * np.pi * (200 * t + 900 * t**2)) + rng.normal(0, 0.01, t.size)
    click = np.zeros(t.size)
    click[7_000] = 0.5
    return np.rint(np.stack([glide, click]) * 2**15).astype(np.int16)


samples = sounds()
real = samples / 2.0**15
mel = librosa.filters.mel(sr=16_000, n_fft=1_024, n_mels=40, fmin=20, fmax=4_000, htk=True, norm=None, dtype=np.float64)
found = []
for sound in real:
    padded = np.concatenate([np.zeros(192), sound, np.zeros(192)])
    spectrum = librosa.stft(padded, n_fft=1_024, win_length=640, hop_length=320, center=False, dtype=np.complex128)
    logarithm = np.log(mel @ np.abs(spectrum) ** 2 + 1e-6)
    found.append(librosa.feature.mfcc(S=logarithm, n_mfcc=10, norm="ortho").T)
np.savez_compressed(
    pathlib.Path(__file__).parent / "mfcc.npz",
    samples=samples, mel=mel, mfcc=np.stack(found), window=librosa.filters.get_window("hann", 640),
    dct=np.asarray(scipy.fft.dct(np.eye(40), axis=0, norm="ortho"))[:10],
)  # fmt: skip
