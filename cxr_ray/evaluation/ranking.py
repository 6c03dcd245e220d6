"""Sums over images under every draw at once, as sparse matrices over patients.

Shapes: N images, P patients, d draws, K different scores of positives. A draw says how often each patient was drawn,
and every metric of it is made of sums over the images of the drawn patients: with the images added up per patient
beforehand, a block of draws costs one sparse product, whatever N is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cxr_ray.evaluation.metrics import Floats, ratio

Whole = NDArray[np.intp]


def summing(rows: Whole, owner: Whole, values: NDArray[Any] | None = None, *, shape: tuple[int, int]) -> csr_array:
    """The matrix (R, P) that adds the values (N,), 1 without any, of each row's images per patient."""
    held = np.ones(len(rows)) if values is None else values.astype(np.float64)
    return csr_array((held, (rows, owner)), shape=shape)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What AUROC and average precision need: positives at each of their K scores, negatives between and at them.

    Row 2k + 1 of `negatives` are those that share the k-th score from below, row 2k those between it and the one
    before, row 2K those above all.
    """

    positives: csr_array  # (K, P)
    negatives: csr_array  # (2 K + 1, P)

    @classmethod
    def of(cls, truth: NDArray[np.bool_], scores: NDArray[Any], owner: Whole, num_patients: int) -> "Ranking":
        """The ranking of images (N,) that belong to the patients `owner`."""
        steps, at = np.unique(scores[truth], return_inverse=True)
        absent = scores[~truth]
        between = np.searchsorted(steps, absent, side="left") + np.searchsorted(steps, absent, side="right")
        return cls(
            summing(at, owner[truth], shape=(len(steps), num_patients)),
            summing(between, owner[~truth], shape=(2 * len(steps) + 1, num_patients)),
        )

    def measure(self, counts: Floats) -> tuple[Floats, Floats]:
        """AUROC and average precision (d,) of patients drawn `counts` (P, d) times; NaN unless both classes are.

        AUROC is the share of pairs ranked rightly, ties half; average precision takes tied scores as one step.
        """
        here = self.positives @ counts
        below = np.cumsum(self.negatives @ counts, axis=0)
        before, upto, negatives = below[:-1:2], below[1::2], below[-1]
        hits = np.cumsum(here[::-1], axis=0)[::-1]
        positives = here.sum(axis=0)
        called = hits + negatives - before
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        auroc = ratio((here * (before + upto)).sum(axis=0) / 2, positives * negatives)
        return auroc, np.where(negatives > 0, ratio((here * precision).sum(axis=0), positives), np.nan)
