"""VinDr-CXR: three readers per training image, a consensus for the test images, and boxes.

Source: Nguyen et al. 2022, VinDr-CXR, and its page on PhysioNet: image_labels_train.csv (image_id, rad_id, one column
per finding), image_labels_test.csv (no rad_id), annotations_train.csv (image_id, rad_id, class_name, x_min, y_min,
x_max, y_max; the Kaggle edition's train.csv adds class_id) and annotations_test.csv (no rad_id).

The data set names no patients: each image counts as a patient, and nobody can say whether two show the same person.
"""

import numpy as np
import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.labels.tables import (
    BOX,
    Labelled,
    image_paths,
    labels_of,
    lines_of,
    listed,
    numbers_of,
    read_table,
    require,
    text,
)

LAYOUT = "{folder}/{image_id}.dicom"

_KEYS = ("image_id", "rad_id")
_NOTHING = ("No finding", "No Finding")
_SPELLING = {"Other disease": "Other diseases"}  # the test table's name for the train table's column


def read(config: ManifestConfig) -> Labelled:
    """VinDr-CXR in the common form; findings are combined over the readers of each image.

    Raises:
        ManifestError: A column is missing, labels are unusable, or an image is in both tables.
    """
    train = _votes(config.path)
    findings = config.findings or tuple(str(name) for name in train.columns if name not in (*_KEYS, "line", *_NOTHING))
    problems: list[str] = []
    frames = [_consensus(train, findings, config, "train", problems)]
    if config.test_path is not None:
        frames.append(_consensus(_votes(config.test_path), findings, config, "test", problems))
        both = sorted(set(frames[0]["name"]) & set(frames[1]["name"]))
        if both:
            raise ManifestError(f"The images {listed(both)} are in {config.path} and {config.test_path}; keep one.")
    frame = pd.concat(frames, ignore_index=True)
    tables = [read_boxes(path) for path in (config.boxes_path, config.test_boxes_path) if path is not None]
    return Labelled(
        frame if config.test_path else frame.assign(part=None),
        findings,
        pd.concat(tables, ignore_index=True) if tables else None,
        problems=tuple(problems),
        patients_known=False,
    )


def read_boxes(path: str) -> pd.DataFrame:
    """The boxes of an annotation table, every reader's own, in pixels of the DICOM image; rows without one are left."""
    table = read_table(path)
    corners = ["x_min", "y_min", "x_max", "y_max"]
    require(table, ("image_id", "class_name", *corners), path)
    numbers = table[corners].apply(numbers_of)
    boxes = pd.DataFrame(
        {
            "name": text(table["image_id"]),
            "finding": text(table["class_name"]).replace(_SPELLING),
            "x": numbers["x_min"],
            "y": numbers["y_min"],
            "width": numbers["x_max"] - numbers["x_min"],
            "height": numbers["y_max"] - numbers["y_min"],
        }
    )
    return boxes.dropna(subset=list(BOX[1:])).reset_index(drop=True)


def _votes(path: str) -> pd.DataFrame:
    """One row per image and reader: image_id, rad_id, line, and a column per finding as text."""
    table = read_table(path)
    require(table, ("image_id",), path)
    table = table.assign(line=lines_of(table), rad_id=table.get("rad_id", ""))
    if "class_name" not in table:
        return table.drop(columns=table.filter(regex=r"^Unnamed").columns).rename(columns=_SPELLING)
    # An annotation table: a reader who drew no box of a class did not see it.
    names = text(table["class_name"]).replace(_SPELLING)
    seen = pd.crosstab([table["image_id"], table["rad_id"]], names).clip(upper=1).astype(str)
    first = table.groupby(list(_KEYS))["line"].min()
    return seen.assign(line=first).reset_index()


def _consensus(
    votes: pd.DataFrame, findings: tuple[str, ...], config: ManifestConfig, folder: str, problems: list[str]
) -> pd.DataFrame:
    """One row per image: labels by the share of the readers, of those who stated one, that saw the finding."""
    path = config.path if folder == "train" else str(config.test_path)
    require(votes, findings, path)
    labels = pd.DataFrame({finding: labels_of(votes[finding], finding, problems) for finding in findings})
    images = text(votes["image_id"])
    twice = images[votes.assign(image_id=images).duplicated(list(_KEYS))].tolist()
    if twice:
        raise ManifestError(f"The table {path} has two rows of one reader for {listed(twice)}; keep one.")
    share = labels.groupby(images.to_numpy()).mean()
    line = votes["line"].groupby(images.to_numpy()).min()
    names = pd.DataFrame({"image_id": share.index, "folder": folder}, index=share.index)
    frame = pd.DataFrame(
        {
            "name": names["image_id"],
            "line": line,
            "path": image_paths(names, config.layout or LAYOUT, path),
            "patient_id": names["image_id"],
            "part": folder,
        }
    )
    return pd.concat([frame, _decide(share, config.consensus)], axis=1).reset_index(drop=True)


def _decide(share: pd.DataFrame, consensus: str) -> pd.DataFrame:
    """1, 0 or NaN from the share of readers; a tie of the majority is not stated."""
    present = {"majority": share > 0.5, "any": share > 0, "all": share >= 1}[consensus]
    unsure = share.isna() | ((share == 0.5) & (consensus == "majority"))
    return present.astype(np.float32).mask(unsure)
