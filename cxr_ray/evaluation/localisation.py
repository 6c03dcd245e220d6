"""Do heat maps point at the lesion: the pointing game.

Reads the `findings` column of the score table and masks from a callable, so it knows no file format and no pixels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.labels.findings import PRESENT

ALL_FINDINGS = "(all findings)"  # no finding may begin with a bracket, so the name is free
Masks = Callable[[str], NDArray[np.bool_] | None]


def pointing_game(
    scores: pa.Table, truth: pd.DataFrame, masks: Masks, *, findings: Sequence[str], thresholds: Sequence[float]
) -> pd.DataFrame:
    """Share of true positives whose heat-map peak lies in the lesion: one row per finding, then `ALL_FINDINGS`.

    A true positive has label 1, a probability at or above the threshold, a heat map and a mask with at least one
    pixel. A map that is zero everywhere has no peak and misses. Columns: num_true_positives, num_hits, rate (NaN
    without true positives).

    Source: Zhang et al. 2018, Top-down neural attention by excitation backprop, section 4.2; without their tolerance
    of 15 pixels.

    Args:
        scores: Rows of the score table with `uri` and `findings`.
        truth: Labels 1, 0 or NaN; index uri, one column per finding.
        masks: uri -> (F, H, W) bool in original pixels and the order of `findings`, or None where there is none.
        findings: F names.
        thresholds: F thresholds.

    Raises:
        ValueError: A mask is not (F, H, W).
    """
    hits: dict[str, list[bool]] = {finding: [] for finding in findings}
    positives = {finding: set(truth.index[truth[finding] == PRESENT]) for finding in findings}
    limits = dict(zip(findings, thresholds, strict=True))
    for uri, reported in _with_maps(scores):
        true = [
            found
            for found in reported
            if uri in positives[found["finding"]] and at_or_above(found["probability"], limits[found["finding"]])
        ]
        lesions = masks(uri) if true else None
        if lesions is None:
            continue
        if lesions.ndim != 3 or len(lesions) != len(findings):
            raise ValueError(f"the mask of {uri} has shape {lesions.shape}, not ({len(findings)}, H, W)")
        for found in true:
            lesion = lesions[findings.index(found["finding"])]
            if lesion.any():
                hits[found["finding"]].append(_contains(lesion, found["peak_row"], found["peak_column"]))
    return _frame(hits)


def _with_maps(scores: pa.Table) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Uri and reported findings with a heat map of each row, batch by batch: not all maps become objects at once."""
    for batch in scores.select(["uri", "findings"]).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield row["uri"], [found for found in row["findings"] or [] if found["heatmap"] is not None]


def _contains(lesion: NDArray[np.bool_], row: float | None, column: float | None) -> bool:
    """Whether the pixel under (row, column) is set; pixel i covers [i, i + 1), and outside the image nothing is set."""
    if row is None or column is None or not (0 <= row < lesion.shape[0] and 0 <= column < lesion.shape[1]):
        return False
    return bool(lesion[math.floor(row), math.floor(column)])


def _frame(hits: dict[str, list[bool]]) -> pd.DataFrame:
    """Counts and rates per finding and over all of them."""
    every = {**hits, ALL_FINDINGS: [hit for found in hits.values() for hit in found]}
    rows = [
        {
            "num_true_positives": len(found),
            "num_hits": sum(found),
            "rate": sum(found) / len(found) if found else float("nan"),
        }
        for found in every.values()
    ]
    return pd.DataFrame(rows, index=pd.Index(list(every), name="finding", dtype="str"))
