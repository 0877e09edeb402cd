"""Picture files as a viewer shows them: 8 bits, upright, on white, bounded in size before they are decoded."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np

from jaxq.errors import InputError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # none runs a program
LARGEST = 64  # megapixels: 256 MB while it is decoded
LONGEST = 100  # the longer side over the shorter
SIXTEEN_BITS = frozenset({"PNG", "PPM"})  # the formats whose 32-bit mode of Pillow holds 16 bits of grey


def read_picture(path: pathlib.Path, mode: str = "RGB") -> Any:
    """A picture file as a PIL image of 8 bits, the way a viewer shows it.

    Samples of 16 bits are divided by 257, floats in [0, 1] are multiplied by 255, the orientation in EXIF is applied,
    and what is transparent shows white. CMYK becomes RGB by Pillow's formula; colour profiles are not applied.

    Args:
      path: of a regular file in one of FORMATS. Of an animation the first frame is read.
      mode: "RGB", or "L" for grey.

    Returns: `PIL.Image.Image` of that mode.
    Raises: InputError for a file that is no picture, one of more than LARGEST megapixels, one LONGEST times as long as
    wide, and for numbers that no viewer shows.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise InputError("Photos are read by the package pillow. Run: pip install 'jaxq[recipes]'") from None
    Image.init()
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} cannot be read as a photo: it is no regular file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are refused below, and of odd tags
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                _refuse_size(path, *image.size)
                return _on_white(ImageOps.exif_transpose(_eight_bits(path, image))).convert(mode)
    except InputError:
        raise
    except Exception as e:  # decoders raise whatever comes: ValueError, struct.error, KeyError ...
        raise InputError(f"{path} cannot be read as a photo: {str(e).rstrip('.') or type(e).__name__}.") from e


def _refuse_size(path: pathlib.Path, width: int, height: int) -> None:
    if width * height > LARGEST * 10**6:
        raise InputError(
            f"{path} has {width:,} x {height:,} pixels, {width * height / 1e6:.0f} megapixels; at most {LARGEST} are "
            "read. Scale it down first."
        )
    if max(width, height) > LONGEST * min(width, height):
        raise InputError(
            f"{path} has {width:,} x {height:,} pixels: more than {LONGEST} times as long as wide. Cut it first."
        )


def _eight_bits(path: pathlib.Path, image: Any) -> Any:
    """The image with samples of 8 bits. Pillow's own conversion clips what is above 255."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image, np.float64) / 257, image)
    if image.mode == "F":
        return _grey(_between(path, np.asarray(image, np.float64), 1.0) * 255, image)
    if image.mode == "I":
        most = 65535.0 if image.format in SIXTEEN_BITS else 255.0
        return _grey(_between(path, np.asarray(image, np.float64), most) * (255 / most), image)
    if image.mode == "LAB":
        raise InputError(f"{path} is in the colour space L*a*b*. Convert it to RGB first.")
    assert isinstance(image, Image.Image)
    return image


def _grey(values: np.ndarray, image: Any) -> Any:
    """An image of mode L, with what the original says of its orientation."""
    from PIL import Image

    grey = Image.fromarray(np.rint(values).astype(np.uint8))
    grey.getexif().update(image.getexif())
    return grey


def _between(path: pathlib.Path, values: np.ndarray, most: float) -> np.ndarray:
    low, high = float(np.min(values)), float(np.max(values))
    if not (low >= 0.0 and high <= most):  # NaN too
        raise InputError(
            f"{path} holds numbers from {low:.6g} to {high:.6g}; from 0 (black) to {most:g} (white) a viewer shows. "
            "Scale them first."
        )
    return values


def _on_white(image: Any) -> Any:
    """The image over white, where it has transparent pixels."""
    from PIL import Image

    if "A" not in image.mode and "a" not in image.mode and "transparency" not in image.info:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
