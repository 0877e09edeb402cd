"""What jaxq costs on an accelerator: QAT steps beside bfloat16 float steps, integers beside the CPU's, a loaded file.

    python benchmarks/gpu.py [--only load] [--only mobilenet] [--only encoder] [--rounds 10] [--anywhere]

Each part prints its lines as they come and ends within four minutes on one GPU. Where JAX sees no GPU the script says
so and ends; `--anywhere` runs it all the same, which on a CPU is a test of the script with small numbers (`--batch 4
--resolution 32 --length 8 --config bert-tiny`).

The float step computes in bfloat16 with float32 parameters. The quantized step carries its integers in bfloat16
(`carrier = "bfloat16"`), which is exact. Both are taken in turns, and the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.quantization import bind
from jaxq.recipes.bert import CONFIGS, SentenceModel
from jaxq.recipes.mobilenet_v2 import MobileNetV2
from jaxq.simulate.forward import simulate

PARTS = ("load", "mobilenet", "encoder")
START = time.perf_counter()
FILE = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "mobilenet_v2.tflite"


class InBfloat16(nnx.Module):
    """A model whose float parameters are read as bfloat16: the usual mixed precision."""

    def __init__(self, model: nnx.Module) -> None:
        self.model = model

    def __call__(self, x: jax.Array) -> jax.Array:
        """The model's result in float32; a float input is read as bfloat16."""
        graphdef, state = nnx.split(self.model)
        return nnx.merge(graphdef, jax.tree.map(_low, state))(_low(x)).astype(jnp.float32)


def _low(array: jax.Array) -> jax.Array:
    return array.astype(jnp.bfloat16) if jnp.issubdtype(array.dtype, jnp.floating) else array


