"""A film to draw on: body coordinates of its pixels, smooth shapes, bent tubes and random fields.

Body coordinates are in cm on a film 35 cm high: u to the image's right from the midline, v downwards from the film's
upper edge. Knows no anatomy. Arrays are single precision: it halves the time and its error is far below the noise.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.floating]

FILM_CM = 35.0
# Pixels between the samples of a tube; beyond 1 the bilinear splatting leaves a visible ripple.
_SPACING = 1.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Body coordinates of every pixel, and tables along u and v to look functions of one coordinate up in."""

    u: Floats
    v: Floats
    axis: Floats
    index_u: NDArray[np.int32]
    index_v: NDArray[np.int32]
    pitch: float
    to_pixel: NDArray[np.float64]

    def along_u(self, profile: NDArray[np.floating]) -> Floats:
        """Spread a function of u, given on `axis`, over the film."""
        return profile.astype(np.float32).take(self.index_u)

    def along_v(self, profile: NDArray[np.floating]) -> Floats:
        """Spread a function of v, given on `axis`, over the film."""
        return profile.astype(np.float32).take(self.index_v)


def ramp(x: Floats) -> Floats:
    """Smooth step: 0 below 0, 1 above 1."""
    t = np.clip(x, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def ball(squared_radius: Floats) -> Floats:
    """Relative thickness of an ellipsoid, sqrt(1 - r^2), 0 outside."""
    return np.asarray(np.sqrt(np.maximum(1.0 - squared_radius, 0.0)))


def make_grid(height: int, width: int, *, rotation: float, shift: tuple[float, float], scale: float) -> Grid:
    """Body coordinates of a film of `height` x `width` pixels.

    Args:
        height: Rows; they span FILM_CM.
        width: Columns.
        rotation: Of the body on the film, in radians, clockwise.
        shift: Of the body to the right and downwards, in cm.
        scale: Magnification of the body.
    """
    pitch = FILM_CM / height
    cosine, sine = math.cos(rotation), math.sin(rotation)
    x = ((np.arange(width) - (width - 1) / 2) * pitch - shift[0]) / scale
    y = ((np.arange(height) - (height - 1) / 2) * pitch - shift[1]) / scale
    u = (cosine * x)[None, :] + (sine * y)[:, None]
    v = (cosine * y)[:, None] - (sine * x)[None, :] + FILM_CM / 2
    # Tables are four times finer than the pixels and reach beyond any tilted corner.
    step, low, high = pitch / 4, -30.0, 65.0
    axis = np.arange(low, high, step, dtype=np.float32)
    index_u, index_v = (((w - low) / step + 0.5).astype(np.int32) for w in (u, v))
    zoom = scale / pitch
    to_pixel = np.array(
        [
            [cosine * zoom, -sine * zoom, (width - 1) / 2 + shift[0] / pitch + sine * zoom * FILM_CM / 2],
            [sine * zoom, cosine * zoom, (height - 1) / 2 + shift[1] / pitch - cosine * zoom * FILM_CM / 2],
        ]
    )
    return Grid(u.astype(np.float32), v.astype(np.float32), axis, index_u, index_v, pitch / scale, to_pixel)


def course(grid: Grid, length: float) -> NDArray[np.float64]:
    """Course 0..1 along a tube of `length` cm, sampled as `tubes` needs."""
    return np.linspace(0.0, 1.0, math.ceil(length / (_SPACING * grid.pitch)) + 2)


def tubes(
    grid: Grid,
    paths: NDArray[np.float64],
    radius: NDArray[np.float64],
    mass: NDArray[np.float64],
    *,
    hollow: float = 0.0,
) -> Floats:
    """Projected thickness of bent cylinders.

    Args:
        grid: The film.
        paths: Centre lines (P, N, 2) as u, v in cm; samples must lie about `_SPACING` pixels apart.
        radius: Half-widths (P, N) in cm.
        mass: Mean thickness (P, N) in cm seen across the tube.
        hollow: 0 for a solid cylinder; up to 1 for a pipe, whose walls stand out at both edges.

    Returns:
        Thickness (H, W) in cm.
    """
    # Single precision is 0.001 pixels here and twice as fast.
    tangent = np.gradient(paths, axis=1).astype(np.float32)
    length = np.hypot(tangent[..., 0], tangent[..., 1]) + np.float32(1e-9)
    count = max(2, math.ceil(2 * float(radius.max()) / (_SPACING * grid.pitch)))
    across = (np.arange(count, dtype=np.float32) + 0.5) / count * 2 - 1
    shape = np.sqrt(1 - across**2) - hollow * np.sqrt(np.maximum(0.55 - across**2, 0.0))
    shape /= shape.mean()
    offset = (radius / length)[..., None].astype(np.float32) * across
    u = paths[..., 0, None].astype(np.float32) - tangent[..., 1, None] * offset
    v = paths[..., 1, None].astype(np.float32) + tangent[..., 0, None] * offset
    weight = (2 * mass * length * radius / count)[..., None].astype(np.float32) * shape
    return _splat(grid, u.ravel(), v.ravel(), weight.ravel())


def _splat(grid: Grid, u: Floats, v: Floats, weight: Floats) -> Floats:
    """Spread `weight` (cm3) at points (u, v) over the four nearest pixels; gives thickness in cm."""
    height, width = grid.u.shape
    to_x, to_y = grid.to_pixel.astype(np.float32)
    x, y = to_x[0] * u + to_x[1] * v + to_x[2], to_y[0] * u + to_y[1] * v + to_y[2]
    inside = (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)
    x, y, weight = x[inside], y[inside], weight[inside] / np.float32(grid.pitch**2)
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, down = x - column, y - row
    first = row * width + column
    index = np.concatenate([first, first + 1, first + width, first + width + 1])
    lower = weight * down
    upper = weight - lower
    upper_right, lower_right = upper * right, lower * right
    weights = np.concatenate([upper - upper_right, upper_right, lower - lower_right, lower_right])
    return np.bincount(index, weights, height * width).reshape(height, width).astype(np.float32)


def cloud(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Floats:
    """Smooth random field of unit variance with details of `sigma` pixels."""
    stride = max(1, int(sigma / 1.3))
    height, width = -(-shape[0] // stride), -(-shape[1] // stride)
    coarse = gaussian_filter(rng.standard_normal((height, width), dtype=np.float32), sigma / stride, mode="wrap")
    return enlarge(coarse / coarse.std(), shape, stride)


def enlarge(coarse: Floats, shape: tuple[int, int], stride: int) -> Floats:
    """Linear interpolation of a field known at every `stride`-th pixel."""
    if stride == 1:
        return coarse
    rows, columns = (np.minimum(np.arange(n) / stride, m - 1.001) for n, m in zip(shape, coarse.shape, strict=True))
    top, left = rows.astype(np.int32), columns.astype(np.int32)
    down, right = (rows - top).astype(np.float32)[:, None], (columns - left).astype(np.float32)[None, :]
    across = coarse[:, left] * (1 - right) + coarse[:, left + 1] * right
    return np.asarray(across[top] * (1 - down) + across[top + 1] * down, dtype=np.float32)
