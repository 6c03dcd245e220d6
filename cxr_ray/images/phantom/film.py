"""From thickness maps to the grey values of a synthetic film: attenuation, scatter, noise, contrast, edges, marker.

Knows nothing of anatomy or findings.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cxr_ray.images.phantom.canvas import Floats, enlarge

# Linear attenuation per cm near 70 keV effective: soft tissue, and bone beyond the soft tissue it displaces.
SOFT_PER_CM = 0.19
BONE_PER_CM = 0.42

_LETTERS = {"L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111")}
_LETTERS["R"] = ("11110", "10001", "10001", "11110", "10100", "10010", "10001")


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a film is exposed and shown; `margins` are the shuttered shares at top, bottom, left and right."""

    scatter: float
    noise: float
    blur_cm: float
    centre: float
    width: float
    gamma: float
    flatten: float
    margins: tuple[float, float, float, float]
    shutter: float
    marker: str
    marker_place: tuple[float, float]
    marker_cm: float


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """An exposure: a third of the films are collimated, most carry a side marker."""
    margins = rng.uniform(0.01, 0.06, 4) * (rng.random(4) < 0.6) * (rng.random() < 0.35)
    marker = str(rng.choice(["", "L", "R"], p=[0.3, 0.45, 0.25]))
    edge = float(rng.uniform(0.06, 0.13))
    return Exposure(
        scatter=float(rng.uniform(0.1, 0.35)),
        noise=float(rng.uniform(0.0015, 0.005)),
        blur_cm=float(rng.uniform(0.035, 0.07)),
        centre=float(rng.uniform(-0.15, 0.15)),
        width=float(rng.uniform(2.5, 3.4)),
        gamma=float(rng.uniform(0.85, 1.2)),
        flatten=float(rng.uniform(0.0, 0.45)),
        margins=(float(margins[0]), float(margins[1]), float(margins[2]), float(margins[3])),
        shutter=float(rng.choice([0.0, 0.04, 0.12])),
        marker=marker,
        marker_place=(float(rng.uniform(0.05, 0.3)), 1 - edge if marker == "L" else edge),
        marker_cm=float(rng.uniform(0.9, 1.6)),
    )


def _coarse_blur(image: Floats, sigma: float) -> Floats:
    """Wide Gaussian blur on every eighth pixel, brought back by linear interpolation."""
    return enlarge(gaussian_filter(image[::8, ::8], sigma / 8, mode="nearest"), image.shape, 8)


def expose(soft: Floats, bone: Floats, exposure: Exposure, rng: np.random.Generator, *, pitch: float) -> Floats:
    """Grey values of a film, bright where dense.

    Args:
        soft: Soft tissue (H, W) in cm.
        bone: Bone (H, W) in cm.
        exposure: Settings of the film.
        rng: Source of the quantum noise.
        pitch: Size of a pixel in cm.

    Returns:
        Grey values (H, W), 0..1.
    """
    attenuation = SOFT_PER_CM * np.maximum(soft, 0.0) + BONE_PER_CM * bone
    attenuation = gaussian_filter(attenuation, exposure.blur_cm / pitch, mode="nearest", truncate=3.0)
    primary = np.exp(-attenuation)
    # Scatter adds a veil that is strongest where little primary radiation arrives.
    signal = primary + exposure.scatter * 0.1 * _coarse_blur(primary, 3.0 / pitch)
    optical = -np.log(signal)
    grain = rng.standard_normal(soft.shape, dtype=np.float32)
    # Quantum noise of a logarithm: standard deviation as one over the root of the number of quanta.
    optical += exposure.noise / pitch * 0.1 * grain / np.sqrt(signal)
    return _develop(optical, exposure, pitch)


def _develop(optical: Floats, exposure: Exposure, pitch: float) -> Floats:
    """Equalise, apply the film's S-shaped curve, shutter the edges and stamp the marker."""
    # Typical optical depth of the lungs is 2, of the abdomen 4.
    optical = optical - exposure.flatten * (_coarse_blur(optical, 4.0 / pitch) - 3.0)
    x = (optical - 3.0 - exposure.centre) / exposure.width
    grey = (0.5 + 0.5 * np.tanh(1.9 * x)) ** exposure.gamma
    framed = np.full_like(grey, exposure.shutter)
    inside = open_field(grey.shape, exposure)
    framed[inside] = grey[inside]
    return _stamp(framed, exposure, pitch)


def open_field(shape: tuple[int, ...], exposure: Exposure) -> tuple[slice, slice]:
    """The part of a film of `shape` that the shutter leaves free."""
    height, width = shape
    top, bottom, left, right = (
        round(m * n) for m, n in zip(exposure.margins, (height, height, width, width), strict=True)
    )
    return slice(top, height - bottom), slice(left, width - right)


def _stamp(grey: Floats, exposure: Exposure, pitch: float) -> Floats:
    """Put the side marker on the film."""
    if not exposure.marker:
        return grey
    glyph = np.array([[int(dot) for dot in row] for row in _LETTERS[exposure.marker]], dtype=np.float32)
    dot = max(1, round(exposure.marker_cm / pitch / len(glyph)))
    glyph = np.kron(glyph, np.ones((dot, dot), dtype=np.float32))
    height, width = grey.shape
    row = min(int(exposure.marker_place[0] * height), height - glyph.shape[0])
    column = min(int(exposure.marker_place[1] * width), width - glyph.shape[1])
    stamped = grey.copy()
    place = (slice(row, row + glyph.shape[0]), slice(column, column + glyph.shape[1]))
    stamped[place] = np.maximum(stamped[place], 0.9 * glyph)
    return stamped
