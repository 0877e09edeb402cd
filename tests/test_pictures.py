"""Pictures are read as a viewer shows them, and bounded before they are decoded."""

from __future__ import annotations

import io
import os
import pathlib
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxq.cli.photo import photo
from jaxq.errors import InputError
from jaxq.recipes.pictures import read_picture

RAMP = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)


def saved(folder: pathlib.Path, name: str, image: Image.Image, **options: Any) -> pathlib.Path:
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["grey.png", "grey.tiff"])
def test_sixteen_bits_keep_their_grey(tmp_path: pathlib.Path, name: str) -> None:
    path = saved(tmp_path, name, Image.fromarray(RAMP))
    np.testing.assert_array_equal(np.asarray(read_picture(path, "L")), np.rint(RAMP / 257))
    np.testing.assert_array_equal(np.asarray(read_picture(path))[..., 2], np.rint(RAMP / 257))


def test_a_dark_picture_of_sixteen_bits_is_dark(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, "dark.png", Image.fromarray(np.full((32, 32), 0x00FF, np.uint16)))
    assert photo(path, "RGB", 8, 8).max() == 1


def test_floats_from_black_to_white(tmp_path: pathlib.Path) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    path = saved(tmp_path, "float.tiff", Image.fromarray(values))
    np.testing.assert_array_equal(np.asarray(read_picture(path, "L")), np.rint(values.astype(np.float64) * 255))


@pytest.mark.parametrize(("low", "high"), [(0.0, 200.0), (-0.5, 1.0), (0.0, np.nan)])
def test_floats_that_no_viewer_shows_are_refused(tmp_path: pathlib.Path, low: float, high: float) -> None:
    path = saved(tmp_path, "float.tiff", Image.fromarray(np.array([[low, high]], np.float32)))
    with pytest.raises(InputError, match=r"holds numbers from .* to .*; from 0 \(black\) to 1 \(white\)"):
        read_picture(path)


def test_integers_of_32_bits(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, "long.tiff", Image.fromarray(np.array([[0, 128, 255]], np.int32)))
    np.testing.assert_array_equal(np.asarray(read_picture(path, "L")), [[0, 128, 255]])
    with pytest.raises(InputError, match="holds numbers from 0 to 70000"):
        read_picture(saved(tmp_path, "long.tiff", Image.fromarray(np.array([[0, 70000]], np.int32))))


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(a.T, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_orientation_in_exif_is_applied(tmp_path: pathlib.Path, orientation: int, kind: Any) -> None:
    """The EXIF standard's eight orientations: row 0 and column 0 of what is stored are these sides of the picture."""
    image = Image.fromarray((np.arange(24).reshape(4, 6) * (257 if kind is np.uint16 else 1)).astype(kind))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "turned.png", image, exif=exif)
    expected = TURNED[orientation](np.arange(24).reshape(4, 6))
    np.testing.assert_array_equal(np.asarray(read_picture(path, "L")), expected)


def test_what_is_transparent_is_white(tmp_path: pathlib.Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[[200, 0, 0], [255, 255, 255], [127, 127, 127]]]
    path = saved(tmp_path, "alpha.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), expected)
    grey = saved(tmp_path, "grey.png", Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA"))
    np.testing.assert_array_equal(np.asarray(read_picture(grey, "L")), [[0, 255]])


def test_palettes_and_a_transparent_entry(tmp_path: pathlib.Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name in ("palette.png", "palette.gif"):
        path = saved(tmp_path, name, image, transparency=1)
        assert np.asarray(read_picture(path))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_one_bit_and_four_inks(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, "bit.png", Image.fromarray(np.array([[True, False]])))
    assert np.asarray(read_picture(path, "L")).tolist() == [[255, 0]]
    inks = np.zeros((16, 16, 4), np.uint8) + np.array([0, 255, 255, 0], np.uint8)  # magenta and yellow: red
    path = saved(tmp_path, "inks.jpg", Image.fromarray(inks, "CMYK"), quality=95)
    assert np.abs(np.asarray(read_picture(path), np.int32) - [255, 0, 0]).max() <= 2


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    whole = io.BytesIO()
    Image.new("1", (8, 8)).save(whole, "PNG")
    data = bytearray(whole.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((12_000, 12_000), r"has 12,000 x 12,000 pixels, 144 megapixels; at most 64 are read. Scale it down first."),
        ((40_000, 40_000), r"1600000000 pixels|40,000 x 40,000"),
        ((1, 60_000_000), r"has 1 x 60,000,000 pixels: more than 100 times as long as wide."),
    ],
)
def test_pictures_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path: pathlib.Path, size: tuple[int, int], words: str
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(claimed(*size))
    with pytest.raises(InputError, match=words):
        read_picture(path)


def test_what_is_no_picture_is_refused(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", pathlib.Path("/dev/zero")):
        with pytest.raises(InputError, match="it is no regular file"):
            read_picture(path)
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # Pillow would run it
    with pytest.raises(InputError, match="cannot be read as a photo: cannot identify"):
        read_picture(tmp_path / "script.eps")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    whole = saved(tmp_path, "whole.png", Image.fromarray(noise))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(InputError, match="cut.png cannot be read as a photo"):
        read_picture(tmp_path / "cut.png")
