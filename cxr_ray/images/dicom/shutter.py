"""Which pixels lie outside a display shutter or an X-ray collimator.

Works on the numbers of the two modules, which describe their geometry in the same words, and makes a mask of them.
Knows no header and no grey value: what becomes of the pixels outside is decided where they are shown.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_OPEN = 0.05
"""An opening that leaves less than this share of the film is taken for a slip, such as edges that are all 0."""
MOST_VERTICES = 256
"""A polygon of more vertices is taken for a slip too: each costs a pass over the film."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a shutter or collimator leaves free, in pixels of the film, of which the upper left is row 1, column 1.

    `rectangle` is the left and right column, the upper and lower row; `circle` the row and column of its centre and
    its radius; `polygon` the row and column of each vertex. A shape that is not used is None or empty; of several the
    part common to all is free. Source: PS3.3 C.7.6.11, C.8.7.3.
    """

    rectangle: tuple[float, float, float, float] | None = None
    circle: tuple[float, float, float] | None = None
    polygon: tuple[tuple[float, float], ...] = ()


def outside(opening: Opening, shape: tuple[int, int], *, step: int = 1) -> Mask | None:
    """The pixels (H, W) outside `opening`, None where that is none or almost all of them.

    The pixels are the film's on every `step`-th row and column, beginning with the first. A pixel counts by its
    centre, and one whose centre lies on an edge of a rectangle or a circle is inside.
    """
    row, column = (1.0 + step * np.arange(length, dtype=np.float64) for length in shape)
    row, column = row[:, None], column[None, :]
    inside = np.ones(shape, dtype=np.bool_)
    if opening.rectangle:
        left, right, upper, lower = opening.rectangle
        inside &= (column >= left) & (column <= right) & (row >= upper) & (row <= lower)
    if opening.circle:
        centre_row, centre_column, radius = opening.circle
        inside &= np.hypot(row - centre_row, column - centre_column) <= radius
    if len(opening.polygon) <= MOST_VERTICES and opening.polygon:
        inside &= _inside_polygon(opening.polygon, row, column)
    return None if inside.all() or inside.mean() < LEAST_OPEN else ~inside


def _inside_polygon(vertices: tuple[tuple[float, float], ...], row: FloatArray, column: FloatArray) -> Mask:
    """Which points of rows (H, 1) and columns (1, W) have an odd number of edges to their left."""
    inside = np.zeros((row.size, column.size), dtype=np.bool_)
    for (row_a, column_a), (row_b, column_b) in zip(vertices, (*vertices[1:], vertices[0]), strict=True):
        if row_a != row_b:
            crossing = column_a + (row - row_a) * ((column_b - column_a) / (row_b - row_a))
            inside ^= ((row >= row_a) != (row >= row_b)) & (column >= crossing)
    return inside
