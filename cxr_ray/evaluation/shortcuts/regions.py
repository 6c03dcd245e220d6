"""Regions of a film in model-input pixels, and images with a region hidden. Knows no scores and no files.

Shape: S input side. A region is a bool (S, S) array.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cxr_ray.evaluation.localisation.subjects import Subject

Region = NDArray[np.bool_]

BORDER = 0.1  # of the film's height and width, on each side: markers, annotations, shoulders, collimation
# Centres and half axes (row, column) as shares of the film. On phantom films they hold three quarters of the lungs;
# no film is so well centred that fixed regions could replace masks.
_LUNGS = ((0.46, 0.29), (0.46, 0.71))
_LUNG_AXES = (0.33, 0.18)
_FEATHER = 1 / 56  # of the input side over which the hiding fades: 4 of 224 pixels


def film(subject: Subject) -> Region:
    """The pixels that show the film, without the margin that pads it to a square."""
    return _within(subject, 0.0)


def borders(subject: Subject) -> Region:
    """All but the inner film: its outer tenth on each side, and the padding, whose width tells the film's shape."""
    return ~_within(subject, BORDER)


def fixed_lungs(subject: Subject) -> Region:
    """Two ellipses where lungs lie on a frontal film that is centred on the chest."""
    rows, columns = _shares(subject)
    inside = np.zeros(subject.pixels.shape, np.bool_)
    for row, column in _LUNGS:
        inside |= ((rows - row) / _LUNG_AXES[0]) ** 2 + ((columns - column) / _LUNG_AXES[1]) ** 2 <= 1
    return inside


def widened(region: Region, pixels: float) -> Region:
    """The region and what lies within so many pixels of it."""
    if not region.any():
        return region.copy()
    return np.asarray(distance_transform_edt(~region) <= pixels, np.bool_)


def hide(pixels: NDArray[np.uint8], hidden: Region, shown: Region) -> NDArray[np.uint8]:
    """The image (S, S) with `hidden` filled evenly with the mean of what stays visible of `shown`.

    The mean of the whole image would carry some of what is hidden (a white lung makes it brighter), and blurring keeps
    an effusion. The fill fades out over the visible pixels next to the region, none of the hidden ones shine through.

    Source: Fong and Vedaldi 2017, Interpretable explanations of black boxes by meaningful perturbation, section 4.1:
    constant, noise or blur; here the constant, which keeps least.
    """
    if not hidden.any():
        return pixels.copy()
    width = max(1.0, _FEATHER * len(pixels))
    weight = np.clip(1.0 - distance_transform_edt(~hidden) / width, 0.0, 1.0)
    visible = pixels[shown & (weight == 0.0)]
    level = float(visible.mean()) if visible.size else 0.0
    return np.asarray(np.rint(pixels * (1.0 - weight) + level * weight), np.uint8)


def _shares(subject: Subject) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the centres of the rows (S, 1) and columns (1, S) of the input lie on the film: 0..1, beyond in padding."""
    centres = np.arange(len(subject.pixels)) + 0.5
    place = subject.placement
    rows = (centres * place.row_scale + place.row_offset) / subject.height
    columns = (centres * place.column_scale + place.column_offset) / subject.width
    return rows[:, None], columns[None, :]


def _within(subject: Subject, margin: float) -> Region:
    """The film less a share of its height and width on each side."""
    rows, columns = _shares(subject)
    return (rows >= margin) & (rows < 1 - margin) & (columns >= margin) & (columns < 1 - margin)
