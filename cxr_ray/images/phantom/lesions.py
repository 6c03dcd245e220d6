"""The eight findings of the synthetic radiographs: what each adds to the thickness maps, and its mask.

A lesion is what it adds to the soft tissue and to the bone or metal, the share of the lung it replaces, and the
pixels it changes. Heart size and diaphragm change the anatomy itself. Knows nothing of files or DICOM.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from cxr_ray.images.phantom.anatomy import (
    AERATION,
    Body,
    Chest,
    Pose,
    dome_at,
    draw_chest,
    heart_place,
    lung_mask,
)
from cxr_ray.images.phantom.canvas import Floats, Grid, ball, cloud, ramp, tubes

Mask = NDArray[np.bool_]

FINDINGS = (
    "Cardiomegaly",
    "Pleural_Effusion",
    "Consolidation",
    "Mass",
    "Nodule",
    "Pneumothorax",
    "Hemidiaphragm_Elevation",
    "Pacemaker",
)


# Small lesions keep this share of the film away from its edges: collimation hides up to 0.06.
_EDGE = 0.07


@dataclass(frozen=True, slots=True)
class Scene:
    """What a lesion is drawn into; `air` is the lung, in cm, that earlier lesions have left."""

    grid: Grid
    body: Body
    pose: Pose
    chest: Chest
    air: Floats


@dataclass(frozen=True, slots=True)
class Lesion:
    """One finding: soft tissue and metal added in cm, share of the lung replaced (0..1), pixels changed."""

    soft: Floats
    cover: Floats
    mask: Mask
    metal: Floats | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A patient in a pose with findings: soft tissue and bone (H, W) in cm, one mask per finding present, the lungs."""

    soft: Floats
    bone: Floats
    masks: dict[str, Mask]
    lungs: Mask


def _above(field: Floats, share: float) -> Mask:
    """Pixels above a share of the field's maximum."""
    return np.asarray(field > share * field.max(), dtype=np.bool_)


def _side(rng: np.random.Generator) -> float:
    """-1 for the image's left, +1 for its right."""
    return -1.0 if rng.random() < 0.5 else 1.0


def _place(scene: Scene, rng: np.random.Generator, *, margin: float) -> tuple[float, float]:
    """A place (u, v) in cm with much lung left around it, `margin` cm away from wall and diaphragm."""
    count = 60
    half = scene.body.half_width
    u = rng.uniform(3.4, half - 1.0, count) * rng.choice([-1.0, 1.0], count)
    v = rng.uniform(scene.body.apex + 2.0 + 0.5 * margin, max(scene.chest.domes), count)
    height, width = scene.air.shape
    depth = np.full(count, np.inf)
    for du, dv in ((0.0, 0.0), (margin, 0.0), (-margin, 0.0), (0.0, margin), (0.0, -margin)):
        x, y = scene.grid.to_pixel[:, :2] @ np.stack([u + du, v + dv]) + scene.grid.to_pixel[:, 2:]
        inside = (np.abs(x / width - 0.5) < 0.5 - _EDGE) & (np.abs(y / height - 0.5) < 0.5 - _EDGE)
        column, row = np.clip(x, 0, width - 1).astype(int), np.clip(y, 0, height - 1).astype(int)
        depth = np.minimum(depth, np.where(inside, scene.air[row, column], 0.0))
    good = depth > 0.45 * scene.air.max()
    best = int(np.argmax(good)) if good.any() else int(np.argmax(depth))
    return float(u[best]), float(v[best])


