"""Radiograph to model input: one (S, S) uint8 square, and the way back to the film's pixels.

Knows no file format and no model; training and scoring both come through here, under one digest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cxr_ray.config import PreprocessConfig, digest_of
from cxr_ray.images.radiograph import Radiograph

IMPLEMENTATION = 2
"""Raise by one with any change in `images` that alters a model input: it is part of the digest."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the film lies in the model input: `original = model * scale + offset`, on each axis.

    Coordinates are continuous: pixel i covers [i, i + 1), so its centre is i + 0.5, and (0, 0) is the film's corner.
    """

    row_scale: float
    row_offset: float
    column_scale: float
    column_offset: float

    def point_on_film(self, row: float, column: float, *, rows: int, columns: int) -> tuple[float, float]:
        """A point of the model input as (row, column) on the film of that size; points outside move to its edge."""
        return (
            min(max(row * self.row_scale + self.row_offset, 0.0), float(rows)),
            min(max(column * self.column_scale + self.column_offset, 0.0), float(columns)),
        )

    def box_on_film(
        self, box: tuple[float, float, float, float], *, rows: int, columns: int
    ) -> tuple[float, float, float, float]:
        """A box (top, left, bottom, right) of the model input on the film, clipped to it."""
        top, left = self.point_on_film(box[0], box[1], rows=rows, columns=columns)
        bottom, right = self.point_on_film(box[2], box[3], rows=rows, columns=columns)
        return top, left, bottom, right

    def point_in_model(self, row: float, column: float) -> tuple[float, float]:
        """A point (row, column) of the film in the model input."""
        return (row - self.row_offset) / self.row_scale, (column - self.column_offset) / self.column_scale


def preprocess(radiograph: Radiograph, config: PreprocessConfig) -> tuple[NDArray[np.uint8], Placement]:
    """Resize to (S, S) with antialiasing; `pad` keeps the aspect ratio and centres the film on black."""
    rows, columns = radiograph.pixels.shape
    if radiograph.reduction:
        rows, columns = radiograph.header.rows or rows, radiograph.header.columns or columns
    height, width = _fitted(rows, columns, config)
    top, left = (config.size - height) // 2, (config.size - width) // 2
    square = np.zeros((config.size, config.size), dtype=np.uint8)
    square[top : top + height, left : left + width] = _resized(radiograph, height, width)
    row_scale, column_scale = rows / height, columns / width
    return square, Placement(row_scale, -top * row_scale, column_scale, -left * column_scale)


def preprocess_digest(config: PreprocessConfig) -> str:
    """Digest of the settings and of the code that turn bytes into a model input; equal digests, equal inputs."""
    return digest_of({"implementation": IMPLEMENTATION, **config.model_dump(mode="json")})


def _fitted(rows: int, columns: int, config: PreprocessConfig) -> tuple[int, int]:
    """Height and width of the film inside the model input; a very long film keeps at least one pixel across."""
    if config.fit == "stretch":
        return config.size, config.size
    scale = config.size / max(rows, columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _resized(radiograph: Radiograph, height: int, width: int) -> NDArray[np.uint8]:
    """The film as (height, width) 0..255, rounded; a reduced film in the very place that the whole would have.

    Bilinear with antialiasing, like Pillow and torch, by two sparse products: 4 ms for 2500 x 3000 pixels, torch 8.
    """
    step, (rows, columns) = 2**radiograph.reduction, radiograph.pixels.shape
    length, breadth = rows, columns
    if radiograph.reduction:
        length, breadth = radiograph.header.rows or rows, radiograph.header.columns or columns
    down = _triangle(length, height, step=step, num_samples=rows)
    across = _triangle(breadth, width, step=step, num_samples=columns)
    resized = (across @ np.ascontiguousarray((down @ radiograph.pixels).T)).T
    grey: NDArray[np.uint8] = np.clip(np.rint(resized * np.float32(255.0)), 0.0, 255.0).astype(np.uint8)
    return grey


def _triangle(length: int, target: int, *, step: int, num_samples: int) -> csr_array:
    """Weights (target, num_samples) of bilinear interpolation with antialiasing from every `step`-th pixel of a film.

    Sample i is the film's pixel `step * i` and no mean of `step` pixels around the middle of them. Taking it for one
    shifts the film: by up to 15 grey levels of 255 at an edge (step 4, 2500 x 3000 pixels to 512) instead of 3.
    """
    scale = length / target
    support = max(scale, float(step))
    centres = (np.arange(target) + 0.5) * scale
    first = np.floor((centres - support - 0.5) / step).astype(np.int64)
    index = first[:, None] + np.arange(int(2.0 * support / step) + 3)
    inside = (index >= 0) & (index < num_samples)
    weights = np.where(inside, np.maximum(1.0 - np.abs(index * step + 0.5 - centres[:, None]) / support, 0.0), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    starts = np.arange(0, weights.size + 1, weights.shape[1])
    columns = np.clip(index, 0, num_samples - 1).ravel()
    return csr_array((weights.astype(np.float32).ravel(), columns, starts), shape=(target, num_samples))
