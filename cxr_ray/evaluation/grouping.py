"""From columns of a table and of DICOM headers to groups of images, as subgroups of an evaluation."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cxr_ray.labels.tables import ages, numbers_of, sexes, text

MAX_GROUPS = 20  # more different words are no grouping: names, stations; more different numbers become bands
_AGES = (0, 18, 40, 60, 80, np.inf)
_BANDS = ("under 18", "18 to 39", "40 to 59", "60 to 79", "80 and over")


def groups_of(
    stated: pd.DataFrame, header: pd.DataFrame, *, skipped: Sequence[str | None]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The columns (N, K) of a table and of headers that can group its images, and why each other one cannot.

    Groups are empty where a value is not stated. Ages become bands, sexes F and M, more than MAX_GROUPS different
    numbers quartiles. A column without a value, or of more than MAX_GROUPS words, cannot group; where both have a
    column of one name, the table's is taken.
    """
    columns: dict[str, pd.Series[str]] = {}
    reasons = {str(name): "it names the images or patients, or holds labels" for name in skipped if name in stated}
    for source in (stated, header):
        for name in source.columns:
            if name in skipped or str(name) in columns:
                continue
            names = _grouped(str(name), source[name])
            number = names[names != ""].nunique()
            if 1 <= number <= MAX_GROUPS:
                columns[str(name)] = names.reset_index(drop=True)
            elif number:
                reasons[str(name)] = (
                    f"it holds {number:,} different values that are not all numbers, and at most {MAX_GROUPS} can be"
                    " compared"
                )
            else:
                reasons.setdefault(str(name), "none of its cells holds a value that can be read")
    frame = pd.DataFrame(columns, index=range(len(stated)))
    return frame, {name: reason for name, reason in reasons.items() if name not in columns}


def in_order(name: str) -> tuple[float, str]:
    """The place of a group among others: by the number it begins with, then by name; ages under 18 first."""
    number = re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?", name)
    return (-np.inf if name == _BANDS[0] else float(number[0]) if number else np.inf), name


def _grouped(name: str, column: "pd.Series[str]") -> "pd.Series[str]":
    """The group of each value."""
    words = name.lower().replace("_", " ").split()
    if "age" in words:
        return age_bands(column)
    if "sex" in words or "gender" in words:
        return sexes(column)
    values, numbers = text(column), numbers_of(column)
    if numbers.nunique() > MAX_GROUPS and ((values == "") | numbers.notna()).all():
        return quartiles(numbers)
    return values


def quartiles(numbers: "pd.Series[float]") -> "pd.Series[str]":
    """The quartile of each number, named by the least and the greatest in it, such as `12 to 35`; empty for NaN.

    Equal numbers stay together, so that one which many have makes fewer and uneven bands.
    """
    edges = np.unique(numbers.quantile([0.25, 0.5, 0.75], interpolation="lower"))
    bands = pd.Series(np.searchsorted(edges, numbers), index=numbers.index).where(numbers.notna())
    lows, highs = (numbers.groupby(bands).transform(which) for which in ("min", "max"))
    show = _shown(pd.concat([lows, highs]).dropna())
    pairs = zip(lows, highs, strict=True)
    names = ["" if np.isnan(a) else show(a) if a == b else f"{show(a)} to {show(b)}" for a, b in pairs]
    return pd.Series(names, index=numbers.index, dtype=str)


def _shown(bounds: "pd.Series[float]") -> Callable[[float], str]:
    """How to write the bounds of bands: whole numbers without a point, others short, but never two of them alike."""
    if (bounds == bounds.round()).all():
        return "{:.0f}".format
    short = "{:g}".format
    return short if bounds.map(short).nunique() == bounds.nunique() else repr


def age_bands(column: "pd.Series[str]") -> "pd.Series[str]":
    """The band of each age, from years or DICOM's age string; empty where there is none."""
    bands = pd.cut(ages(column), _AGES, right=False, labels=list(_BANDS))
    return bands.astype("string").fillna("").astype(str)