def _effusion(scene: Scene, rng: np.random.Generator) -> Lesion:
    """Fluid that fills the lung's base up to a meniscus which climbs at the wall."""
    grid, chest = scene.grid, scene.chest
    bottom = scene.body.dome + scene.body.lateral_drop - scene.pose.expiration
    cover = np.zeros_like(scene.air)
    first = _side(rng)
    sides = (first, -first) if rng.random() < 0.25 else (first,)
    for side in sides:
        level = bottom - rng.uniform(4.2, 11.0)
        climb = np.clip((chest.reach - 0.35) / 0.65, 0.0, 1.0)
        surface = level + rng.uniform(1.8, 3.0) * (1.0 - climb**2.2)
        cover = np.maximum(cover, ramp((grid.v - surface) / rng.uniform(0.5, 1.3)) * (grid.u * side > 0))
    soft = AERATION * scene.air * cover
    # Down to about 1 cm of fluid: on an upright film it also lies in the recess behind the dome, whose edge it hides.
    return Lesion(soft, cover, _above(soft, 0.08))


def _consolidation(scene: Scene, rng: np.random.Generator) -> Lesion:
    """One to two fluffy patches of airless lung with air-filled bronchi left in them."""
    grid = scene.grid
    cover = np.zeros_like(scene.air)
    for _ in range(1 + int(rng.random() < 0.35)):
        u, v = _place(scene, rng, margin=2.0)
        size, turn = rng.uniform(2.4, 4.6), rng.uniform(0, np.pi)
        du, dv = grid.u - u, grid.v - v
        along, across = du * math.cos(turn) + dv * math.sin(turn), dv * math.cos(turn) - du * math.sin(turn)
        radius = np.sqrt((along / (1.25 * size)) ** 2 + (across / (0.85 * size)) ** 2)
        radius = radius + 0.16 * cloud(radius.shape, 0.9 / grid.pitch, rng)
        cover = np.maximum(cover, rng.uniform(0.45, 0.75) * ramp((1.1 - radius) / 0.5))
        cover = cover * (1 - 0.3 * np.minimum(_bronchi(scene, (u, v), size, rng), 1.0))
    cover = cover * np.clip(1.0 + 0.15 * cloud(cover.shape, 0.4 / grid.pitch, rng), 0.0, 1.3)
    soft = AERATION * scene.air * cover
    return Lesion(soft, cover, _above(gaussian_filter(soft, 0.3 / grid.pitch), 0.3))


def _bronchi(scene: Scene, centre: tuple[float, float], size: float, rng: np.random.Generator) -> Floats:
    """Branching air-filled bronchi around `centre` as a share of the lung's depth."""
    count = 4
    t = np.linspace(0.0, 1.0, int(2 * size / scene.grid.pitch))
    away = np.sign(centre[0])
    angle = rng.uniform(-0.9, 0.9, (count, 1)) + 0.5 * t
    step = np.stack([away * np.cos(angle), np.sin(angle)], axis=-1) * (1.6 * size / len(t))
    start = np.array([centre[0] - 0.6 * away * size, centre[1]])
    radius = np.broadcast_to(0.09 + 0.05 * (1 - t), angle.shape)
    return tubes(scene.grid, start + np.cumsum(step, axis=1), radius, np.ones_like(radius))


def _rounded(
    scene: Scene, centre: tuple[float, float], radius: float, wobble: float, rng: np.random.Generator
) -> Floats:
    """Thickness of a lobulated ball of `radius` cm."""
    du, dv = scene.grid.u - np.float32(centre[0]), scene.grid.v - np.float32(centre[1])
    angle = np.arctan2(dv, du)
    first, second = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    outline = 1.0 + wobble * np.sin(2 * angle + first) + 0.7 * wobble * np.sin(5 * angle + second)
    # The root makes it flatter than a ball: solid lesions have a sharp edge, which is what makes small ones visible.
    return 2.0 * radius * np.sqrt(ball((du * du + dv * dv) / (radius * outline) ** 2))


def _mass(scene: Scene, rng: np.random.Generator) -> Lesion:
    """A lobulated ball of 4 to 8 cm."""
    radius = rng.uniform(2.1, 3.8)
    centre = _place(scene, rng, margin=0.7 * radius)
    ball_cm = np.minimum(_rounded(scene, centre, radius, 0.07, rng), scene.air)
    soft = AERATION * rng.uniform(1.35, 1.7) * ball_cm
    return Lesion(soft, ball_cm / np.maximum(scene.air, 1e-3), _above(soft, 0.25))


