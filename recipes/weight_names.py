"""What others call the modules of the shipped networks: functions from all of our module paths to their names.

Our numbers of blocks begin at 0. The names are those of torchvision, timm (PyTorch Image Models), Hugging Face's
transformers, and of efficientnet_lite_pytorch; `tests/golden/make_network_logits.py` asks these packages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Names = Callable[[Sequence[str]], dict[str, str]]

LITE = {
    r"stem/conv": "_conv_stem",
    r"stem/bn": "_bn0",
    r"blocks/(\d+)/expand/conv": "_blocks.{}._expand_conv",
    r"blocks/(\d+)/expand/bn": "_blocks.{}._bn0",
    r"blocks/(\d+)/depthwise/conv": "_blocks.{}._depthwise_conv",
    r"blocks/(\d+)/depthwise/bn": "_blocks.{}._bn1",
    r"blocks/(\d+)/project/conv": "_blocks.{}._project_conv",
    r"blocks/(\d+)/project/bn": "_blocks.{}._bn2",
    r"head/conv": "_conv_head",
    r"head/bn": "_bn1",
    r"classifier": "_fc",
}
BERT = {
    r"encoder/embeddings/word": "embeddings.word_embeddings",
    r"encoder/embeddings/position": "embeddings.position_embeddings",
    r"encoder/embeddings/type": "embeddings.token_type_embeddings",
    r"encoder/embeddings/norm": "embeddings.LayerNorm",
    r"encoder/layers/(\d+)/attention/query": "encoder.layer.{}.attention.self.query",
    r"encoder/layers/(\d+)/attention/key": "encoder.layer.{}.attention.self.key",
    r"encoder/layers/(\d+)/attention/value": "encoder.layer.{}.attention.self.value",
    r"encoder/layers/(\d+)/attention/output": "encoder.layer.{}.attention.output.dense",
    r"encoder/layers/(\d+)/norm1": "encoder.layer.{}.attention.output.LayerNorm",
    r"encoder/layers/(\d+)/up": "encoder.layer.{}.intermediate.dense",
    r"encoder/layers/(\d+)/down": "encoder.layer.{}.output.dense",
    r"encoder/layers/(\d+)/norm2": "encoder.layer.{}.output.LayerNorm",
}
# The last of the four feed-forward parts of a layer has names of its own.
MOBILE_BERT = {
    r"embeddings/word": "embeddings.word_embeddings",
    r"embeddings/position": "embeddings.position_embeddings",
    r"embeddings/type": "embeddings.token_type_embeddings",
    r"embeddings/widen": "embeddings.embedding_transformation",
    r"embeddings/norm": "embeddings.LayerNorm",
    r"layers/(\d+)/enter/dense": "encoder.layer.{}.bottleneck.input.dense",
    r"layers/(\d+)/enter/norm": "encoder.layer.{}.bottleneck.input.LayerNorm",
    r"layers/(\d+)/enter_attention/dense": "encoder.layer.{}.bottleneck.attention.dense",
    r"layers/(\d+)/enter_attention/norm": "encoder.layer.{}.bottleneck.attention.LayerNorm",
    r"layers/(\d+)/attention/query": "encoder.layer.{}.attention.self.query",
    r"layers/(\d+)/attention/key": "encoder.layer.{}.attention.self.key",
    r"layers/(\d+)/attention/value": "encoder.layer.{}.attention.self.value",
    r"layers/(\d+)/attention/output": "encoder.layer.{}.attention.output.dense",
    r"layers/(\d+)/norm": "encoder.layer.{}.attention.output.LayerNorm",
    r"layers/(\d+)/parts/3/up": "encoder.layer.{}.intermediate.dense",
    r"layers/(\d+)/parts/3/down/dense": "encoder.layer.{}.output.dense",
    r"layers/(\d+)/parts/3/down/norm": "encoder.layer.{}.output.LayerNorm",
    r"layers/(\d+)/parts/(\d+)/up": "encoder.layer.{}.ffn.{}.intermediate.dense",
    r"layers/(\d+)/parts/(\d+)/down/dense": "encoder.layer.{}.ffn.{}.output.dense",
    r"layers/(\d+)/parts/(\d+)/down/norm": "encoder.layer.{}.ffn.{}.output.LayerNorm",
    r"layers/(\d+)/leave/dense": "encoder.layer.{}.output.bottleneck.dense",
    r"layers/(\d+)/leave/norm": "encoder.layer.{}.output.bottleneck.LayerNorm",
}


def by_pattern(table: Mapping[str, str]) -> Names:
    """Names by a table of patterns, {} in a name for each group; the first pattern that fits counts."""

    def names(paths: Sequence[str]) -> dict[str, str]:
        found = {}
        for path in paths:
            fits = ((re.fullmatch(pattern, path), name) for pattern, name in table.items())
            found[path] = next(name.format(*match.groups()) for match, name in fits if match)
        return found

    return names


def torchvision(inner: str, dense: Mapping[str, str]) -> Names:
    """Names of torchvision's MobileNets: `features` counts stem, blocks and head in one row.

    inner: what comes between the number of a block and that of a layer in it, "conv" (V2) or "block" (V3). dense: names
    of our dense layers.
    """

    def name(path: str, parts: Mapping[int, list[str]]) -> str:
        if path in dense:
            return dense[path]
        *_, leaf = path.split("/")
        place = {"conv": 0, "bn": 1}
        if not path.startswith("blocks/"):
            return f"features.{0 if path.startswith('stem/') else len(parts) + 1}.{place[leaf]}"
        _, number, part, leaf = path.split("/")
        at, layer = f"features.{int(number) + 1}.{inner}", parts[int(number)].index(part)
        if part == "squeeze":
            return f"{at}.{layer}.{ {'reduce': 'fc1', 'expand': 'fc2'}[leaf] }"
        if part == "project" and inner == "conv":  # a convolution and a BatchNorm that are no module together
            return f"{at}.{layer + place[leaf]}"
        return f"{at}.{layer}.{place[leaf]}"

    def names(paths: Sequence[str]) -> dict[str, str]:
        parts: dict[int, list[str]] = {}
        for part in ("expand", "depthwise", "squeeze", "project"):  # in the order of computation
            for number in {int(path.split("/")[1]) for path in paths if re.match(rf"blocks/\d+/{part}/", path)}:
                parts.setdefault(number, []).append(part)
        return {path: name(path, parts) for path in paths}

    return names


def timm_lite(repeats: Sequence[int]) -> Names:
    """timm's names of EfficientNet-Lite: a block by its stage and its place there. repeats: blocks of each stage."""
    places = [f"blocks.{stage}.{i}" for stage, count in enumerate(repeats) for i in range(count)]
    ends = {"stem/conv": "conv_stem", "stem/bn": "bn1", "head/conv": "conv_head", "head/bn": "bn2"}
    inverted = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    separable = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}

    def name(path: str, paths: Sequence[str]) -> str:
        if not path.startswith("blocks/"):
            return ends.get(path, path)
        _, number, part, leaf = path.split("/")
        parts = inverted if f"blocks/{number}/expand/conv" in paths else separable
        return f"{places[int(number)]}.{parts[part][leaf == 'bn']}"

    return lambda paths: {path: name(path, paths) for path in paths}


def hugging_face_mobilenet_v1(paths: Sequence[str]) -> dict[str, str]:
    """Hugging Face's names of MobileNetV1: depthwise and pointwise layers are counted as one row."""

    def name(path: str) -> str:
        kinds = {"conv": "convolution", "bn": "normalization"}
        if path.startswith("stem/"):
            return f"conv_stem.{kinds[path.rsplit('/', 1)[1]]}"
        if not path.startswith("blocks/"):
            return path
        _, number, part, leaf = path.split("/")
        return f"layer.{2 * int(number) + (part == 'pointwise')}.{kinds[leaf]}"

    return {path: name(path) for path in paths}
