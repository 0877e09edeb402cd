"""CPU seconds of `import jaxq` above those of flax, and of `jaxq --help`.

    python benchmarks/imports.py [--rounds 5]

Each is the least of several processes, in turns: the user and system time of a process does not count what else the
machine does, but grows when it does much.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table

FLAX = "import flax.nnx, flax.linen, optax"
CASES = {
    "flax and optax": ("-c", FLAX),
    "the same and jaxq": ("-c", f"{FLAX}, jaxq"),
    "the same, jaxq and each of its public names": ("-c", f"{FLAX}, jaxq; [getattr(jaxq, n) for n in jaxq.__all__]"),
    "jaxq --help": ("-m", "jaxq", "--help"),
    "jaxq train --help": ("-m", "jaxq", "train", "--help"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """User and system time of a Python process, seconds."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    found = {name: [] for name in CASES}
    for _ in rounds:
        for name, arguments in CASES.items():
            found[name].append(cpu_seconds(arguments))
    table = Table(title=f"CPU seconds of a process, least of {len(rounds)}")
    table.add_column("process")
    table.add_column("CPU s", justify="right")
    for name, seconds in found.items():
        table.add_row(name, f"{min(seconds):.2f}")
    both = zip(found["the same and jaxq"], found["flax and optax"], strict=True)
    table.add_row("jaxq above flax, least of the differences", f"{min(a - b for a, b in both):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