def _nodule(scene: Scene, rng: np.random.Generator) -> Lesion:
    """One to three balls of 1.5 to 3 cm; the small ones are calcified, as those that are seen on films are."""
    soft = np.zeros_like(scene.air)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.45, 0.3, 0.25]))):
        radius = rng.uniform(0.8, 1.5)
        density = rng.uniform(1.9, 2.4) * (1.5 / radius) ** 0.6
        ball_cm = _rounded(scene, _place(scene, rng, margin=radius), radius, 0.04, rng)
        soft = np.maximum(soft, density * np.minimum(ball_cm, scene.air))
    return Lesion(soft, np.zeros_like(soft), _above(soft, 0.25))


def _pneumothorax(scene: Scene, rng: np.random.Generator) -> Lesion:
    """Free air along the wall and over the apex, without vessels, bounded by the line of the visceral pleura."""
    grid, body, chest = scene.grid, scene.body, scene.chest
    side, share, top = _side(rng), rng.uniform(0.5, 0.78), body.apex + rng.uniform(2.5, 6.0)
    height = np.clip((grid.v - top) / 7.0, 0.0, 1.0)
    # The gap narrows towards the base, where the lung touches the wall last.
    edge = share * np.sqrt(height * (2 - height)) + 0.5 * (1 - share) * ramp((grid.v - top - 4.0) / 14.0)
    distance = (chest.reach - edge) * body.half_width
    mine = (grid.u * side > 0) & (scene.air > 0.02 * scene.air.max())
    rim = ramp(distance / 0.2) * mine
    line = 0.9 * np.exp(-((distance / 0.12) ** 2)) * mine * (scene.air > 2.0)
    soft = -(1 - AERATION) * rng.uniform(0.75, 1.0) * scene.air * rim + line
    return Lesion(soft, rim, np.asarray((rim > 0.5) & (scene.air > 0.1 * scene.air.max()), dtype=np.bool_))


def _pacemaker(scene: Scene, rng: np.random.Generator) -> Lesion:
    """A generator below a clavicle and a lead through the vena cava to the heart's apex."""
    grid, body = scene.grid, scene.body
    side = -1.0 if rng.random() < 0.2 else 1.0
    centre = (side * rng.uniform(8.0, 10.0), body.apex + rng.uniform(5.0, 7.5))
    turn, size = rng.uniform(-0.5, 0.5), rng.uniform(1.9, 2.5)
    du, dv = grid.u - centre[0], grid.v - centre[1]
    along, across = (
        (du * math.cos(turn) + dv * math.sin(turn)) / size,
        (dv * math.cos(turn) - du * math.sin(turn)) / (0.8 * size),
    )
    box = (
        6.0
        * np.sqrt(np.maximum(1.0 - np.square(along * along) - np.square(across * across), 0.0))
        * (0.85 + 0.15 * (across > -0.4))
    )
    heart_u, heart_v, half = heart_place(body, scene.pose)
    stations = np.array(
        [
            (centre[0], centre[1] - 0.7 * size),
            (0.75 * centre[0], body.apex + 2.6),
            (0.3 * centre[0], body.apex + 3.4),
            (-1.7, body.apex + 6.0),
            (-2.1, heart_v - 0.5 * half),
            (-0.6, heart_v + 0.25 * half),
            (heart_u + 0.55 * half, heart_v + 0.42 * half),
        ]
    )
    lead = _wire(grid, stations)
    metal = (box + lead).astype(np.float32)
    return Lesion(np.zeros_like(metal), np.zeros_like(metal), _above(box, 0.2) | _above(lead, 0.3), metal)


