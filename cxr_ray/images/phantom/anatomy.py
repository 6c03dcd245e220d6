"""Normal chest anatomy as thickness maps in centimetres, for synthetic frontal radiographs.

A radiograph is close to the logarithm of a line integral, so organs are drawn as smooth thickness maps that add up:
ribs show through the heart and the heart through ribs without further rules. Coordinates as in canvas.py. Knows
nothing of findings, files or DICOM.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ray.images.phantom.canvas import Floats, Grid, ball, cloud, course, make_grid, ramp, tubes

# Share of soft tissue that aerated lung lacks: lung at inspiration has a density of about 0.27 g/cm3.
AERATION = 0.73


@dataclass(frozen=True, slots=True)
class Body:
    """One patient; lengths in cm."""

    sex: str
    age: int
    half_width: float
    depth: float
    wall: float
    apex: float
    dome: float
    dome_gap: float
    heart_ratio: float
    heart_tilt: float
    knob: float
    breast: float
    scoliosis: float
    lateral_drop: float
    clavicle: float
    rib_drop: float
    gas: float


@dataclass(frozen=True, slots=True)
class Pose:
    """How the patient stands before the film; shifts in cm, angles in radians."""

    view_position: str
    rotation: float
    shift_u: float
    shift_v: float
    scale: float
    yaw: float
    expiration: float


@dataclass(frozen=True, slots=True)
class Chest:
    """Thickness maps of one patient in one pose, (H, W) in cm."""

    soft: Floats
    bone: Floats
    air: Floats
    heart: Floats
    vessels: Floats
    reach: Floats
    below: Floats
    lung_top: float
    domes: tuple[float, float]


def draw_body(rng: np.random.Generator) -> Body:
    """A patient: women are smaller and have breast shadows, age widens the aorta."""
    female = bool(rng.random() < 0.45)
    age = int(np.clip(rng.normal(58, 17), 18, 92))
    return Body(
        sex="F" if female else "M",
        age=age,
        half_width=float(rng.normal(12.2 if female else 13.2, 0.55)),
        depth=float(rng.uniform(19.0, 25.0)),
        wall=float(rng.uniform(2.2, 5.0)),
        apex=float(rng.uniform(3.6, 5.2)),
        dome=float(rng.uniform(24.0, 26.0)),
        dome_gap=float(rng.uniform(0.4, 1.8)),
        heart_ratio=float(rng.uniform(0.38, 0.49)),
        heart_tilt=float(np.radians(rng.uniform(24.0, 42.0))),
        knob=float(rng.uniform(1.3, 1.7) + 0.008 * (age - 18)),
        breast=float(rng.uniform(0.6, 1.2)) if female else 0.0,
        scoliosis=float(rng.normal(0.0, 0.35)),
        lateral_drop=float(rng.uniform(3.2, 5.0)),
        clavicle=float(rng.uniform(-0.6, 0.8)),
        rib_drop=float(rng.uniform(6.5, 9.5)),
        gas=float(rng.uniform(0.0, 1.0)),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """A position: bedside films (AP) are more tilted, less inspired and more rotated than upright ones (PA)."""
    bedside = bool(rng.random() < 0.3)
    loose = 1.6 if bedside else 1.0
    return Pose(
        view_position="AP" if bedside else "PA",
        rotation=float(np.radians(np.clip(rng.normal(0.0, 1.6 * loose), -6.0, 6.0))),
        shift_u=float(rng.normal(0.0, 0.5 * loose)),
        shift_v=float(rng.normal(0.0, 0.6 * loose)),
        scale=float(rng.uniform(1.0, 1.16)),
        yaw=float(np.clip(rng.normal(0.0, 0.05 * loose), -0.15, 0.15)),
        expiration=float(rng.uniform(0.0, 1.4) + (1.2 if bedside else 0.0)),
    )


def place_grid(height: int, width: int, pose: Pose) -> Grid:
    """The film of `height` x `width` pixels seen from a body in `pose`."""
    return make_grid(height, width, rotation=pose.rotation, shift=(pose.shift_u, pose.shift_v), scale=pose.scale)


def wall_at(body: Body, v: Floats, bottom: float) -> Floats:
    """Inner half-width of the rib cage at height v: a quarter of a superellipse from the apex down to `bottom`."""
    t = np.clip((v - body.apex) / (bottom - body.apex), 0.0, 1.0)
    narrow = 1.0 - 0.04 * np.clip(v - bottom, 0.0, 6.0) / 6.0
    return np.asarray(body.half_width * narrow * (1.0 - (1.0 - t) ** 2.3) ** (1 / 2.1), dtype=np.float32)


def dome_at(body: Body, u: Floats, domes: tuple[float, float]) -> Floats:
    """Height v of the diaphragm at u; `domes` are the tops on the image's left and right."""
    top = np.where(u < 0, domes[0], domes[1])
    peak = 0.47 * body.half_width
    lateral = np.clip((np.abs(u) - peak) / (body.half_width - peak), 0.0, 1.3)
    medial = np.clip((peak - np.abs(u)) / peak, 0.0, 1.0)
    return (top + body.lateral_drop * lateral**2.2 + 1.3 * medial**2).astype(np.float32)


