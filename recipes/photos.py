"""Twenty labelled ImageNet photos, from the package foolbox: enough to test with, far too few for an accuracy."""

from __future__ import annotations

import io
import zipfile
from typing import Any, NamedTuple

import numpy as np

from jaxq.recipes.packages import Package, fetch

FOOLBOX = Package(
    "foolbox",
    "3.3.4",
    "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)


class Photos(NamedTuple):
    """Images uint8 [n, resolution, resolution, 3], RGB, and labels int32 [n] out of 1000."""

    images: np.ndarray
    labels: np.ndarray


def photos(resolution: int = 224, interpolation: str = "bilinear") -> Photos:
    """The photos, fetched by pip into the cache if they are not there (MIT licence). Raises WeightsError.

    The shorter side becomes resolution + 32 by `interpolation`, "bilinear" or "bicubic"; then the middle is cut out.
    """
    from PIL import Image

    images, labels = [], []
    with zipfile.ZipFile(fetch(FOOLBOX)) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_")):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                filtered = Image.Resampling[interpolation.upper()]
                images.append(np.asarray(_middle(image.convert("RGB"), resolution, filtered), np.uint8))
            labels.append(int(name.rsplit("_", 1)[1].removesuffix(".jpg")))  # imagenet_00_243.jpg
    return Photos(np.stack(images), np.array(labels, np.int32))


def _middle(image: Any, resolution: int, filtered: Any) -> Any:
    """The middle of a PIL image, after its shorter side has become resolution + 32."""
    factor = (resolution + 32) / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.resize((width, height), filtered).crop((left, top, left + resolution, top + resolution))
