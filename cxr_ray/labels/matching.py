"""How a table of labels and scored rows meet: which images both have, and whose they are.

Said once for `evaluate`, `calibrate` and `audit`. Gets columns of the score table, and knows nothing of its files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_ray.errors import ManifestError
from cxr_ray.labels.tables import counted, listed, near, text

PATIENT_COLUMN = "patient_id"
PATIENT_KEY = "patient_key"  # column of the score table


@dataclass(frozen=True, slots=True)
class Counts:
    """How labels and scores meet."""

    num_labelled: int  # images of the table
    num_scored: int  # of these, with a score
    num_faulted: int  # of these, with a fault in its place
    num_unlabelled: int  # images with a score that the table does not have

    @property
    def num_unscored(self) -> int:
        """Labelled images of which the scores hold no row."""
        return self.num_labelled - self.num_scored - self.num_faulted

    def to_dict(self) -> dict[str, int]:
        """The counts by their names."""
        names = ("num_labelled", "num_scored", "num_faulted", "num_unscored", "num_unlabelled")
        return {name: getattr(self, name) for name in names}

    def words(self) -> str:
        """The counts for people."""
        return (
            f"{counted(self.num_labelled, 'labelled image')}: {self.num_scored:,} scored, {self.num_faulted:,}"
            f" faulted, {self.num_unscored:,} without a row; {counted(self.num_unlabelled, 'scored image')} without a"
            " label."
        )


@dataclass(frozen=True, slots=True)
class Match:
    """Which of the R rows are scored and labelled, and what is to be said of the others."""

    taken: NDArray[np.bool_]  # (R,)
    counts: Counts
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patients:
    """Whose each of N images is, the column that says so (None: each image counts as a patient), and what to know."""

    names: NDArray[np.str_]  # (N,)
    clustered_by: str | None
    notes: tuple[str, ...]


def match(
    labelled: "pd.Index[Any]", uris: "pd.Series[str]", scored: NDArray[np.bool_], *, manifest: str, output: str
) -> Match:
    """Match the images of the table `manifest` with the rows (R,) of the scores in `output`, by uri.

    Raises ManifestError when no image has both a label and a score.
    """
    known = uris.isin(labelled).to_numpy(bool)
    taken = known & scored
    if not taken.any():
        raise ManifestError(
            f"None of the images of {manifest} ({len(labelled):,}, such as {labelled[0]}) is scored in {output}; check"
            " the uri column and the image root."
        )
    counts = Counts(len(labelled), int(taken.sum()), int((known & ~scored).sum()), int((scored & ~known).sum()))
    absent, strange = labelled[~labelled.isin(uris)].tolist(), uris[scored & ~known].tolist()
    notes = []
    if absent:
        verb = "was" if len(absent) == 1 else "were"
        notes.append(f"{counted(len(absent), 'labelled image')} {verb} not scored: {listed(absent)}.")
    if strange:
        verb = "has" if len(strange) == 1 else "have"
        notes.append(f"{counted(len(strange), 'scored image')} {verb} no label: {listed(strange)}.")
    return Match(taken, counts, tuple(notes))


def patients_of(
    stated: pd.DataFrame, *, uris: Sequence[str], keys: "pd.Series[str]", column: str | None, manifest: str
) -> Patients:
    """Whose each of N images is.

    By `column` of the table, by default patient_id, a blank one being a patient of its own; where the table has no such
    column, by the score table's patient_key if every image has one; else each image counts as a patient.

    Args:
        stated: The rows of the table for these images.
        uris: The images.
        keys: Their patient_key in the score table.
        column: The column that the user named, or None for the default.
        manifest: The table's path.

    Raises:
        ManifestError: The table has no column of the name that the user gave.
    """
    if column is not None and column not in stated:
        raise ManifestError(
            f"The table {manifest} has no column {column!r}{near(column, list(stated.columns))}; its columns are"
            f" {', '.join(map(str, stated.columns))}."
        )
    name = column or PATIENT_COLUMN
    images = np.array([f"image {uri}" for uri in uris])
    if name not in stated:
        if keys.notna().all():
            return Patients(keys.to_numpy(str), PATIENT_KEY, ())
        said = f"The table has no column {name}: each image counts as a patient, so figures seem surer than they are."
        return Patients(images, None, (said,))
    patients = text(stated[name]).to_numpy(str)
    blank = patients == ""
    verb = "counts" if blank.sum() == 1 else "count"
    notes = (f"{counted(int(blank.sum()), 'image')} without a patient {verb} as one each.",) if blank.any() else ()
    return Patients(np.where(blank, images, patients), name, notes)
