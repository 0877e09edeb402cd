"""OpenPose's VGG network on stick figures: prepare, calibrate, convert, save, load, evaluate.

    jaxq train recipes/openpose_vgg --out build/openpose_vgg

A narrow network is trained in float on figures whose joints are known (`recipes/stick_figures.py`), then quantized
without further training by each calibration method (Wu et al. 2020, section 4). The method with the least error of the
maps on validation figures gives the file. Joints found within a fifth of the torso are counted (PCK) on test figures:
of the float network, of each method, and of the file as LiteRT runs it. `benchmarks/openpose.py` has the network of
the published size.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.analyze.diff import decibels
from jaxq.errors import PrecisionWarning
from jaxq.export.artifact import Artifact
from jaxq.export.files import write_whole
from jaxq.plan.recipe import Activations
from jaxq.recipes import checkpoint, identity, loop, pages, stick_figures
from jaxq.recipes.openpose import Maps, OpenPose
from jaxq.recipes.writers import JsonLines

CALIBRATIONS = ("entropy", "mean", "minmax", "mse", "percentile")
VALIDATION, TEST, CALIBRATION = 1, 2, 3  # seeds of the sets that are not trained on
PAF_WEIGHT = 0.25


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rate and length of the run."""

    width: float = 0.125
    stages: int = 2
    size: int = 64
    batch: int = 16
    steps: int = 400
    rate: float = 3e-3
    calibration: int = 64
    validation: int = 64
    test: int = 256
    verify: int = 16
    calibrations: tuple[str, ...] = CALIBRATIONS


SMOKE = Config(
    width=0.01, size=16, batch=2, steps=3, calibration=2, validation=2, test=4, verify=2, calibrations=("minmax", "mse")
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """images: [n, size, size, 3] as they enter the network, in [-0.5, 0.5]. joints: [n, 18, 2], in pixels."""

    images: np.ndarray
    joints: np.ndarray


def drawn(count: int, size: int, *seed: int) -> Figures:
    """Figures of a seed."""
    rng = np.random.default_rng(seed)
    joints = stick_figures.figures(count, size, rng)
    return Figures(stick_figures.render(joints, size, rng) - np.float32(0.5), joints)


def target() -> tuple[nnx.Module, np.ndarray]:
    """The untrained model and an example, for `jaxq plan recipes/openpose_vgg`."""
    config = Config()
    return _network(config, 0), np.zeros((1, config.size, config.size, 3), np.float32)


def run(
    out: pathlib.Path, *, seed: int = 0, smoke: bool = False, resume: bool = False, force: bool = False
) -> dict[str, Any]:
    """Train, quantize by each calibration method, export the best, load the file and evaluate it.

    Leaves in `out` model.tflite, its manifest (model.json) and report (model.html), summary.json and log.jsonl.
    """
    config = SMOKE if smoke else Config()
    checkpoint.make_room(out, resume, force)
    out.mkdir(parents=True, exist_ok=True)
    test = drawn(config.test, config.size, seed, TEST)
    data = identity.fingerprint((test.images, test.joints))
    identity.claim(out, resume, recipe="openpose_vgg", seed=seed, config=config, data=data)
    model = train_float(config, seed, out / "checkpoints" / "float", resume)
    summary: dict[str, Any] = {"float_pck": _pck(_maps(model, test), test)}
    best, summary["ptq"] = compare(config, model, test, seed)
    artifact = jaxq.export.to_tflite(best, verify=test.images[: config.verify])
    artifact.save(out / "model.tflite", force=True)
    summary |= _measured(artifact, model, best, test, out / "model.tflite")
    write_whole({out / "summary.json": (json.dumps(summary, indent=2) + "\n").encode()})
    shown = None if smoke else test.images[: config.verify]
    return summary | {"report": [table(summary), *pages.written(artifact, out / "model.html", out, shown)]}


def _network(config: Config, seed: int) -> OpenPose:
    return OpenPose(nnx.Rngs(seed), width=config.width, stages=config.stages)


def train_float(config: Config, seed: int, folder: pathlib.Path, resume: bool) -> OpenPose:
    """The float network, trained on new figures at each step."""
    model = _network(config, seed)
    schedule = optax.cosine_onecycle_schedule(config.steps, config.rate)
    optimizer = nnx.Optimizer(model, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)), wrt=nnx.Param)
    with checkpoint.manager(folder, every=100) as checkpoints:
        first = checkpoint.restore(checkpoints, model, optimizer) if resume else 0

        def save(step: int) -> None:
            checkpoint.save(checkpoints, step, model, optimizer, last=step == config.steps - 1)

        loop.fit(
            model, optimizer, _stream(config, seed, first), title="float", steps=config.steps, first=first, after=save,
            writer=JsonLines(folder.parent.parent / "log.jsonl"), update=train_step,
        )  # fmt: skip
    return model


def _stream(config: Config, seed: int, first: int) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """The batches of the steps from `first` on; each depends on its step alone, so that training resumes exactly."""
    for step in range(first, config.steps):
        batch = drawn(config.batch, config.size, seed, 0, step)
        yield batch.images, stick_figures.maps(batch.joints, config.size)


