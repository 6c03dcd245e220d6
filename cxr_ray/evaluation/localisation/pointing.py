"""Do the stored heat maps point at the lesion: the pointing game on the score table alone.

Reads the `findings` column of the score table and masks from a callable, so it knows no file format and no pixels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.labels.findings import PRESENT

ALL_FINDINGS = "(all findings)"  # no finding may begin with a bracket, so the name is free
Masks = Callable[[str], Mapping[str, NDArray[np.bool_]]]


def located(scores: pa.Table, truth: pd.DataFrame, masks: Masks, *, findings: Sequence[str]) -> NDArray[np.float64]:
    """Whether the peak of each stored heat map lies in the lesion: (N, F) 1, 0 or NaN, in the order of `scores`.

    NaN where the label is not 1, no heat map is stored, or no pixel is marked. A map that is zero everywhere has no
    peak: 0.

    Source: Zhang et al. 2018, Top-down neural attention by excitation backprop, section 4.2; without their tolerance
    of 15 pixels.

    Args:
        scores: Rows of the score table with `uri` and `findings`.
        truth: Labels 1, 0 or NaN; index uri, a column for each finding it knows.
        masks: uri -> {finding: (H, W) bool} in original pixels; empty where nothing is marked.
        findings: F names.
    """
    hits = np.full((scores.num_rows, len(findings)), np.nan)
    numbers = {finding: number for number, finding in enumerate(findings)}
    positives = {name: set(truth.index[truth[name] == PRESENT]) for name in findings if name in truth.columns}
    for row, (uri, reported) in enumerate(_reported(scores)):
        true = [
            found for found in reported if found["heatmap"] is not None and uri in positives.get(found["finding"], ())
        ]
        lesions = masks(uri) if true else {}
        for found in true:
            lesion = lesions.get(found["finding"])
            if lesion is not None and lesion.any():
                inside = contains(lesion, found["peak_row"], found["peak_column"])
                hits[row, numbers[found["finding"]]] = float(inside)
    return hits


def pointing_game(
    scores: pa.Table, truth: pd.DataFrame, masks: Masks, *, findings: Sequence[str], thresholds: Sequence[float]
) -> pd.DataFrame:
    """Share of true positives that are `located`: one row per finding, then `ALL_FINDINGS`.

    A true positive has label 1, a probability at or above the threshold, a heat map and a marked lesion. Columns:
    num_true_positives, num_hits, rate (NaN without true positives). Arguments as of `located`, and F thresholds.
    """
    hits = located(scores, truth, masks, findings=findings)
    probabilities = np.full(hits.shape, np.nan)
    for row, (_, reported) in enumerate(_reported(scores)):
        for found in reported:
            probabilities[row, list(findings).index(found["finding"])] = found["probability"]
    counted = np.where(at_or_above(probabilities, thresholds), hits, np.nan)
    return _frame({finding: counted[:, number] for number, finding in enumerate(findings)})


def contains(lesion: NDArray[np.bool_], row: float | None, column: float | None) -> bool:
    """Whether the pixel under (row, column) is set; pixel i covers [i, i + 1), and outside the image nothing is set."""
    if row is None or column is None or not (0 <= row < lesion.shape[0] and 0 <= column < lesion.shape[1]):
        return False
    return bool(lesion[math.floor(row), math.floor(column)])


def _reported(scores: pa.Table) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Uri and reported findings of each row, batch by batch: not all maps become objects at once."""
    for batch in scores.select(["uri", "findings"]).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield row["uri"], row["findings"] or []


def _frame(hits: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """Counts and rates per finding and over all of them; NaN is not counted."""
    every = {**hits, ALL_FINDINGS: np.concatenate(list(hits.values()))}
    rows = []
    for found in every.values():
        number, inside = int((~np.isnan(found)).sum()), int(np.nansum(found))
        rows.append(
            {"num_true_positives": number, "num_hits": inside, "rate": inside / number if number else float("nan")}
        )
    return pd.DataFrame(rows, index=pd.Index(list(every), name="finding", dtype="str"))
