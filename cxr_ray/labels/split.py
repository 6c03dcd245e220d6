"""Which patients train, validate and test: stratified by every finding at once, no patient in two parts.

Pure: a table in, a part per row out, the same for the same seed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.errors import ManifestError

PARTS = ("train", "validation", "test")


def complete_parts(
    frame: pd.DataFrame, findings: Sequence[str], *, shares: tuple[float, float, float], seed: int
) -> "pd.Series[str]":
    """Part of each row of a table whose data set states all parts, some, or none.

    None: all patients are split by the shares. Training and test only, as NIH and VinDr publish: validation is drawn
    from the training patients in the ratio of the first two shares. Anything else stays as it is.
    """
    stated = set(frame["part"].dropna())
    if not stated:
        return split_by_patient(frame, findings, shares=shares, seed=seed)
    if "validation" in stated or "train" not in stated:
        return frame["part"].astype(str)
    train = frame[frame["part"] == "train"]
    inner = (shares[0] / (shares[0] + shares[1]), shares[1] / (shares[0] + shares[1]), 0.0)
    drawn = split_by_patient(train, findings, shares=inner, seed=seed)
    return frame["part"].where(frame["part"] != "train", drawn).astype(str)


def split_by_patient(
    frame: pd.DataFrame, findings: Sequence[str], *, shares: tuple[float, float, float], seed: int
) -> "pd.Series[str]":
    """Part of each row: patients are dealt so that every part holds its share of the images and of every finding.

    The rarest finding's patients first, those with most images of it first, each to the part that lacks the
    largest share of what it should have.

    Source: Sechidis et al. 2011, On the stratification of multi-label data, algorithm 1, with patients (whose images
    are counted) in place of examples.
    """
    patients = frame["patient_id"]
    counts = (frame[list(findings)] == 1).groupby(patients).sum()
    if len(counts) < 4:
        raise ManifestError(f"{len(counts)} patients cannot be split by patient; name a part column.")
    images = np.column_stack([counts.to_numpy(float), frame.groupby("patient_id").size().to_numpy(float)])
    parts = pd.Series(np.array(PARTS)[_deal(images, np.asarray(shares), seed)], index=counts.index)
    return patients.map(parts)


def _deal(images: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """Part 0, 1 or 2 of each patient from counts of images (patients, findings + 1); the last column is all images."""
    wanted = goal = np.outer(shares, images.sum(axis=0))
    open_parts = np.flatnonzero(shares > 0).tolist()
    order = np.random.default_rng(seed).permutation(len(images))
    parts = np.full(len(images), -1)
    while (parts < 0).any():
        column = _rarest(images[parts < 0])
        waiting = order[(parts[order] < 0) & (images[order, column] > 0)]
        for patient in waiting[np.argsort(-images[waiting, column], kind="stable")]:
            # In shares of the goal, so that patients with many and with few images spread alike; rounding keeps float
            # noise out of ties, which go to the part that wants most images.
            lack = (wanted[:, column] / np.maximum(goal[:, column], 1e-9)).round(6)
            part = max(open_parts, key=lambda part: (lack[part], wanted[part, -1]))
            wanted = wanted - np.outer(np.arange(3) == part, images[patient])
            parts[patient] = part
    return parts


def _rarest(images: npt.NDArray[np.float64]) -> int:
    """The finding that fewest of these patients have; the last column, all images, when none has any."""
    num_patients = (images[:, :-1] > 0).sum(axis=0)
    present = np.flatnonzero(num_patients)
    return int(present[num_patients[present].argmin()]) if len(present) else images.shape[1] - 1