@nnx.jit
def train_step(model: OpenPose, optimizer: nnx.Optimizer, images: Any, wanted: Any) -> jax.Array:
    """One step on the squared error of every stage's maps; returns the loss before it.

    Cao et al. 2017, equations 3 to 5, with the mean in place of the sum and PAFs weighted by `PAF_WEIGHT`: they hold
    most of the energy, and joints are found by the heat maps.
    """

    def loss_of(model: Any) -> jax.Array:
        found = model.all_maps(images)
        return sum((PAF_WEIGHT * _mse(p, wanted[0]) + _mse(h, wanted[1]) for p, h in found), jnp.zeros(()))

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def _mse(found: jax.Array, wanted: jax.Array) -> jax.Array:
    return jnp.mean((found - wanted) ** 2)


def compare(config: Config, model: OpenPose, test: Figures, seed: int) -> tuple[Any, dict[str, dict[str, float]]]:
    """The quantized model of the best calibration method, and what each method gives.

    The best has the least squared error against the float maps on validation figures; test figures choose nothing.
    """
    calibration = drawn(config.calibration, config.size, seed, CALIBRATION)
    validation = drawn(config.validation, config.size, seed, VALIDATION)
    models, found = {}, {}
    wanted, whole = _maps(model, validation), _maps(model, test)
    for name in config.calibrations:
        models[name] = quantized(model, name, calibration)
        paf, heat = _maps(models[name], test)
        found[name] = {
            "validation_error": sum(_error(f, w) for f, w in zip(_maps(models[name], validation), wanted, strict=True)),
            "pck": _pck((paf, heat), test), "paf_sqnr": sqnr(whole[0], paf), "heatmap_sqnr": sqnr(whole[1], heat),
        }  # fmt: skip
    return models[min(found, key=lambda name: found[name]["validation_error"])], found


def quantized(model: OpenPose, calibration: Any, figures: Figures) -> Any:
    """A copy of the float network in int8, its ranges from figures by one method."""
    recipe = jaxq.Recipe(name=f"int8 {calibration}", activations=Activations(calibration=calibration))
    qmodel = jaxq.quantize(nnx.clone(model), recipe, figures.images[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)  # the table shows what each method costs
        jaxq.calibrate(qmodel, (figures.images[i : i + 16] for i in range(0, len(figures.images), 16)))
    return qmodel


@nnx.jit
def _forward(model: Any, images: Any) -> Maps:
    return model(images)


def _maps(model: Any, figures: Figures, size: int = 32) -> list[np.ndarray]:
    """The PAFs and heat maps of all figures."""
    parts = [_forward(model, figures.images[i : i + size]) for i in range(0, len(figures.images), size)]
    return [np.concatenate([np.asarray(a) for a in arrays]) for arrays in zip(*parts, strict=True)]


def _pck(maps: Any, figures: Figures) -> float:
    return stick_figures.pck(stick_figures.peaks(np.asarray(maps[1])), figures.joints)


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean((found - wanted) ** 2))


def sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    """Of `found` against `wanted`, in dB."""
    return decibels(float(np.sum(wanted**2)), float(np.sum((found - wanted) ** 2)))


def _measured(artifact: Artifact, model: OpenPose, best: Any, test: Figures, file: pathlib.Path) -> dict[str, Any]:
    """The file, read again and run on LiteRT: its PCK, and integers that differ from the training forward's."""
    assert artifact.certificate is not None
    found, trained = artifact.run(test.images), _maps(best, test)
    return {
        "best_calibration": best.plan.recipe.activations.calibration,
        "artifact_pck": _pck(found, test),
        "reload_equal": reloaded_equal(artifact, file, test.images[:1]),
        "maps_differing": sum(int(np.count_nonzero(f != t)) for f, t in zip(found, trained, strict=True)),
        "maps_compared": sum(t.size for t in trained),
        "differing_integers": artifact.certificate.differing_integers,
        "compared_integers": artifact.certificate.compared_integers,
        "tflite_bytes": len(artifact.data),
        "float_bytes": checkpoint.bytes_of(model),
    }


def reloaded_equal(artifact: Artifact, file: pathlib.Path, images: np.ndarray) -> bool:
    """Whether the saved file, loaded with `jaxq.load`, computes every integer that the artifact computes on LiteRT."""
    loaded = jaxq.load(file)
    found = loaded.dequantize_outputs(*loaded(*loaded.quantize_inputs(images)))
    return all(np.array_equal(f, w) for f, w in zip(found, artifact.run(images), strict=True))


def table(summary: dict[str, Any]) -> str:
    """The results in Markdown."""
    rows = ["| | PCK | SQNR of the PAFs | of the heat maps |", "| --- | --- | --- | --- |"]
    rows.append(f"| float | {100 * summary['float_pck']:.2f} % | | |")
    for name, found in summary["ptq"].items():
        decibel = f"{found['paf_sqnr']:.1f} dB | {found['heatmap_sqnr']:.1f} dB"
        rows.append(f"| int8, {name} | {100 * found['pck']:.2f} % | {decibel} |")
    best = summary["best_calibration"]
    rows.append(f"| the file on LiteRT ({best}) | {100 * summary['artifact_pck']:.2f} % | | |")
    return "\n".join(rows)
