"""Writes imagenet_logits.npz: what the original networks compute from the published weights, in PyTorch on a CPU.

    pip install torch torchvision efficientnet_lite_pytorch==0.1.0
    python make_imagenet_logits.py FOLDER    # holds mobilenet_v2-b0353104.pth, efficientnet-lite0-57934424.pth

float32 [2, 1000] for each network. The two inputs are standard normal numbers of numpy's default_rng(0), [2, 224, 224,
3], float32, divided by 2 for the second: they lie where preprocessed pixels lie, and no image file is needed.
"""

import pathlib
import sys

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]


def inputs() -> np.ndarray:
    """NHWC float32."""
    x = np.random.default_rng(0).standard_normal((2, 224, 224, 3), np.float32)
    return x / np.array([1, 2], np.float32)[:, None, None, None]


def logits(model: torch.nn.Module, weights: pathlib.Path) -> np.ndarray:
    """The original network's logits, computed in float64 so that they depend on no order of summation."""
    model.load_state_dict(torch.load(weights, weights_only=True))
    model = model.double().eval()
    with torch.no_grad():
        return model(torch.from_numpy(inputs()).double().permute(0, 3, 1, 2)).numpy().astype(np.float32)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    np.savez_compressed(
        pathlib.Path(__file__).with_name("imagenet_logits.npz"),
        mobilenet_v2=logits(torchvision.models.mobilenet_v2(), folder / "mobilenet_v2-b0353104.pth"),
        efficientnet_lite0=logits(
            EfficientNet.from_name("efficientnet-lite0"), folder / "efficientnet-lite0-57934424.pth"
        ),
    )
