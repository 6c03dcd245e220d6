"""Heat maps that know nothing of the image: what every explanation must beat. Shapes: G heat-map grid."""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cxr_ray.evaluation.localisation.covering import Mask, coarser, covered
from cxr_ray.evaluation.localisation.subjects import Film
from cxr_ray.images.preprocess import Placement

Floats = NDArray[np.float64]
_NOISE_WIDTH = 1 / 8  # of the grid: blobs about as large as those of a heat map
_CENTRE_WIDTH = 1 / 4  # of the film


def random_map(uri: str, finding: str, *, film: Floats, seed: int) -> Floats:
    """Smooth noise (G, G) 0..1, the same for the same image, finding and seed; `film` (G, G) is the film's share."""
    grid = len(film)
    random = np.random.default_rng((seed, zlib.crc32(f"{uri}\n{finding}".encode())))
    noise = gaussian_filter(random.standard_normal((grid, grid)), sigma=max(1.0, grid * _NOISE_WIDTH))
    shifted: Floats = (noise - noise.min()) * film
    scaled: Floats = shifted / shifted.max()
    return scaled


def centre_map(*, film: Floats) -> Floats:
    """A Gaussian (G, G) on the middle of the film, whose `film` (G, G) is its share of each cell."""
    down, across = (_bell(np.asarray(film.any(axis=axis))) for axis in (1, 0))
    bell: Floats = np.outer(down, across) / (down.max() * across.max())
    return bell


def _bell(filled: NDArray[np.bool_]) -> Floats:
    """A Gaussian over the cells of one axis, on the middle of those that are filled."""
    cells = np.flatnonzero(filled)
    middle, length = (cells[0] + cells[-1]) / 2.0, len(cells)
    values: Floats = np.exp(-0.5 * ((np.arange(len(filled)) - middle) / (length * _CENTRE_WIDTH)) ** 2)
    return values


def film_share(placement: Placement, height: int, width: int, *, size: int, grid: int) -> Floats:
    """Share (G, G) of each cell of the heat map that the film covers."""
    whole = np.ones((height, width), bool)
    return covered(whole, coarser(placement, size / grid), size=grid)


class LesionPrior:
    """Where each finding usually is: the mean of the lesions of all other patients, in the heat map's cells.

    A strong control: it knows the finding, and nothing of the image.
    """

    def __init__(self, marks: Iterable[tuple[Film, dict[int, Mask]]], *, size: int, grid: int) -> None:
        """Add up the lesions of each finding and patient; `marks` are in film pixels."""
        self._sums: dict[int, dict[str, Floats]] = {}
        for film, lesions in marks:
            placement = coarser(film.placement, size / grid)
            for number, lesion in lesions.items():
                shares = self._sums.setdefault(number, {})
                added = covered(lesion, placement, size=grid)
                shares[film.patient] = shares.get(film.patient, np.zeros((grid, grid))) + added

    def others(self, number: int, patient: str) -> Floats | None:
        """The map (G, G) 0..1 of a finding from everyone but this patient; None where nobody else has it."""
        shares = [share for other, share in self._sums.get(number, {}).items() if other != patient]
        total = np.sum(shares, axis=0) if shares else np.zeros(1)
        return total / total.max() if total.max() > 0 else None


def as_bytes(maps: Sequence[Floats] | Floats) -> NDArray[np.uint8]:
    """Maps 0..1 as the score table keeps them, 0..255."""
    return np.rint(np.asarray(maps) * 255.0).astype(np.uint8)