@nnx.jit
def train_step(model: Any, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> jax.Array:
    """One step of cross entropy."""

    def loss_of(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def quantized(build: Callable[[], nnx.Module], x: np.ndarray) -> Any:
    """The model in int8 with bfloat16 carriers, calibrated on `x`."""
    model = build()
    model.eval()
    qmodel = jaxq.quantize(model, {"carrier": "bfloat16"}, x[:1])
    jaxq.calibrate(qmodel, [x[:8]], progress=False)
    return qmodel


def step_seconds(build: Callable[[], nnx.Module], qmodel: Any, x: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of both models, in turns, after a compiling and a warm one."""
    plain = InBfloat16(build())
    plain.eval()
    runners = {
        "float": (plain, nnx.Optimizer(plain, optax.adam(1e-4), wrt=nnx.Param)),
        "jaxq": (qmodel, nnx.Optimizer(qmodel, jaxq.optim.partition(optax.adam(1e-4)), wrt=nnx.Param)),
    }
    labels, batch = jnp.zeros(len(x), jnp.int32), jax.device_put(x)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 2):
        for name, (model, optimizer) in runners.items():
            start = time.perf_counter()
            jax.block_until_ready(train_step(model, optimizer, batch, labels))
            times[name].append(time.perf_counter() - start)
    return times


def integers(qmodel: Any, x: np.ndarray, device: Any) -> list[np.ndarray]:
    """Every integer activation of the training forward, computed on a device."""
    bound = bind(qmodel)
    plan = bound.captured(x).plan

    def recorded(params: Any, ranges: Any, inputs: Any) -> list[jax.Array]:
        seen: list[jax.Array] = []
        simulate(plan, params, ranges, inputs, lambda value, carrier: seen.append(carrier.q))
        return seen

    held = jax.device_put((jax.tree.leaves(bound.params), {n: dict(r) for n, r in bound.ranges.items()}, [x]), device)
    return [np.asarray(q, np.float32) for q in jax.jit(recorded)(*held)]


def differing(qmodel: Any, x: np.ndarray) -> str:
    """How many integers of the training forward differ between this backend and a CPU."""
    here, there = (integers(qmodel, x, d) for d in (jax.devices()[0], jax.devices("cpu")[0]))
    wrong = sum(int(np.count_nonzero(a != b)) for a, b in zip(here, there, strict=True))
    return f"{wrong:,} of {sum(a.size for a in here):,}"


def loaded_rates(batch: int, rounds: int) -> dict[str, float]:
    """Examples a second of a loaded int8 file, here and by LiteRT with one thread where it is installed."""
    fn = jaxq.load(FILE)
    port = fn.inputs[0]
    x = np.random.default_rng(0).integers(-128, 128, (batch, *port.shape[1:])).astype(port.dtype)
    compiled, placed = jax.jit(fn), jax.device_put(x)
    rates = {"jaxq.load": batch / _seconds(lambda: jax.block_until_ready(compiled(placed)), rounds)}
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(FILE), num_threads=1)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]

    def run() -> None:
        for example in x[:64, None]:
            interpreter.set_tensor(index, example)
            interpreter.invoke()

    rates["LiteRT, 1 thread"] = min(batch, 64) / _seconds(run, 3)
    return rates


def load_line(batch: int, rounds: int) -> str:
    """What a loaded file computes a second, as text."""
    rates = loaded_rates(batch, rounds)
    ratio = rates["jaxq.load"] / rates["LiteRT, 1 thread"]
    return f"{FILE.name}: " + ", ".join(f"{k} {v:,.0f} examples/s" for k, v in rates.items()) + f", ratio {ratio:.1f}"


def step_line(build: Callable[[], nnx.Module], qmodel: Any, x: np.ndarray, rounds: int) -> str:
    """What a step costs, as text."""
    taken = step_seconds(build, qmodel, x, rounds)
    steady = {key: values[2:] for key, values in taken.items()}
    ratio = float(np.median(np.divide(steady["jaxq"], steady["float"])))
    middle = ", ".join(f"{key} {1e3 * float(np.median(v)):.1f} ms" for key, v in steady.items())
    first = ", ".join(f"{key} {values[0]:.1f} s" for key, values in taken.items())
    return f"bfloat16 step: {middle}, ratio {ratio:.2f}; first step: {first}"


def say(text: str) -> None:
    """Print a line with the seconds since the process began."""
    print(f"{time.perf_counter() - START:6.1f} s  {text}", flush=True)


def _seconds(run: Callable[[], Any], rounds: int) -> float:
    """The median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def models(options: argparse.Namespace) -> dict[str, tuple[str, Callable[[], nnx.Module], np.ndarray]]:
    """By part: the name of a network to train, what builds it, and a batch for it."""
    rng = np.random.default_rng(0)
    images = rng.random((options.batch, options.resolution, options.resolution, 3), np.float32)
    tokens = rng.integers(1, 30_000, (options.batch, options.length)).astype(np.int32)
    config = CONFIGS[options.config]
    mobile, encoder = f"MobileNetV2, {options.resolution} px", f"{options.config}, {options.length} tokens"
    return {
        "mobilenet": (mobile, lambda: MobileNetV2(rngs=nnx.Rngs(0)), images),
        "encoder": (encoder, lambda: SentenceModel(config, 2, rngs=nnx.Rngs(0)), tokens),
    }


def main() -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 10), ("batch", 256), ("resolution", 160), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--config", choices=CONFIGS, default="minilm-l6")
    parser.add_argument("--anywhere", action="store_true", help="run without a GPU as well")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be given again")
    options = parser.parse_args()
    if jax.default_backend() == "cpu" and not options.anywhere:
        print("gpu: JAX sees no accelerator on this machine; ran nothing")
        return
    parts = options.only or PARTS
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {options.batch}, median of {options.rounds}")
    if "load" in parts:
        say(load_line(options.batch, options.rounds))
    for part, (name, build, x) in models(options).items():
        if part in parts:
            say(f"{name}: calibrating")
            qmodel = quantized(build, x)
            say(f"{name}: {step_line(build, qmodel, x, options.rounds)}")
            say(f"{name}: {differing(qmodel, x[:4])} integers of the training forward differ from a CPU's")


if __name__ == "__main__":
    main()
