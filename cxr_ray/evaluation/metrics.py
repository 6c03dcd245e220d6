"""Per finding and over them: how well probabilities agree with labels.

Shapes: N images, F findings. Knows arrays only: no files, no score table, no model. A label of NaN (not stated)
takes no part. A value that the labels leave undefined is NaN, never a default; a mean says how many it is over.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.labels.findings import ABSENT, PRESENT
from cxr_ray.models.calibration import calibration_errors

Floats = NDArray[np.float64]
Counts = NDArray[Any]  # whole numbers or weights
MEASURES = (
    "auroc",
    "average_precision",
    "f1",
    "f1_paper",
    "sensitivity",
    "specificity",
    "mcc",
    "brier",
    "calibration_error",
    "hamming",
)
LOWER_IS_BETTER = ("brier", "calibration_error", "hamming")


def at_or_above(probabilities: ArrayLike, thresholds: ArrayLike) -> NDArray[np.bool_]:
    """Whether a finding counts as present: probability `>=` threshold; NaN is not.

    Compared in float32, the precision of the score table: a stored 0.7 is 0.69999999 and must reach a threshold of 0.7.
    """
    return np.asarray(probabilities, np.float32) >= np.asarray(thresholds, np.float32)


def finding_metrics(
    labels: NDArray[np.floating[Any]],
    probabilities: NDArray[np.floating[Any]],
    thresholds: ArrayLike,
    findings: Sequence[str],
) -> pd.DataFrame:
    """One row per finding: counts, prevalence, threshold and the MEASURES.

    `f1_paper` is the mean of the F1 of the positive and of the negative class (Liz et al. 2023); `hamming` the share of
    wrong decisions, so that its mean over findings is the Hamming loss. NaN where undefined: AUROC, average precision,
    both F1 and MCC unless both classes occur, sensitivity without positives, specificity without negatives, all others
    without a stated label, and whatever needs a decision where the threshold is NaN. MCC is 0, its limit, where all
    decisions are the same.

    Args:
        labels: (N, F), 1 present, 0 absent, NaN not stated.
        probabilities: (N, F), 0..1, no NaN: leave images without a score out, and say how many.
        thresholds: (F,), 0..1; a probability `>=` its threshold counts as present. NaN: no decisions.
        findings: F names, the index of the result.

    Raises:
        ValueError: Shapes differ, or a label or probability lies outside its range.
    """
    levels = np.asarray(thresholds, float)
    _check(labels, probabilities, levels, findings)
    called, positive, negative = at_or_above(probabilities, levels), labels == PRESENT, labels == ABSENT
    positives, negatives = positive.sum(axis=0), negative.sum(axis=0)
    squares = np.where(positive | negative, (probabilities.astype(np.float64) - positive) ** 2, 0.0)
    decisions = decided((called & positive).sum(axis=0), (called & negative).sum(axis=0), positives, negatives)
    columns = {
        "num_positives": positives,
        "num_negatives": negatives,
        "prevalence": ratio(positives, positives + negatives),
        "threshold": levels,
        **_ranked(positive, negative, probabilities),
        **{name: np.where(np.isnan(levels), np.nan, values) for name, values in decisions.items()},
        "brier": ratio(squares.sum(axis=0), positives + negatives),
        "calibration_error": calibration_errors(probabilities.astype(np.float64), labels.astype(np.float64)),
    }
    frame = pd.DataFrame(columns, index=pd.Index(list(findings), name="finding", dtype="str"))
    result: pd.DataFrame = frame[["num_positives", "num_negatives", "prevalence", "threshold", *MEASURES]]
    return result


def decided(hits: Counts, false_alarms: Counts, positives: Counts, negatives: Counts) -> dict[str, Floats]:
    """The measures of decisions, any shape, from true positives, false positives and how many there are of each class.

    Source: Matthews 1975 for `mcc`, here the determinant of the confusion matrix over the root of its margins.
    """
    stated, called, dismissed = positives + negatives, hits + false_alarms, negatives - false_alarms
    both = (positives > 0) & (negatives > 0)
    f1 = ratio(2.0 * hits, called + positives)
    f1_of_absent = ratio(2.0 * dismissed, stated - called + negatives)
    margins = np.sqrt(1.0 * positives * negatives) * np.sqrt(1.0 * called * (stated - called))
    determinant = 1.0 * hits * negatives - 1.0 * false_alarms * positives
    mcc = np.divide(determinant, margins, out=np.zeros(np.shape(margins)), where=margins > 0)
    return {
        "f1": np.where(both, f1, np.nan),
        "f1_paper": np.where(both, (f1 + f1_of_absent) / 2, np.nan),
        "sensitivity": ratio(hits, positives),
        "specificity": ratio(dismissed, negatives),
        "mcc": np.where(both, mcc, np.nan),
        "hamming": ratio(positives - hits + false_alarms, stated),
    }


def macro(frame: pd.DataFrame) -> dict[str, float]:
    """Mean of each measure over the findings where it is defined, and that number as `num_defined_MEASURE`.

    Without any such finding the mean is NaN and the number 0.
    """
    values: dict[str, float] = {"num_findings": len(frame)}
    for measure in MEASURES:
        column = frame[measure].to_numpy(float)
        values[measure] = float(macro_of(column[None])[0])
        values[f"num_defined_{measure}"] = int((~np.isnan(column)).sum())
    return values


def macro_of(values: Floats, weights: Floats | None = None) -> Floats:
    """Mean (D,) of values (D, F) over the findings that a row defines, NaN when it defines none.

    `weights` (D, F), such as each finding's prevalence, count a finding as much as it is frequent.
    """
    defined = ~np.isnan(values)
    counted = defined.astype(np.float64) if weights is None else np.where(defined, weights, 0.0)
    return ratio((np.where(defined, values, 0.0) * counted).sum(axis=1), counted.sum(axis=1))


def macro_in_draws(drawn: Floats, defined: NDArray[np.bool_], weights: Floats | None = None) -> Floats:
    """Mean (D,) over the findings that the full sample defines (F,), of values (D, F) in each draw.

    A draw that leaves one of them undefined is NaN: a mean over other findings is another quantity, and intervals
    that mix the two are wide on one side and miss the value.
    """
    chosen = drawn[:, defined]
    means = macro_of(chosen, None if weights is None else weights[:, defined])
    return np.where(np.isnan(chosen).any(axis=1), np.nan, means)


def ratio(parts: Counts, wholes: Counts) -> Floats:
    """`parts / wholes`, NaN where there is no whole."""
    shares: Floats = np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)
    return shares


def _check(
    labels: NDArray[Any], probabilities: NDArray[Any], thresholds: NDArray[Any], findings: Sequence[str]
) -> None:
    """Refuse arrays that do not belong together; a bug of the caller, so a ValueError."""
    if labels.ndim != 2 or labels.shape != probabilities.shape or labels.shape[1] != len(findings):
        raise ValueError(f"labels {labels.shape}, probabilities {probabilities.shape} and {len(findings)} findings")
    if thresholds.shape != (len(findings),):
        raise ValueError(f"thresholds have shape {thresholds.shape}, not ({len(findings)},)")
    if not np.all(np.isnan(labels) | (labels == PRESENT) | (labels == ABSENT)):
        raise ValueError("labels must be 1, 0 or NaN")
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must lie in 0..1 and not be NaN")


def _ranked(
    positive: NDArray[np.bool_], negative: NDArray[np.bool_], probabilities: NDArray[Any]
) -> dict[str, list[float]]:
    """AUROC and average precision (F,), NaN unless both classes occur."""
    values: dict[str, list[float]] = {"auroc": [], "average_precision": []}
    for truth, absent, scores in zip(positive.T, negative.T, probabilities.T, strict=True):
        both, stated = bool(truth.any() and absent.any()), truth | absent
        for name, score in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
            values[name].append(float(score(truth[stated], scores[stated])) if both else float("nan"))
    return values
