"""One synthetic frontal chest radiograph with known findings and lesion masks.

The body is drawn in anatomy.py, the findings in lesions.py, the exposure in film.py. Knows no files. Not made from any
person; of no use for medicine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ray.errors import ConfigError
from cxr_ray.images.phantom.anatomy import draw_body, draw_pose, place_grid
from cxr_ray.images.phantom.canvas import FILM_CM
from cxr_ray.images.phantom.cohort import draw_labels
from cxr_ray.images.phantom.film import draw_exposure, expose, open_field
from cxr_ray.images.phantom.lesions import FINDINGS as FINDINGS
from cxr_ray.images.phantom.lesions import draw_subject


@dataclass(frozen=True, slots=True)
class Phantom:
    """One synthetic film.

    Attributes:
        pixels: Grey values (H, W), 0..1, bright where dense.
        masks: Pixels that each finding changes (F, H, W), all False where it is absent.
        lungs: The lungs (H, W), lesions in them included.
        labels: 1 where a finding is present, else 0 (F,).
        sex: "F" or "M".
        age: Years.
        view_position: "PA" or, for the looser bedside pose, "AP".
    """

    pixels: NDArray[np.float32]
    masks: NDArray[np.bool_]
    lungs: NDArray[np.bool_]
    labels: NDArray[np.int8]
    sex: str
    age: int
    view_position: str


# Streams of random numbers that are independent of each other; lesions.py uses the numbers below 100.
_STREAMS = {"labels": 100, "body": 101, "pose": 102, "exposure": 103, "noise": 104}

_SMALLEST_SIDE = 64


def make_phantom(seed: int, *, side: int = 384, present: tuple[str, ...] | None = None) -> Phantom:
    """Draw one film.

    Args:
        seed: Fixes everything; the same seed with other findings is the same patient in the same pose.
        side: Height of the film in pixels, at least 64; the width is 0.85 to 1.1 of it.
        present: Names of the findings to draw; None draws them by prevalence.

    Returns:
        The film.

    Raises:
        ConfigError: A name in `present` is not in FINDINGS, or `side` is too small.
    """
    if present is None:
        labels = draw_labels(_rng(seed, "labels"), 1)[0]
        present = tuple(name for name, label in zip(FINDINGS, labels, strict=True) if label)
    return draw_film(seed, seed, side, present)


def _rng(seed: int, stream: str) -> np.random.Generator:
    """Random numbers of one purpose."""
    return np.random.default_rng((seed, _STREAMS[stream]))


def draw_film(patient_seed: int, film_seed: int, side: int, present: tuple[str, ...]) -> Phantom:
    """Draw a film of a patient: body and lesions follow `patient_seed`; pose, exposure and noise `film_seed`."""
    unknown = sorted(set(present) - set(FINDINGS))
    if unknown or side < _SMALLEST_SIDE:
        raise ConfigError(
            f"A phantom needs findings out of {', '.join(FINDINGS)} and a side of at least {_SMALLEST_SIDE} pixels, "
            f"not {', '.join(unknown) or side}."
        )
    body = draw_body(_rng(patient_seed, "body"))
    pose_rng = _rng(film_seed, "pose")
    pose = draw_pose(pose_rng)
    # The film is at least as wide as the lungs, with 1.2 cm to spare.
    lungs = 2 * (body.half_width * pose.scale + 1.2) / FILM_CM
    grid = place_grid(side, round(side * min(max(pose_rng.uniform(0.85, 1.1), lungs), 1.1)), pose)
    subject = draw_subject(grid, body, pose, present, patient_seed)
    exposure = draw_exposure(_rng(film_seed, "exposure"))
    pixels = expose(subject.soft, subject.bone, exposure, _rng(film_seed, "noise"), pitch=FILM_CM / side)
    pixels = pixels.astype(np.float32, copy=False)
    masks = np.zeros((len(FINDINGS), *pixels.shape), dtype=np.bool_)
    seen = open_field(pixels.shape, exposure)
    for name, mask in subject.masks.items():
        masks[FINDINGS.index(name)][seen] = mask[seen]
    lung_pixels = np.zeros(pixels.shape, dtype=np.bool_)
    lung_pixels[seen] = subject.lungs[seen]
    labels = np.array([name in present for name in FINDINGS], dtype=np.int8)
    return Phantom(pixels, masks, lung_pixels, labels, body.sex, body.age, pose.view_position)
