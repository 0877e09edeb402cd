"""Twenty labelled ImageNet photos, 224x224, from the package foolbox: enough to test with, too few to claim with."""

from __future__ import annotations

import io
import zipfile
from typing import NamedTuple

import numpy as np

from jaxq.recipes.packages import Package, fetch

FOOLBOX = Package(
    "foolbox",
    "3.3.4",
    "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)


class Photos(NamedTuple):
    """Images uint8 [n, 224, 224, 3], RGB, and labels int32 [n] out of 1000."""

    images: np.ndarray
    labels: np.ndarray


def photos() -> Photos:
    """The photos, fetched by pip into the cache if they are not there (MIT licence). Raises WeightsError."""
    from PIL import Image

    images, labels = [], []
    with zipfile.ZipFile(fetch(FOOLBOX)) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_")):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                images.append(np.asarray(image.convert("RGB"), np.uint8))
            labels.append(int(name.rsplit("_", 1)[1].removesuffix(".jpg")))  # imagenet_00_243.jpg
    return Photos(np.stack(images), np.array(labels, np.int32))
