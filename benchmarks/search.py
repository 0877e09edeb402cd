"""Searches on the digit classifier of `recipes/mnist.py`: the bits of each op's weights under
budgets of bytes.

    python benchmarks/search.py [--seed 0] [--float build/demo/checkpoints/float] [--per-tensor]

The search sees 512 training images without labels; the table is of the test images, which it has not seen. Compared
with `mixed` at the same bytes are the same weights of 4 bits in the order of the graph, and largest first, as far as
the budget asks for. `--per-tensor` gives each kernel one scale. `--float` takes a checkpoint of an earlier `jaxq train
recipes/mnist` in place of training one.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.analyze.choices import Option, options, with_options
from jaxq.analyze.trials import Trials, accuracy
from jaxq.quantization import bind
from jaxq.recipes import mnist
from jaxq.search.sizes import kernel_bytes

BUDGETS = (0.9, 0.75, 0.65)
EXAMPLES = 512


def trained(folder: pathlib.Path | None, seed: int) -> tuple[Any, Any]:
    """The float network and its data."""
    config = mnist.Config()
    data = mnist._data(config, seed)
    with tempfile.TemporaryDirectory() as fresh:
        model = mnist.train_float(config, data, seed, folder or pathlib.Path(fresh), resume=folder is not None)
    return model, data


def size_of(trials: Trials, recipe: Any) -> int:
    """The bytes of all kernels in the file."""
    plan = trials.planned(recipe)
    return sum(kernel_bytes(plan, name) for name in plan.weights)


def in_order(trials: Trials, found: Sequence[Option], budget: int) -> Any:
    """The recipe that gives 4 bits to one kernel after the other until they fit."""
    recipe, chosen = trials.recipe, list[Option]()
    for option in found:
        if size_of(trials, recipe) <= budget:
            break
        chosen.append(option)
        recipe = with_options(trials.recipe, chosen)
    return recipe


def mixed_table(q: Any, images: Any, tests: Trials, labelled: Trials) -> Table:
    """Kernels under budgets: SQNR of the logits and accuracy on the test images."""
    table = Table("recipe", "kernel bytes", "SQNR of the logits, dB", "accuracy, %", title="weights under a budget")
    four = options(tests.plan, ["w4"])
    whole, least = (size_of(tests, r) for r in (tests.recipe, with_options(tests.recipe, four)))
    largest = sorted(four, key=lambda o: -kernel_bytes(tests.plan, o.site))
    rows = [("8 bits", tests.recipe), ("4 bits", with_options(tests.recipe, four))]
    for budget in (*(int(whole * share) for share in BUDGETS), least):
        rows.append((f"mixed, {budget:,}", jaxq.search.mixed(q, images, budget=budget).recipe))
        rows.append((f"graph order, {budget:,}", in_order(tests, four, budget)))
        rows.append((f"largest first, {budget:,}", in_order(tests, largest, budget)))
    for name, recipe in rows:
        decibels = -10 * math.log10(tests.measured(None, recipe))
        right = labelled.measured(accuracy, recipe)
        table.add_row(name, f"{size_of(tests, recipe):,}", f"{decibels:.1f}", f"{right:.2f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float", type=pathlib.Path, default=None, dest="folder")
    parser.add_argument("--per-tensor", action="store_true")
    given, console = parser.parse_args(), Console()
    model, data = trained(given.folder, given.seed)
    recipe = {"name": "int8", "weights": {"per_channel": not given.per_tensor}}
    q, images = jaxq.quantize(model, recipe, data.test_images[:1]), data.train_images[:EXAMPLES]
    jaxq.calibrate(q, [images])
    tests = [Trials(bind(q), data.test_images, labels) for labels in (None, data.test_labels)]
    console.print(f"float {100 * mnist._accuracy(model, data):.2f} %, seed {given.seed}")
    console.print(str(jaxq.analyze.sensitivity(q, images, choices=("w4",))), highlight=False)
    console.print(mixed_table(q, images, *tests))


if __name__ == "__main__":
    main()
