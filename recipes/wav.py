"""WAV files as arrays, by NumPy alone: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64.

Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991), "WAVE", and Microsoft's
WAVEFORMATEXTENSIBLE, whose first two bytes of the sub-format are the format.
"""

from __future__ import annotations

import pathlib
import struct
from typing import NamedTuple

import numpy as np

from jaxq.errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
CONVERT = "Convert it: ffmpeg -i IN.wav -ac 1 -c:a pcm_s16le OUT.wav"


class Sound(NamedTuple):
    """Samples float32 [n] in [-1, 1), the mean of all channels, and how many of them a second has."""

    samples: np.ndarray
    rate: int


class Format(NamedTuple):
    """Of a WAV file: the code of its encoding, channels, samples a second, bits a sample."""

    code: int
    channels: int
    rate: int
    bits: int


def read_wav(path: pathlib.Path) -> Sound:
    """The sound in a WAV file.

    Integers are divided by 2^(bits - 1); those of 8 bits are unsigned in WAV, and 128 is taken off first. Channels are
    averaged.

    Args:
      path: of the file.

    Raises: InputError where it is no WAV file, is compressed, is cut short, holds no sample, or holds NaN or infinity.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"Cannot read {path}: {e.strerror}.") from e
    chunks = _chunks(path, data)
    form = _format(path, chunks[b"fmt "])
    samples = _decoded(path, form, chunks[b"data"])
    if not samples.size:
        raise InputError(f"{path} holds no sample. Delete it, or record it again.")
    if not np.isfinite(samples).all():
        raise InputError(f"{path} holds NaN or infinity, at sample {int(np.argmin(np.isfinite(samples)))}.")
    mono = samples.reshape(-1, form.channels).astype(np.float64).mean(1)
    return Sound(mono.astype(np.float32), form.rate)


def _chunks(path: pathlib.Path, data: bytes) -> dict[bytes, bytes]:
    """The chunks `fmt ` and `data`, whole."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError(f"{path} is no WAV file: it begins with {data[:12]!r}. {CONVERT}")
    found, place = {}, 12
    while place + 8 <= len(data) and not {b"fmt ", b"data"} <= found.keys():
        name, size = struct.unpack_from("<4sI", data, place)
        found[name] = data[place + 8 : place + 8 + size]
        if len(found[name]) < size and name in (b"fmt ", b"data"):
            raise InputError(
                f"{path} is cut short: its chunk {name.decode()!r} should have {size:,} bytes and has "
                f"{len(found[name]):,}. Copy or record it again."
            )
        place += 8 + size + size % 2
    absent = [name.decode() for name in (b"fmt ", b"data") if name not in found]
    if absent:
        raise InputError(f"{path} has no chunk {absent[0]!r}: it is cut short. Copy or record it again.")
    return found


def _format(path: pathlib.Path, chunk: bytes) -> Format:
    if len(chunk) < 16:
        raise InputError(f"{path} has a chunk 'fmt ' of {len(chunk)} bytes; WAV has 16 or more. {CONVERT}")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == EXTENSIBLE and len(chunk) >= 26:
        (code,) = struct.unpack_from("<H", chunk, 24)
    if (code, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        raise InputError(
            f"{path} has the encoding {code} with {bits} bits; what is read is PCM (1) of 8, 16, 24 or 32 and floats "
            f"(3) of 32 or 64. {CONVERT}"
        )
    if not channels or not rate:
        raise InputError(f"{path} has {channels} channels and {rate} samples a second. {CONVERT}")
    return Format(code, channels, rate, bits)


def _decoded(path: pathlib.Path, form: Format, data: bytes) -> np.ndarray:
    """All samples, channel by channel within each instant."""
    whole = form.channels * form.bits // 8
    if len(data) % whole:
        raise InputError(
            f"{path} is cut short: {len(data):,} bytes of samples are no multiple of {whole}, {form.channels} channels "
            f"of {form.bits} bits. Copy or record it again."
        )
    if form.code == FLOAT:
        return np.frombuffer(data, f"<f{form.bits // 8}")
    if form.bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if form.bits == 24:  # in the upper three bytes of an int32
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / np.float64(2**31)
    return np.frombuffer(data, f"<i{form.bits // 8}") / np.float64(2 ** (form.bits - 1))
