"""Stick figures with known joints, rendered with numpy: images, joints, and the maps that OpenPose learns from.

18 joints in the order of COCO as OpenPose has it: nose, neck, right shoulder, elbow, wrist, left shoulder, elbow,
wrist, right hip, knee, ankle, left hip, knee, ankle, right eye, left eye, right ear, left ear. Positions are (x, y) in
pixels, the centre of pixel [y, x] at (x, y). Every limb has its colour, so that left and right can be told apart.
"""

from __future__ import annotations

import colorsys

import numpy as np

STRIDE = 8  # pixels of an image to a cell of a map
# The 19 limbs. The last two, ear to shoulder, have fields but are not drawn.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
)  # fmt: skip
DRAWN = 17
JOINTS = 18
COLORS = np.array([colorsys.hsv_to_rgb(i / DRAWN, 1.0, (1.0, 0.6)[i % 2]) for i in range(DRAWN)], np.float32)
SIGMA = 1.0  # of a joint's Gaussian, in cells
# (joint, the joint that it hangs on, length, direction in degrees from straight down, how far the direction varies)
BONES = (
    (0, 1, 0.45, 180, 25), (14, 0, 0.28, 135, 10), (15, 0, 0.28, 225, 10), (16, 14, 0.28, 80, 15),
    (17, 15, 0.28, 280, 15), (2, 1, 0.4, 85, 15), (5, 1, 0.4, 275, 15), (3, 2, 0.6, 45, 75), (4, 3, 0.6, 80, 75),
    (6, 5, 0.6, 315, 75), (7, 6, 0.6, 280, 75), (8, 1, 1.1, 14, 6), (11, 1, 1.1, 346, 6), (9, 8, 0.8, 20, 35),
    (10, 9, 0.8, 0, 35), (12, 11, 0.8, 340, 35), (13, 12, 0.8, 0, 35),
)  # fmt: skip


def figures(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Joints of random poses, float32 [count, 18, 2], wholly inside images of `size` x `size`."""
    at = np.zeros((count, JOINTS, 2))
    for joint, parent, length, degrees, spread in BONES:
        angle = np.deg2rad(degrees + spread * rng.uniform(-1, 1, count))
        at[:, joint] = at[:, parent] + length * np.stack([-np.sin(angle), np.cos(angle)], -1)
    low, high = at.min(1, keepdims=True), at.max(1, keepdims=True)
    extent = size * rng.uniform(0.7, 0.88, (count, 1, 1))
    at = (at - low) * extent / (high - low).max(-1, keepdims=True)
    room = 0.94 * size - at.max(1, keepdims=True)
    return (0.03 * size + at + room * rng.uniform(0, 1, (count, 1, 2))).astype(np.float32)


def render(joints: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Images of figures, float32 [n, size, size, 3] in [0, 1]: limbs 2.4 pixels wide on a plain ground, and noise."""
    images = np.broadcast_to(rng.uniform(0, 0.35, (len(joints), 1, 1, 3)), (len(joints), size, size, 3))
    for (a, b), color in zip(LIMBS[:DRAWN], COLORS, strict=True):
        distance = _along(_pixels(size, 1), joints[:, a], joints[:, b])[0]
        share = np.clip(1.7 - distance, 0, 1)[..., None]
        images = images + share * (color - images)
    return np.clip(images + rng.normal(0, 0.03, images.shape), 0, 1).astype(np.float32)


def maps(joints: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The PAFs [n, h, w, 38] and heat maps [n, h, w, 19] of figures (Cao et al. 2017, equations 7 to 9).

    A heat map is exp(-d^2 / sigma^2), the last is 1 minus the greatest of them; a PAF is the unit vector of its limb
    within one cell of the limb, 0 elsewhere.
    """
    cells = _pixels(size, STRIDE)
    square = np.sum((cells[None, :, :, None] - joints[:, None, None]) ** 2, -1)
    heat = np.exp(-square / (SIGMA * STRIDE) ** 2)
    heat = np.concatenate([heat, 1 - heat.max(-1, keepdims=True)], -1)
    fields = [_field(cells, joints[:, a], joints[:, b]) for a, b in LIMBS]
    return np.concatenate(fields, -1).astype(np.float32), heat.astype(np.float32)


def _pixels(size: int, stride: int) -> np.ndarray:
    """The centres (x, y) of the cells of a map, in pixels of the image, [size / stride, size / stride, 2]."""
    line = np.arange(0, size, stride, dtype=np.float32) + np.float32((stride - 1) / 2)
    return np.stack(np.meshgrid(line, line), -1)


def _along(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances of points [h, w, 2] from segments [n, 2] to [n, 2], [n, h, w], and the segments' unit vectors."""
    line = (b - a)[:, None, None]
    length = np.maximum(np.linalg.norm(line, axis=-1, keepdims=True), 1e-6)
    offset = points[None] - a[:, None, None]
    share = np.clip(np.sum(offset * line, -1, keepdims=True) / length**2, 0, 1)
    return np.linalg.norm(offset - share * line, axis=-1), line / length


def _field(cells: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance, unit = _along(cells, a, b)
    return np.where(distance[..., None] <= STRIDE, unit, 0)


def peaks(heat: np.ndarray) -> np.ndarray:
    """The joints that heat maps show: of each its greatest cell, refined by the parabola through the logarithms there.

    Args:
      heat: [n, h, w, 18 or more]; what follows the 18th channel is ignored.

    Returns:
      [n, 18, 2], (x, y) in pixels. Exact for a Gaussian whose greatest cell is not on the border.
    """
    n, h, w = heat.shape[:3]
    flat = heat[..., :JOINTS].reshape(n, h * w, JOINTS)
    y, x = np.divmod(flat.argmax(1), w)
    log = np.log(np.maximum(heat[..., :JOINTS], 1e-3))
    log = np.pad(log, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")  # so that a border has neighbours; they move no peak
    figure, joint = np.arange(n)[:, None], np.arange(JOINTS)
    across = [log[figure, y + 1, x + 1 + d, joint] for d in (-1, 0, 1)]
    down = [log[figure, y + 1 + d, x + 1, joint] for d in (-1, 0, 1)]
    found = np.stack([_top(x, w - 1, *across), _top(y, h - 1, *down)], -1)
    return (found * STRIDE + (STRIDE - 1) / 2).astype(np.float32)


def _top(cell: np.ndarray, last: int, low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where the parabola through the values of three cells has its top; on the border, the cell."""
    bend = 2 * middle - low - high
    usable = (cell > 0) & (cell < last) & (bend > 1e-6)
    return cell + np.where(usable, np.clip((high - low) / (2 * np.where(usable, bend, 1)), -0.5, 0.5), 0)


def pck(found: np.ndarray, joints: np.ndarray, share: float = 0.2) -> float:
    """The share of joints found within `share` of the torso's length (Yang and Ramanan 2013; left shoulder to right
    hip).

    Args:
      found: [n, 18, 2].
      joints: the true ones, [n, 18, 2].
      share: of the torso.
    """
    torso = np.linalg.norm(joints[:, 5] - joints[:, 8], axis=-1, keepdims=True)
    return float(np.mean(np.linalg.norm(found - joints, axis=-1) <= share * torso))
