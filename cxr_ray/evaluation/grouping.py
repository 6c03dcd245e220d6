"""From columns of a table and of DICOM headers to groups of images, as subgroups of an evaluation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_ray.labels.tables import ages, sexes, text

MAX_GROUPS = 20  # a column of more different values is no grouping: names, dates, measurements
_AGES = (0, 18, 40, 60, 80, np.inf)
_BANDS = ("under 18", "18 to 39", "40 to 59", "60 to 79", "80 and over")


def groups_of(stated: pd.DataFrame, header: pd.DataFrame, *, skipped: Sequence[str | None]) -> pd.DataFrame:
    """The columns (N, K) of a table and of headers that can group its images; empty where a value is not stated.

    Ages become bands, sexes F and M. A column without a value, or of more than MAX_GROUPS values, cannot group; where
    both have a column of one name, the table's is taken.
    """
    columns: dict[str, pd.Series[str]] = {}
    for source in (stated, header):
        for name in source.columns:
            if name in skipped or str(name) in columns:
                continue
            names = _grouped(str(name), source[name])
            if 1 <= names[names != ""].nunique() <= MAX_GROUPS:
                columns[str(name)] = names.reset_index(drop=True)
    return pd.DataFrame(columns, index=range(len(stated)))


def _grouped(name: str, column: "pd.Series[str]") -> "pd.Series[str]":
    """The group of each value."""
    words = name.lower().replace("_", " ").split()
    if "age" in words:
        return age_bands(column)
    if "sex" in words or "gender" in words:
        return sexes(column)
    return text(column)


def age_bands(column: "pd.Series[str]") -> "pd.Series[str]":
    """The band of each age, from years or DICOM's age string; empty where there is none."""
    bands = pd.cut(ages(column), _AGES, right=False, labels=list(_BANDS))
    return bands.astype("string").fillna("").astype(str)
