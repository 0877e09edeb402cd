"""SHA-256 of the exported bytes of every network of the test zoo, by recipe.

`python benchmarks/digests.py > after.txt`, and the same in a checkout of the commit before, show by `diff` whether a
change of the writer moves a byte. `--recipes int8,int4` and `--networks heads,series` choose a part. The zoo is seeded
by name, and calibration and export are deterministic, so a digest depends on the code and on JAX's version alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxq
import jaxq.export
from tests.zoo import ZOO

RECIPES = ("int8", "int4", "int16x8")


def digest(network: str, recipe: str) -> str:
    """The digest of one network's file."""
    case = ZOO[network]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return hashlib.sha256(jaxq.export.to_tflite(qmodel).data).hexdigest()


def main() -> None:
    """Print one line a file: name, recipe, digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--networks", default=",".join(ZOO))
    options = parser.parse_args()
    for network in options.networks.split(","):
        for recipe in options.recipes.split(","):
            print(f"{network:28} {recipe:8} {digest(network, recipe)}", flush=True)


if __name__ == "__main__":
    main()
