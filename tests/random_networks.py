"""Random networks as programs that print, shrink and can be kept: up to thirty steps over a pool of tensors.

A `Program` says the shape and the numbers of its input and a tuple of `Step`s. A step names a move of
`tests.random_moves.MOVES`, two tensors (counted from the newest) and the seed of its details. Every program is valid: a
step that does not apply to the shapes it meets makes nothing. Thus any part of a program is a program, which is what
finding the smallest that fails needs.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxq
import jaxq.export
from jaxq.errors import JaxqError
from tests.random_moves import MOVES, Tools, Weights

SHAPES = ((8, 8, 3), (7, 5, 4), (5, 9, 1), (9, 4), (6, 6), (12,), (5,))
LARGEST = 1500  # numbers in a tensor of one example
CALIBRATED, WIDE = 12, 4


class Step(NamedTuple):
    """A move, its operands (0 is the newest tensor), the seed of its details."""

    move: str
    first: int = 0
    second: int = 1
    seed: int = 0


class Program(NamedTuple):
    """A network: the input's shape without batch, the size and the offset of its numbers, the steps."""

    shape: tuple[int, ...]
    scale: float
    offset: float
    steps: tuple[Step, ...]


class Outcome(NamedTuple):
    """`kind`: "exact", "refused" (by an error of jaxq's), "differs", "crash"; why; and the kinds of op in the graph."""

    kind: str
    reason: str = ""
    ops: frozenset[str] = frozenset()


# --- a program's meaning ------------------------------------------------------------------------------------


def network(program: Program) -> Callable[..., tuple[jax.Array, ...]]:
    """The function `(params, x) -> outputs`. It writes the weights that `params` lacks."""

    def run(params: dict[str, Weights], x: jax.Array) -> tuple[jax.Array, ...]:
        pool, read = [x], {0}
        for i, step in enumerate(program.steps):
            operands = [len(pool) - 1 - k % len(pool) for k in (step.first, step.second)]
            tools = Tools(step.seed, params.setdefault(f"{i:02}_{step.move.replace(' ', '_')}", {}))
            made = [y for y in MOVES[step.move](tools, *(pool[k] for k in operands)) if _fits(y)]
            read.update(operands if made else ())
            pool.extend(made)
        leaves = [y for k, y in enumerate(pool) if k not in read]
        return tuple(leaves[-3:]) or (pool[-1],)

    return run


def _fits(y: jax.Array) -> bool:
    return 0 < math.prod(y.shape[1:]) <= LARGEST and y.ndim < 6


def parameters(program: Program) -> dict[str, Weights]:
    """The weights, as numpy arrays; steps without any have no entry."""
    made: dict[str, Weights] = {}
    jax.eval_shape(lambda x: network(program)(made, x), jax.ShapeDtypeStruct((1, *program.shape), jnp.float32))
    return {name: weights for name, weights in made.items() if weights}


def examples(program: Program, wide: bool = False) -> np.ndarray:
    """Inputs to calibrate on; with `wide` also some that lie beyond the calibrated range."""
    rng = np.random.default_rng(zlib.crc32(repr(program.shape).encode()))
    x = rng.normal(0.0, 1.0, (CALIBRATED + WIDE, *program.shape))
    x[CALIBRATED:] *= 5.0
    return (program.offset + program.scale * x[: None if wide else CALIBRATED]).astype(np.float32)


# --- the law ------------------------------------------------------------------------------------------------


def outcome(program: Program) -> Outcome:
    """Quantize, calibrate, export, verify: exact, or refused with a reason; nothing else is right."""
    ops: frozenset[str] = frozenset()
    try:
        params, x = parameters(program), examples(program)
        quantized = jaxq.quantize(network(program), "int8", params, x[:1])
        ops = frozenset(op.kind for op in quantized.plan.graph.ops)
        ranges = jaxq.calibrate(quantized, [x], params, quantized.init(params, x[:1]), progress=False)
        artifact = jaxq.export.to_tflite(quantized, params, ranges, progress=False)
        certificate = artifact.verify(examples(program, wide=True), progress=False)
    except JaxqError as error:
        return Outcome("refused", str(error), ops)
    except Exception as error:  # noqa: BLE001
        return Outcome("crash", f"{type(error).__name__}: {error}", ops)
    return Outcome("exact", "", ops) if certificate.ok else Outcome("differs", _differing(certificate), ops)


def _differing(certificate: Any) -> str:
    tallies = {**certificate.families, "training forward": certificate.simulation}
    where = {name: {k: n for k, n in tally.differing.items() if n} for name, tally in tallies.items()}
    return f"{certificate}\n{where}"


# --- drawing ------------------------------------------------------------------------------------------------


def drawn(seed: int, most: int = 30, moves: Sequence[str] = tuple(MOVES)) -> Program:
    """A program of up to `most` steps, over a handful of the moves: few kinds at a time meet more often."""
    rng = random.Random(seed)
    palette = rng.sample(sorted(moves), rng.randint(3, 9))
    near = (0, 0, 0, 0, 1, 1, 2, 3, 5)
    steps = tuple(
        Step(rng.choice(palette), rng.choice(near), rng.choice(near), rng.randrange(4096))
        for _ in range(rng.randint(most // 3, most))
    )
    return Program(rng.choice(SHAPES), rng.choice((1.0, 0.01, 30.0)), rng.choice((0.0, 0.0, 1.0, -20.0)), steps)


def shrunk(program: Program) -> Program:
    """The shortest part of a program found whose outcome is of the same kind: steps go, first many, then one by one."""
    kind, size = outcome(program).kind, len(program.steps) // 2
    while size:
        for start in range(len(program.steps) - size, -1, -size):
            less = program._replace(steps=program.steps[:start] + program.steps[start + size :])
            program = less if outcome(less).kind == kind else program
        size //= 2
    return program
