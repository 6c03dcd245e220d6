"""Marked pixels of a film on a coarser grid, by area. Knows arrays and where a film lies, no files."""

import numpy as np
from numpy.typing import NDArray

from cxr_ray.images.preprocess import Placement

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def covered(mask: Mask, placement: Placement, *, size: int) -> Floats:
    """Share 0..1 of each cell of a (size, size) grid that the marked pixels of a film (H, W) cover.

    `placement` is that of the grid: film = cell x scale + offset.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.zeros((size, size))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    down = _overlaps(placement.row_scale, placement.row_offset, size, np.arange(top, bottom))
    across = _overlaps(placement.column_scale, placement.column_offset, size, np.arange(left, right))
    shares: Floats = down @ mask[top:bottom, left:right].astype(np.float64) @ across.T
    return np.clip(shares, 0.0, 1.0)


def most_covered(shares: Floats) -> Mask:
    """As many cells as the shares (S, S) add up to, those with the largest; at least one where any is above 0.

    A cut at one half would lose a nodule smaller than a cell, and a line between two.
    """
    chosen = np.zeros(shares.size, bool)
    if shares.any():
        number = max(1, round(float(shares.sum())))
        chosen[np.argsort(-shares, axis=None, kind="stable")[:number]] = True
    return chosen.reshape(shares.shape)


def coarser(placement: Placement, factor: float) -> Placement:
    """The placement of a grid whose cells are `factor` times as long."""
    return Placement(
        placement.row_scale * factor, placement.row_offset, placement.column_scale * factor, placement.column_offset
    )


def lengths(start: float, stop: float, size: int) -> Floats:
    """How much of each of the cells [i, i + 1), i below `size`, lies in [start, stop)."""
    cells = np.arange(size)
    inside: Floats = np.clip(np.minimum(stop, cells + 1.0) - np.maximum(start, cells), 0.0, None)
    return inside


def _overlaps(scale: float, offset: float, size: int, pixels: NDArray[np.int64]) -> Floats:
    """Share (size, P) of each cell that each of these film pixels covers, along one axis."""
    starts = (np.arange(size) * scale + offset)[:, None]
    inside: Floats = np.clip(np.minimum(starts + scale, pixels + 1.0) - np.maximum(starts, pixels), 0.0, None)
    return inside / scale
