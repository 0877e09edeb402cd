"""Writes network_logits.npz and network_shapes.json: networks of other packages, with made-up weights, in PyTorch.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 transformers==5.23.0
    python make_network_logits.py

The weights are `tests/made_weights.py`'s for the names and shapes of each state dict, which are written; outputs are
computed in float64. BERT has the layers of bert-tiny and MobileBERT two, both a vocabulary of 90. Large EfficientNet-
Lites give names alone.
"""

import json
import pathlib
import sys

import numpy as np
import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from made_weights import all_made, images, sentences  # noqa: E402

BERT = transformers.BertConfig(
    vocab_size=90, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
    attn_implementation="eager",
)  # fmt: skip
MOBILE_BERT = transformers.MobileBertConfig(vocab_size=90, num_hidden_layers=2, attn_implementation="eager")
MOBILE_NET = transformers.MobileNetV1Config(num_labels=7)
IMAGE = {
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "efficientnet_lite1": lambda: timm.create_model("tf_efficientnet_lite1"),
    "mobilenet_v1": lambda: transformers.MobileNetV1ForImageClassification(MOBILE_NET),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "mobilenet_v3_large": lambda: torchvision.models.mobilenet_v3_large(),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}
TEXT = {
    "bert-tiny": lambda: transformers.BertForSequenceClassification(BERT),
    "mobilebert": lambda: transformers.MobileBertForSequenceClassification(MOBILE_BERT),
}
NAMES = {f"efficientnet_lite{v}": lambda v=v: timm.create_model(f"tf_efficientnet_lite{v}") for v in (2, 3, 4)}


def ready(model: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    """The network with made-up weights, in float64, and the shapes of its arrays."""
    shapes = {name: list(t.shape) for name, t in model.state_dict().items() if t.dtype.is_floating_point}
    tensors = {name: torch.from_numpy(array) for name, array in all_made(shapes).items()}
    model.load_state_dict(tensors, strict=False)
    return model.double().eval(), shapes


def logits(name: str, model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        if name in IMAGE:
            found = model(torch.from_numpy(images()).double().permute(0, 3, 1, 2))
            return getattr(found, "logits", found).numpy()
        ids, mask = map(torch.from_numpy, sentences())
        encoder = model.bert if name.startswith("bert") else model.mobilebert
        return encoder(ids, mask).last_hidden_state.numpy()


if __name__ == "__main__":
    shapes, outputs = {}, {}
    for name, make in {**IMAGE, **TEXT, **NAMES}.items():
        model, shapes[name] = ready(make())
        if name not in NAMES:
            outputs[name] = logits(name, model).astype(np.float32)
    rows = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in sorted(shapes.items())]
    (HERE / "network_shapes.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    np.savez_compressed(HERE / "network_logits.npz", **outputs)
