"""The checked training table: one row per image with its patient, its part and its labels.

All bad rows are reported at once, each with its line in the file. The split is by patient. Knows no pixels, and no
data set: `labels/sources` bring each into one form.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_ray import storage
from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.images.packed import members
from cxr_ray.labels.findings import check_findings
from cxr_ray.labels.sources import read_source
from cxr_ray.labels.split import PARTS, complete_parts
from cxr_ray.labels.tables import (
    METADATA,
    Labelled,
    blank_images,
    describe,
    folder_of,
    labels_of,
    listed,
    read_table,
    refuse,
    require,
    text,
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The training table.

    `frame` has the columns uri, patient_id, part, one float per finding (1, 0, NaN), and those of sex, age (years),
    view and manufacturer that the data set states. `boxes` has uri, finding, x, y, width and height in pixels of the
    published image, or is None. `notes` say what each filter left. The digest is of images, patients, parts and labels.
    Where `patients_known` is False, each image counts as a patient.
    """

    frame: pd.DataFrame
    findings: tuple[str, ...]
    digest: str
    boxes: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    patients_known: bool = True

    def counts(self) -> pd.DataFrame:
        """Images and positives of each finding per part: rows are parts, columns `images` and the findings."""
        positives = (self.frame[list(self.findings)] == 1).groupby(self.frame["part"]).sum()
        positives.insert(0, "images", self.frame.groupby("part").size())
        return positives.reindex([part for part in PARTS if part in positives.index])


def read_manifest(config: ManifestConfig, *, seed: int) -> Manifest:
    """Read a data set, check it and, where it states no parts, split it.

    Raises:
        ManifestError: A column is missing, rows are unusable, or a part cannot teach or test; the message lists them.
    """
    labelled = read_source(config)
    findings = check_findings(labelled.findings)
    root = config.image_root or folder_of(config.path)
    frame = labelled.frame
    frame = frame.assign(uri=[storage.absolute(storage.join(root, name)) for name in frame["path"]])
    refuse(config.path, [*labelled.problems, *_row_problems(frame)])
    if config.part_column is None:
        frame["part"] = complete_parts(frame, findings, shares=config.shares, seed=seed)
    refuse(config.path, _part_problems(frame, findings, config))
    core = frame[["uri", "patient_id", "part", *findings]]
    stated = frame[[name for name in METADATA if name in frame]]
    return Manifest(
        pd.concat([core, stated], axis=1),
        findings,
        _digest(core),
        boxes=_boxes(labelled, frame),
        notes=labelled.notes,
        patients_known=labelled.patients_known,
    )


def read_truth(
    path: str, *, findings: Sequence[str], uri_column: str = "uri", image_root: str | None = None
) -> pd.DataFrame:
    """Labels by absolute uri for evaluation: index uri, one float column per finding that the table has.

    Raises:
        ManifestError: The uri column, every finding, or every row is missing; an image is blank; a label is not 1, 0
            or blank; an image is named twice.
    """
    return truth_of(read_table(path), path, findings=findings, uri_column=uri_column, image_root=image_root)


def truth_of(
    table: pd.DataFrame, path: str, *, findings: Sequence[str], uri_column: str = "uri", image_root: str | None = None
) -> pd.DataFrame:
    """`read_truth` of a table that has been read from `path`; row for row, so that its other columns can be joined."""
    require(table, (uri_column,), path)
    known = [finding for finding in findings if finding in table.columns]
    if not known:
        raise ManifestError(
            f"The table {path} has a column for none of the findings {listed(findings)}; name the columns of labels as"
            f" the ensemble does, its columns are {', '.join(map(str, table.columns))}."
        )
    root = image_root or folder_of(path)
    names = text(table[uri_column])
    problems = blank_images(names)
    truth = pd.DataFrame({finding: labels_of(table[finding], finding, problems) for finding in known})
    if problems:
        raise ManifestError(f"The table {path} cannot be used: {' '.join(problems)}")
    truth.index = pd.Index([storage.absolute(storage.join(root, name)) for name in names], name="uri")
    if truth.index.has_duplicates:
        twice = truth.index[truth.index.duplicated()]
        count = "1 row" if len(twice) == 1 else f"{len(twice):,} rows"
        raise ManifestError(f"The table {path} has {count} too many, first for {twice[0]}; keep one each.")
    return truth


def _row_problems(frame: pd.DataFrame) -> list[str]:
    """One sentence per kind of problem in the rows."""
    names, lines = frame["name"], frame["line"]
    named = (names != "").to_numpy(bool)  # a row without an image has the folder as its uri, which says nothing
    blank, twice = (frame["patient_id"] == "").to_numpy(), named & frame["uri"].duplicated().to_numpy()
    problems = blank_images(names, lines=lines)
    problems += describe(blank, names, str, "the patient is blank for", lines=lines)
    problems += describe(twice, names, str, "these images are listed before:", lines=lines)
    local = ~frame["uri"].map(storage.is_remote).to_numpy(bool)
    files = frame["uri"].map(lambda uri: members.split(uri)[0])
    absent = np.array([here and not Path(file).is_file() for here, file in zip(local, files, strict=True)])
    problems += describe(named & absent, frame["uri"], str, "these images do not exist:", lines=lines)
    if frame["part"].isna().all():
        return problems
    unknown = ~frame["part"].isin(PARTS).to_numpy()
    what = "the part must be train, validation or test, not"
    problems += describe(unknown, frame["part"].astype(str), repr, what, lines=lines)
    parts = frame.groupby("patient_id")["part"].nunique()
    torn = [str(patient) for patient in parts.index[parts > 1]]
    if torn:
        remedy = "keep all images of a patient in one part."
        problems.append(f"the same patient is in two parts: {listed(torn)}; {remedy}")
    return problems


def _part_problems(frame: pd.DataFrame, findings: Sequence[str], config: ManifestConfig) -> list[str]:
    """What keeps train or validation from its purpose: no image, or a finding of one class only."""
    problems = []
    for part in PARTS[:2]:
        labels = frame.loc[frame["part"] == part, list(findings)]
        if labels.empty:
            problems.append(f"there is no image in the part {part}; add some or change the shares;")
            continue
        lacking = {"present": (labels == 1).sum() == 0, "absent": (labels == 0).sum() == 0}
        for what, never in lacking.items():
            named = [finding for finding in findings if never[finding]]
            if named and config.one_class == "refuse":
                problems.append(f"no image of the part {part} has {', '.join(named)} {what};")
    if any("has" in problem for problem in problems):
        problems.append("remove such findings, add images, change the shares, or set manifest.one_class to allow.")
    return problems


def _boxes(labelled: Labelled, frame: pd.DataFrame) -> pd.DataFrame | None:
    """The boxes of the images and findings of the table, with the image's uri."""
    if labelled.boxes is None:
        return None
    boxes = labelled.boxes[labelled.boxes["finding"].isin(labelled.findings)]
    joined = frame[["uri", "name"]].merge(boxes, on="name")
    return joined.drop(columns="name")


def _digest(frame: pd.DataFrame) -> str:
    """Digest of the table's content: images, patients, parts and labels, in order."""
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()[:16]
