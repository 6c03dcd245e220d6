"""Per finding and macro: how well probabilities agree with labels.

Shapes: N images, F findings. Knows arrays only: no files, no score table, no model. A label of NaN (not stated)
takes no part. A value that the labels leave undefined is NaN, never a default; the macro mean says how many it is over.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.labels.findings import ABSENT, PRESENT

MEASURES = ("auroc", "average_precision", "f1", "sensitivity", "specificity")


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
    """One row per finding: counts, prevalence, AUROC, average precision, and F1, sensitivity, specificity.

    AUROC, average precision and F1 are NaN unless both classes occur, sensitivity without positives, specificity
    without negatives, prevalence without any stated label.

    Args:
        labels: (N, F), 1 present, 0 absent, NaN not stated.
        probabilities: (N, F), 0..1, no NaN: leave images without a score out, and say how many.
        thresholds: (F,), 0..1; a probability `>=` its threshold counts as present.
        findings: F names, the index of the result.

    Raises:
        ValueError: Shapes differ, or a label or probability lies outside its range.
    """
    _check(labels, probabilities, np.asarray(thresholds), findings)
    predicted = at_or_above(probabilities, thresholds)
    rows = [_one_finding(labels[:, f], probabilities[:, f], predicted[:, f]) for f in range(len(findings))]
    frame = pd.DataFrame(rows, index=pd.Index(list(findings), name="finding", dtype="str"))
    frame.insert(3, "threshold", np.asarray(thresholds, float))
    return frame


def macro(frame: pd.DataFrame) -> dict[str, float]:
    """Mean of each measure over the findings where it is defined, and that number as `num_defined_MEASURE`.

    Without any such finding the mean is NaN and the number 0.
    """
    values: dict[str, float] = {"num_findings": len(frame)}
    for measure in MEASURES:
        defined = frame[measure].dropna()
        values[measure] = float(defined.mean()) if len(defined) else float("nan")
        values[f"num_defined_{measure}"] = len(defined)
    return values


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


def _one_finding(
    labels: NDArray[Any], probabilities: NDArray[Any], predicted: NDArray[np.bool_]
) -> dict[str, float | int]:
    """The row of one finding from its N labels, probabilities and decisions."""
    positive, negative = labels == PRESENT, labels == ABSENT
    num_positives, num_negatives = int(positive.sum()), int(negative.sum())
    stated = positive | negative
    both = num_positives > 0 and num_negatives > 0
    true_positives, false_positives = int((predicted & positive).sum()), int((predicted & negative).sum())
    truth, scores = positive[stated], probabilities[stated]
    return {
        "num_positives": num_positives,
        "num_negatives": num_negatives,
        "prevalence": _ratio(num_positives, num_positives + num_negatives),
        "auroc": float(roc_auc_score(truth, scores)) if both else float("nan"),
        "average_precision": float(average_precision_score(truth, scores)) if both else float("nan"),
        # With D = 2 TP + FP + FN and TP + FN positives, D is positives + TP + FP.
        "f1": _ratio(2 * true_positives, num_positives + true_positives + false_positives) if both else float("nan"),
        "sensitivity": _ratio(true_positives, num_positives),
        "specificity": _ratio(num_negatives - false_positives, num_negatives),
    }


def _ratio(part: int, whole: int) -> float:
    """`part / whole`, NaN when there is no whole."""
    return part / whole if whole else float("nan")