def _wire(grid: Grid, stations: NDArray[np.float64]) -> Floats:
    """Thickness of a thin wire that runs smoothly past `stations` (N, 2) in cm."""
    count = int(45.0 / grid.pitch)
    knots = np.linspace(0.0, 1.0, len(stations))
    t = np.linspace(0.0, 1.0, count)
    path = np.stack([np.interp(t, knots, stations[:, k]) for k in range(2)], axis=-1)
    path = gaussian_filter1d(path, count / 22, axis=0, mode="nearest")
    return tubes(grid, path[None], np.full((1, count), 0.16), np.full((1, count), 2.5))


# Order of drawing: what fills much of the lung comes first, so that small things are placed where lung is left.
_DRAWERS: dict[str, Callable[[Scene, np.random.Generator], Lesion]] = {
    "Pneumothorax": _pneumothorax,
    "Pleural_Effusion": _effusion,
    "Mass": _mass,
    "Consolidation": _consolidation,
    "Nodule": _nodule,
    "Pacemaker": _pacemaker,
}


def _stream(seed: int, finding: str) -> np.random.Generator:
    """Random numbers of one finding, whichever others are present."""
    return np.random.default_rng((seed, FINDINGS.index(finding)))


def draw_subject(grid: Grid, body: Body, pose: Pose, present: tuple[str, ...], seed: int) -> Subject:
    """Draw a patient with findings.

    Args:
        grid: The film.
        body: The patient in health.
        pose: The position.
        present: Names out of FINDINGS.
        seed: Fixes vessels, and place, size and side of every finding.

    Returns:
        Thickness maps and a mask for each finding present.
    """
    raised = (0.0, 0.0)
    masks: dict[str, Mask] = {}
    if "Cardiomegaly" in present:
        body = replace(body, heart_ratio=float(_stream(seed, "Cardiomegaly").uniform(0.53, 0.67)))
    if "Hemidiaphragm_Elevation" in present:
        rng = _stream(seed, "Hemidiaphragm_Elevation")
        # The right dome already stands higher, so it must rise further to be abnormal.
        raised = (0.0, float(rng.uniform(5.0, 8.0))) if rng.random() < 0.5 else (float(rng.uniform(4.5, 7.5)), 0.0)
    chest = draw_chest(grid, body, pose, np.random.default_rng((seed, len(FINDINGS))), raised=raised)
    if "Cardiomegaly" in present:
        masks["Cardiomegaly"] = _above(chest.heart, 0.35) & (chest.below < 0.3)
    if "Hemidiaphragm_Elevation" in present:
        masks["Hemidiaphragm_Elevation"] = _dome_mask(grid, body, chest, raised)
    return _add_lesions(Scene(grid, body, pose, chest, chest.air), present, masks, seed)


def _dome_mask(grid: Grid, body: Body, chest: Chest, raised: tuple[float, float]) -> Mask:
    """The space between the normal and the raised diaphragm."""
    normal = (chest.domes[0] + raised[0], chest.domes[1] + raised[1])
    usual = grid.v - grid.along_u(dome_at(body, grid.axis, normal))
    return np.asarray((chest.below > 0) & (usual < 0) & (chest.reach < 0.97) & (np.abs(grid.u) > 2.4), dtype=np.bool_)


def _add_lesions(scene: Scene, present: tuple[str, ...], masks: dict[str, Mask], seed: int) -> Subject:
    """Draw the findings that lie in the anatomy, one after the other, each into what the last one left."""
    chest = scene.chest
    soft, bone, masks = chest.soft, chest.bone, dict(masks)
    vessels = chest.vessels
    for finding, draw in _DRAWERS.items():
        if finding not in present:
            continue
        lesion = draw(scene, _stream(seed, finding))
        soft, vessels = soft + lesion.soft, vessels * (1 - lesion.cover)
        bone = bone if lesion.metal is None else bone + lesion.metal
        scene = replace(scene, air=scene.air * (1 - lesion.cover))
        masks[finding] = lesion.mask
    masks = {name: masks[name] for name in FINDINGS if name in masks}
    return Subject(soft + AERATION * vessels, bone, masks, lung_mask(chest))
