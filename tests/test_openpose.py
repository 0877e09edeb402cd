"""The OpenPose recipe: the published network's size, rendered figures and their maps, and a run."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from jaxq.recipes import openpose_vgg, stick_figures
from jaxq.recipes.openpose import OpenPose


def posed(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return stick_figures.figures(count, size, np.random.default_rng(seed))


# --- the network -------------------------------------------------------------------------------------------------


def test_the_whole_network_has_the_published_parameters_and_shapes() -> None:
    model = nnx.eval_shape(lambda: OpenPose(nnx.Rngs(0)))
    # The Caffe model of the authors, pose_iter_440000.caffemodel, has 209,274,056 bytes: these floats and their names.
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 52_311_446
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((2, 184, 184, 3), np.float32)
    found = jax.eval_shape(lambda state, x: nnx.merge(graph, state).all_maps(x), state, image)
    assert [[a.shape for a in maps] for maps in found] == [[(2, 23, 23, 38), (2, 23, 23, 19)]] * 6


# --- figures -----------------------------------------------------------------------------------------------------


def test_figures_depend_on_their_seed_and_lie_in_the_image() -> None:
    joints = posed(50)
    assert joints.shape == (50, 18, 2) and joints.min() >= 0 and joints.max() <= 63
    assert np.array_equal(joints, posed(50)) and not np.array_equal(joints, posed(50, seed=1))
    first, again = (openpose_vgg.drawn(2, 16, 3) for _ in range(2))
    assert np.array_equal(first.images, again.images) and -0.5 <= first.images.min() < first.images.max() <= 0.5


def test_a_limb_has_its_colour_at_its_middle() -> None:
    """At the middle of a pixel row between neck and hip nothing but that limb is drawn."""
    joints = np.full((1, 18, 2), 2.0, np.float32)
    joints[0, 12], joints[0, 13] = (40, 20), (40, 60)  # left knee and ankle; all else in a corner
    joints[0, 11] = joints[0, 12]
    image = stick_figures.render(joints, 64, np.random.default_rng(0))[0]
    limb = stick_figures.LIMBS.index((12, 13))
    np.testing.assert_allclose(image[30:50, 40].mean(0), np.clip(stick_figures.COLORS[limb], 0.01, 0.99), atol=0.03)
    assert np.abs(image[30:50, 44] - image[30:50, 50].mean(0)).max() < 0.2  # the ground, and noise


def test_a_heat_map_peaks_at_its_joint() -> None:
    joints = posed(40)
    _, heat = stick_figures.maps(joints, 64)
    cells = np.clip(np.rint((joints - 3.5) / 8), 0, 7)
    inner = np.all((cells > 0) & (cells < 7), -1)  # the parabola needs both neighbours
    error = np.abs(stick_figures.peaks(heat) - joints).max(-1)
    assert inner.mean() > 0.5 and error[inner].max() < 0.01
    assert error.max() <= 4.0  # half a cell, at the border
    np.testing.assert_allclose(heat[..., 18], 1 - heat[..., :18].max(-1), rtol=1e-6)


def test_a_field_is_the_unit_vector_along_its_limb() -> None:
    joints = posed(5)
    fields, _ = stick_figures.maps(joints, 64)
    length = np.linalg.norm(fields.reshape(5, 8, 8, 19, 2), axis=-1)
    assert np.all(np.isclose(length, 1, atol=1e-5) | (length == 0))
    for limb, (a, b) in enumerate(stick_figures.LIMBS):
        middle = np.rint(((joints[:, a] + joints[:, b]) / 2 - 3.5) / 8).astype(int)
        at = fields[np.arange(5), middle[:, 1], middle[:, 0], 2 * limb : 2 * limb + 2]
        line = joints[:, b] - joints[:, a]
        np.testing.assert_allclose(at, line / np.linalg.norm(line, axis=-1, keepdims=True), atol=1e-5)


def test_pck_counts_joints_within_a_fifth_of_the_torso() -> None:
    joints = np.zeros((1, 18, 2), np.float32)
    joints[0, 5], joints[0, 8] = (30, 0), (0, 40)  # the torso is 50 long
    found = joints.copy()
    found[0, 0], found[0, 1], found[0, 2] = (9.9, 0), (0, -10.1), (8, 8)
    assert stick_figures.pck(joints, joints) == 1
    assert stick_figures.pck(found, joints) == pytest.approx(16 / 18)


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_smoke_run(tmp_path: pathlib.Path) -> None:
    openpose_vgg.run(tmp_path, smoke=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["ptq"]) == set(openpose_vgg.SMOKE.calibrations)
    assert summary["best_calibration"] in summary["ptq"] and summary["reload_equal"] is True
    assert summary["maps_differing"] == 0 and summary["maps_compared"] == 4 * 2 * 2 * 57
    assert summary["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert summary["artifact_pck"] == summary["ptq"][summary["best_calibration"]]["pck"]
    assert summary["tflite_bytes"] == (tmp_path / "model.tflite").stat().st_size
    before = (tmp_path / "model.tflite").read_bytes()
    openpose_vgg.run(tmp_path, smoke=True, resume=True)
    assert (tmp_path / "model.tflite").read_bytes() == before
