"""Several processes of one run, each with devices of its own, through `jax.distributed`.

Every process runs the whole recipe. A step's arrays are divided among the devices of all processes; what is small or
does not train (calibration data, export, accuracies) each process computes for itself. The first one writes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding

from jaxq.frontends.call import is_key
from jaxq.frontends.gathered import gathered


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `index` of `count` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, array: np.ndarray) -> np.ndarray:
        """These rows of an array [n, ...]; n is a multiple of `count`."""
        rows = len(array) // self.count
        return array[self.index * rows : (self.index + 1) * rows]


def join(coordinator: str, count: int, index: int, *, patience: int = 100) -> None:
    """Join the processes of a run. Before the first use of a device, in every process.

    Args:
      coordinator: HOST:PORT where the process 0 listens, of any free port.
      count: how many processes there are.
      index: the number of this one.
      patience: seconds without a sign of life after which a process counts as dead. JAX then ends the others; all of
        them begin again from the newest checkpoint.

    CPUs add up their gradients by gloo, over TCP; GPUs and TPUs by their own libraries.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=patience)
    wait("all are here")  # gloo connects at the first exchange, and allows 30 seconds of one process before another


def share() -> Share:
    """This process's share of a batch."""
    return Share(jax.process_index(), jax.process_count())


def writes() -> bool:
    """Whether this process writes files and says what happens."""
    return jax.process_index() == 0


def wait(where: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def local(module: Any) -> Any:
    """A copy of an NNX module with its whole state on a device of this process, for what one process does alone.

    Every process must call it where the state is divided among them.
    """
    graph, state = nnx.split(module)
    device = SingleDeviceSharding(jax.local_devices()[0])
    return nnx.merge(graph, jax.tree.map(lambda leaf: placed(leaf, device), state))


def placed(leaf: jax.Array, sharding: Sharding) -> jax.Array:
    """An array that every process has, or has a part of, placed on devices, which may be of all processes.

    `jax.device_put` does not move an array between one process's devices and those of several.
    """
    if leaf.is_fully_addressable and sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if is_key(leaf):
        return jax.random.wrap_key_data(placed(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = gathered(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