def _trunk(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of the body as if it were solid: trunk, neck and shoulders, and arms on bedside films."""
    axis = grid.axis
    side = body.half_width + body.wall
    half = side + 11.0 * np.exp(-((np.maximum(axis - 3.0, 0.0) / 6.5) ** 2)) + 0.05 * np.maximum(axis - 24.0, 0.0)
    across = np.abs(grid.u) / grid.along_v(half)
    # The slope of the trapezius muscle, from the sides of the neck out to the shoulders.
    out = np.maximum(np.abs(axis) - 4.2, 0.0)
    shoulder = 4.2 - 14.0 * np.exp(-out / 2.0) + 0.1 * out
    under = grid.v - grid.along_u(shoulder)
    thin = 0.5 + 0.5 * ramp(under / 9.0 + 0.1)
    trunk = body.depth * np.sqrt(np.maximum(1.0 - np.square(across * across), 0.0)) * thin * np.sqrt(ramp(under / 2.5))
    if pose.view_position == "AP":
        arm = (np.abs(grid.u) - (side + 3.6)) / 3.9
        trunk = np.maximum(trunk, 8.0 * ball(arm**2) * ramp((grid.v - 6.0) / 4.0))
    return np.asarray(trunk, dtype=np.float32)


def _lungs(grid: Grid, body: Body, pose: Pose, domes: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Thickness of aerated lung, reach (0 at the midline, 1 at the ribs) and depth below the diaphragm in cm."""
    axis = grid.axis
    bottom = body.dome + body.lateral_drop - pose.expiration
    wall = np.maximum(wall_at(body, axis, bottom), 1e-3)
    medial = 1.7 + 2.6 * np.exp(-np.maximum(axis - body.apex, 0.0) / 1.1)
    height = np.clip((axis - body.apex) / 9.0, 0.0, 1.0)
    depth = (body.depth - 6.5) * np.sqrt(height * (2 - height)) * (axis > body.apex)
    side = np.abs(grid.u)
    reach = side / grid.along_v(wall)
    air = grid.along_v(depth) * np.sqrt(np.maximum(1.0 - reach * reach * np.sqrt(reach), 0.0))
    air *= ramp((side - grid.along_v(medial)) / 0.7)
    below = grid.v - grid.along_u(dome_at(body, axis, domes))
    # Behind the dome the posterior recess still holds lung: the abdomen darkens slowly downwards.
    recess = 0.2 * np.exp(-np.maximum(below, 0.0) / 2.2)
    air *= recess + (1 - recess) * ramp(0.5 - below / 0.3)
    return air.astype(np.float32), reach, below


def heart_place(body: Body, pose: Pose) -> tuple[float, float, float]:
    """Centre (u, v) and half-width of the heart in cm; bedside films magnify it."""
    half = body.heart_ratio * body.half_width * (1.05 if pose.view_position == "AP" else 1.0)
    return 0.29 * half + 5.0 * pose.yaw, body.dome + body.dome_gap - pose.expiration - 0.58 * half + 0.3, half


def _heart(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of the heart; its left border lies on the image's right."""
    centre_u, centre_v, half = heart_place(body, pose)
    du, dv = grid.u - centre_u, grid.v - centre_v
    cosine, sine = math.cos(body.heart_tilt), math.sin(body.heart_tilt)
    along, across = (du * cosine + dv * sine) / (1.06 * half), (dv * cosine - du * sine) / (0.8 * half)
    # The apex is more pointed than the base.
    across *= 1.0 + 0.22 * along
    return 2.3 * half * ball(along * along + across * across)


def _mediastinum(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of the great vessels: vena cava, aortic knob, pulmonary trunk, descending aorta, hila."""
    axis = grid.axis
    knob_v = body.apex + 6.3
    base = 2.5 + 0.05 * np.clip(axis - body.apex, 0.0, 12.0)
    left = base + 0.9 * np.exp(-(((axis - knob_v - 3.6) / 1.7) ** 2))
    right = base + 0.6 * ramp((axis - knob_v) / 3.0)
    shifted = grid.u - 3.0 * pose.yaw
    edge = np.where(shifted > 0, grid.along_v(left), grid.along_v(right))
    column = 14.0 * ball((shifted / edge) ** 2)
    knob = 9.0 * ball(((grid.u - 1.5 - 0.6 * body.knob) / body.knob) ** 2 + ((grid.v - knob_v) / body.knob) ** 2)
    aorta = 4.0 * ball(((grid.u - 1.9) / 1.5) ** 2) * ramp((grid.v - knob_v) / 2.0)
    right_hilum = ((grid.u + 3.9) / 1.2) ** 2 + ((grid.v - knob_v - 4.2) / 2.0) ** 2
    left_hilum = ((grid.u - 4.1) / 1.2) ** 2 + ((grid.v - knob_v - 3.4) / 1.8) ** 2
    hila = 3.2 * (np.exp(-right_hilum) + np.exp(-left_hilum))
    return np.asarray(np.maximum(np.maximum(column, knob), aorta) + hila)


def _airways(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of air in the trachea and the main bronchi."""
    carina = body.apex + 8.2
    t = course(grid, 20.0)
    bend = 3.0 * pose.yaw
    trachea = np.stack([-0.25 * t + bend, -2.0 + (carina + 2.0) * t], axis=-1)
    right = np.stack([-0.25 + bend - 3.0 * t, carina + 3.0 * t], axis=-1)
    left = np.stack([-0.25 + bend + 4.0 * t, carina + 2.6 * t], axis=-1)
    radius = np.stack([np.full_like(t, 0.85), 0.65 - 0.15 * t, 0.6 - 0.15 * t])
    mass = np.stack([np.full_like(t, 1.5), 0.9 - 0.6 * t, 0.8 - 0.6 * t])
    return tubes(grid, np.stack([trachea, right, left]), radius, mass)


def _spine(grid: Grid, body: Body) -> Floats:
    """Thickness of vertebral bone: bodies with discs between them, pedicles and spinous processes."""
    axis = grid.axis
    bend = body.scoliosis * np.sin((axis - 4.0) / 9.0)
    # Vertebrae grow downwards: 1.9 cm at the neck to 2.9 cm at the loins.
    phase = 16.0 * np.log1p(np.maximum(axis + 8.0, 0.0) / 26.0)
    part = np.abs(phase - np.round(phase))
    block = 1.25 * (0.62 + 0.38 * ramp((0.46 - part) / 0.09))
    pedicle = 0.4 * np.exp(-((part / 0.17) ** 2))
    process = 0.4 * np.exp(-(((part - 0.5) / 0.16) ** 2))
    # Only the columns near the midline, which is a third of the film and of the time.
    near = np.flatnonzero(np.abs(grid.u).min(axis=0) < 3.5)
    band = slice(near[0], near[-1] + 1)
    rows = grid.index_v[:, band]
    x = grid.u[:, band] - bend.astype(np.float32)[rows]
    shape = (x / (1.35 + 0.02 * np.clip(axis, 0.0, 35.0)).astype(np.float32)[rows]) ** 2
    bone = np.zeros_like(grid.u)
    bone[:, band] = np.sqrt(np.maximum(1.0 - shape * shape, 0.0)) * block.astype(np.float32)[rows]
    bone[:, band] += np.exp(-(((np.abs(x) - 0.95) / 0.32) ** 2)) * pedicle.astype(np.float32)[rows]
    bone[:, band] += np.exp(-((x / 0.35) ** 2)) * process.astype(np.float32)[rows]
    return bone


def _ribs(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of ten pairs of ribs, each a bent loop: back, side, front. Brighter where seen along their course."""
    number = np.arange(10)
    bottom = body.dome + body.lateral_drop - pose.expiration
    spacing = (bottom - body.apex - 3.0) / 10.2
    start = body.apex + 0.6 + spacing * number + 0.015 * number**2
    drop = body.rib_drop * np.array([0.45, 0.66, 0.82, 0.93, 1.0, 1.03, 1.05, 1.05, 1.0, 0.9])
    reach = wall_at(body, (start + 0.45 * drop).astype(np.float32), bottom) + 0.35
    reach[0] = max(reach[0] * 0.8, 5.6)
    end = np.radians(np.array([150, 152, 150, 148, 146, 143, 138, 130, 120, 105]))
    t = course(grid, 26.0)
    phi = 0.12 + (end[:, None] - 0.12) * t
    u = reach[:, None] * np.sin(phi)
    v = start[:, None] + drop[:, None] * ((1 - np.cos(phi)) / 2) ** 1.15 - 0.55 * np.sin(np.minimum(2 * phi, np.pi))
    w = 0.38 * body.depth * np.cos(phi)
    covered = np.sqrt(np.gradient(u, axis=1) ** 2 + np.gradient(v, axis=1) ** 2 + np.gradient(w, axis=1) ** 2)
    seen = np.hypot(np.gradient(u, axis=1), np.gradient(v, axis=1))
    fade = np.clip((1.0 - t) / 0.12, 0.0, 1.0)
    mass = 0.36 * np.minimum(covered / seen, 1.6) * fade * (1.0 - 0.3 * np.clip((phi - 1.6) / 0.6, 0.0, 1.0))
    radius = np.broadcast_to(0.52 + 0.1 * np.sin(phi), u.shape)
    paths = np.stack([np.concatenate([-u * (1 + pose.yaw), u * (1 - pose.yaw)]), np.concatenate([v, v])], axis=-1)
    return tubes(grid, paths, np.concatenate([radius, radius]), np.concatenate([mass, mass]), hollow=0.55)


def _girdle(grid: Grid, body: Body, pose: Pose) -> Floats:
    """Thickness of clavicles, shoulder blades and upper arm bones."""
    t = course(grid, 18.0)
    inner = 0.5 if pose.view_position == "AP" else 2.0
    lift = body.clavicle + (0.8 if pose.view_position == "AP" else 0.0)
    v0, side = body.apex + 3.6 - 0.5 * lift, body.half_width + 2.4
    clavicle = np.stack([2.0 + (side - 1.6) * t, v0 - (3.0 + lift) * t + 0.7 * np.sin(2 * np.pi * t)], axis=-1)
    blade = np.stack([side + inner - 0.4 - 3.2 * t**1.3, body.apex + 4.2 + 11.5 * t], axis=-1)
    spine = np.stack([side + inner + 1.0 - 6.0 * t, body.apex + 2.6 + 3.2 * t], axis=-1)
    arm = np.stack([side + inner + 3.2 + 0.8 * t, body.apex + 3.0 + 14.0 * t], axis=-1)
    one = np.ones_like(t)
    paths = np.stack([clavicle, blade, spine, arm])
    radius = np.stack([0.5 + 0.25 * (2 * t - 1) ** 2, 0.35 * one, 0.4 * one, 1.3 - 0.2 * t])
    mass = np.stack([0.75 * one, 0.5 * one, 0.4 * one, 1.1 * one])
    mirrored = paths * np.array([-1.0, 1.0])
    turn = np.array([3.0 * pose.yaw, 0.0])
    paths = np.concatenate([paths, mirrored])
    paths[[0, 4]] += turn * (1 - t)[None, :, None]
    return tubes(grid, paths, np.concatenate([radius, radius]), np.concatenate([mass, mass]), hollow=0.55)


def _vessels(grid: Grid, body: Body, rng: np.random.Generator) -> Floats:
    """Thickness of the pulmonary vessels: trees that leave each hilum and split three times."""
    roots = 12
    hilum_v = body.apex + 10.2
    side = np.repeat([-1.0, 1.0], roots)
    angle = np.tile(np.linspace(-1.25, 1.35, roots), 2) + rng.normal(0, 0.12, 2 * roots)
    place = np.stack([side * 3.7, hilum_v + np.tile(np.linspace(-1.2, 1.6, roots), 2)], axis=-1)
    radius = rng.uniform(0.24, 0.42, 2 * roots) * (1 + 0.2 * np.sin(angle))
    total = np.zeros_like(grid.u)
    for length in (3.4, 3.2, 2.8, 2.4):
        t = course(grid, length)
        heading = angle[:, None] + rng.normal(0, 0.35, (len(angle), 1)) * t
        reach = length * rng.uniform(0.75, 1.25, (len(angle), 1)) / len(t)
        step = np.stack([side[:, None] * np.cos(heading), np.sin(heading)], axis=-1) * reach[..., None]
        path = place[:, None, :] + np.cumsum(step, axis=1)
        width = radius[:, None] * (1 - 0.25 * t)
        total += tubes(grid, path, width, 2.8 * width)
        side, place, radius = np.repeat(side, 2), np.repeat(path[:, -1], 2, axis=0), np.repeat(radius * 0.66, 2)
        fork = np.tile([-1.0, 1.0], len(angle)) * rng.uniform(0.2, 0.5, 2 * len(angle))
        angle = np.repeat(heading[:, -1], 2) + fork
    return total


def _abdomen_and_breasts(grid: Grid, body: Body, below: Floats, domes: tuple[float, float]) -> Floats:
    """Soft tissue in cm added by breasts and liver, less the gas of the stomach."""
    added = 1.5 * ramp(below / 4.0) * ramp((2.0 - grid.u) / 6.0)
    if body.breast:
        centre = 0.58 * body.half_width
        breast = ((np.abs(grid.u) - centre) / (5.6 * body.breast)) ** 2 + (
            (grid.v - 19.5 - 1.5 * body.breast) / (5.0 * body.breast)
        ) ** 2
        added += 3.6 * body.breast * ball(breast)
    if body.gas > 0.35:
        size = 1.2 + 1.6 * body.gas
        bubble = ((grid.u - 0.45 * body.half_width) / (1.3 * size)) ** 2 + (
            (grid.v - domes[1] - 0.9 - size) / size
        ) ** 2
        added -= 5.0 * body.gas * ball(bubble)
    return added.astype(np.float32)


def _texture(grid: Grid, body: Body, air: Floats, below: Floats, rng: np.random.Generator) -> Floats:
    """Air in cm that makes lung mottled, and, in some patients, gas in the bowel."""
    fine = cloud(air.shape, 0.11 / grid.pitch, rng) + cloud(air.shape, 0.3 / grid.pitch, rng)
    coarse = cloud(air.shape, 1.1 / grid.pitch, rng)
    gas = 2.2 * body.gas * np.clip(coarse - 0.9, 0.0, 1.0) * ramp((below - 2.0) / 2.0)
    return np.asarray(0.018 * air * fine + 0.15 * coarse + gas, dtype=np.float32)


def draw_chest(
    grid: Grid, body: Body, pose: Pose, rng: np.random.Generator, *, raised: tuple[float, float] = (0.0, 0.0)
) -> Chest:
    """Draw a patient in a pose.

    Args:
        grid: The film.
        body: The patient.
        pose: The position.
        rng: Source of the vessels' courses.
        raised: How far, in cm, the diaphragm stands above its normal place on the image's left and right.

    Returns:
        Thickness maps; `soft` already lacks the lungs' air and holds heart and vessels in it.
    """
    right = body.dome - pose.expiration
    domes = (right - raised[0], right + body.dome_gap - raised[1])
    air, reach, below = _lungs(grid, body, pose, domes)
    heart = _heart(grid, body, pose)
    tissue = np.minimum(np.maximum(heart, _mediastinum(grid, body, pose)), air)
    air = air - tissue
    vessels = np.minimum(_vessels(grid, body, rng), 0.5 * air)
    soft = _trunk(grid, body, pose) - AERATION * air + _abdomen_and_breasts(grid, body, below, domes)
    soft -= 0.8 * _airways(grid, body, pose) + _texture(grid, body, air, below, rng)
    bone = _spine(grid, body) + _ribs(grid, body, pose) + _girdle(grid, body, pose)
    return Chest(soft, bone, air, heart, vessels, reach, below, body.apex, domes)


def lung_mask(chest: Chest) -> NDArray[np.bool_]:
    """The lungs (H, W): above the diaphragm, where at least 1 cm of lung is in the beam, behind the heart too.

    Lesions do not change it: a lung full of fluid is still the place where to look.
    """
    return np.asarray((chest.air > 1.0) & (chest.below < 0.3), dtype=np.bool_)
