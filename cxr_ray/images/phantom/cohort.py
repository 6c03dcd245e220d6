"""Who has which findings on which film, and who is in which part, in an archive of synthetic radiographs.

Pure: numbers in, numbers out. Knows neither pixels nor files.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_ray.images.phantom.lesions import FINDINGS

# In the order of FINDINGS. The rarest are the easiest to see, so that few examples suffice to learn them.
PREVALENCES = (0.40, 0.30, 0.22, 0.15, 0.12, 0.08, 0.05, 0.02)
# An enlarged heart goes with effusion; 0.4 * 0.45 + 0.6 * 0.20 keeps effusion at 0.30.
_EFFUSION_WITH_LARGE_HEART, _EFFUSION_ELSE = 0.45, 0.20
# Share of findings still there on a patient's next film.
_PERSISTENCE = 0.8

PARTS = ("train", "validation", "test")
# Fewest positives of each finding in train, validation and test where there are enough to hand out.
_FEWEST = (0, 3, 4)


def draw_labels(rng: np.random.Generator, num: int) -> NDArray[np.bool_]:
    """Draw which findings `num` patients have, (num, F).

    The draws are stratified: each finding's uniform numbers fall one into each of `num` equal intervals, so prevalences
    hold as closely as they can for any `num`, and for one patient the draw is an ordinary one.
    """
    strata = np.stack([rng.permutation(num) for _ in FINDINGS], axis=1)
    uniform = (strata + rng.random((num, len(FINDINGS)))) / num
    chances = np.broadcast_to(np.array(PREVALENCES), uniform.shape).copy()
    heart = uniform[:, 0] < PREVALENCES[0]
    chances[:, 1] = np.where(heart, _EFFUSION_WITH_LARGE_HEART, _EFFUSION_ELSE)
    return np.asarray(uniform < chances)


def films_per_patient(num_images: int, rng: np.random.Generator) -> list[int]:
    """Split `num_images` into patients of 1 to 3 films."""
    films: list[int] = []
    while (left := num_images - sum(films)) > 0:
        films.append(min(left, int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))))
    return films


def follow(first: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Findings on a patient's films (count, F): most stay, some go and come so that prevalences hold; devices stay."""
    prevalence = np.array(PREVALENCES)
    stays = np.where(np.array(FINDINGS) == "Pacemaker", 1.0, _PERSISTENCE)
    comes = (1 - stays) * prevalence / (1 - prevalence)
    rows = [first]
    for _ in range(count - 1):
        rows.append(rng.random(len(FINDINGS)) < np.where(rows[-1], stays, comes))
    return np.stack(rows)


def assign_parts(
    positives: NDArray[np.int64], films: NDArray[np.int64], shares: tuple[float, float, float]
) -> list[str]:
    """Split patients so that each part gets its share of the positives of each finding, the rarest first.

    Source: Sechidis et al. 2011, iterative stratification; here deterministic, and validation and test get their
    fewest positives before anything else.

    Args:
        positives: Films with each finding per patient (P, F).
        films: Films per patient (P,).
        shares: Shares of PARTS; they add up to 1.

    Returns:
        The part of each patient.
    """
    counts = np.column_stack([positives, films])
    totals = counts.sum(axis=0)
    wanted = np.outer(shares, totals)
    # With fewer patients than the fewest add up to, train would get none.
    enough = (counts > 0).sum(axis=0) > sum(_FEWEST)
    fewest = np.minimum(np.array(_FEWEST)[:, None], np.where(enough, max(_FEWEST), totals // 4))
    held = np.zeros_like(wanted)
    parts = np.full(len(films), -1)
    for column in [*np.argsort(totals[:-1], kind="stable"), len(totals) - 1]:
        # Small patients first, so that meeting the fewest takes as little as possible from train.
        for patient in np.argsort(counts[:, column], kind="stable"):
            if parts[patient] < 0 and counts[patient, column] > 0:
                lack = (wanted - held)[:, column] + np.where(held[:, column] < fewest[:, column], totals[-1], 0)
                parts[patient] = int(np.argmax(lack))
                held[parts[patient]] += counts[patient]
    return [PARTS[part] for part in parts]
