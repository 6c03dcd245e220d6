"""MIMIC-CXR-JPG: labels per study, views per image and the official split, each a table of its own.

Source: Johnson et al. 2019, MIMIC-CXR-JPG, and its page on PhysioNet: mimic-cxr-2.0.0-chexpert.csv.gz (subject_id,
study_id, 14 labels), -metadata.csv.gz (dicom_id, subject_id, study_id, ViewPosition, ...), -split.csv.gz (dicom_id,
study_id, subject_id, split). Images: files/p10/p10000032/s50414267/DICOM_ID.jpg.
"""

import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.labels.sources.chexpert import FINDINGS, NO_FINDING, labeler_labels
from cxr_ray.labels.tables import Labelled, image_paths, lines_of, listed, read_table, require, text

LAYOUT = "files/p{group}/p{subject_id}/s{study_id}/{dicom_id}.jpg"

_KEYS = ["subject_id", "study_id"]
_PARTS = {"train": "train", "validate": "validation", "test": "test"}


def read(config: ManifestConfig) -> Labelled:
    """MIMIC-CXR-JPG in the common form; images of studies without labels are left out.

    Raises:
        ManifestError: A table or a column is missing, a study is labelled twice, or the split and the images differ.
    """
    findings = config.findings or FINDINGS
    studies = read_table(config.path)
    require(studies, (*_KEYS, NO_FINDING, *findings), config.path)
    images_path = str(config.metadata_path)
    images = read_table(images_path)
    require(images, ("dicom_id", *_KEYS, "ViewPosition"), images_path)
    images = images.assign(line=lines_of(images), group=text(images["subject_id"]).str[:2])
    images["part"] = _official_parts(text(images["dicom_id"]), config)
    problems: list[str] = []
    labels = pd.concat([studies[_KEYS], labeler_labels(studies, findings, config, problems)], axis=1)
    twice = labels[labels.duplicated(_KEYS)]["study_id"].tolist()
    if twice:
        raise ManifestError(f"The table {config.path} labels the studies {listed(twice)} twice; keep one row each.")
    joined = images.merge(labels, on=_KEYS, how="inner", validate="many_to_one")
    notes = (f"{len(images):,} images in the table", f"{len(joined):,} of a labelled study")
    if joined.empty:
        raise ManifestError(f"No image of {images_path} is left: {', '.join(notes)}; use both tables of one release.")
    frame = pd.DataFrame(
        {
            "name": text(joined["dicom_id"]),
            "line": joined["line"],
            "path": image_paths(joined, config.layout or LAYOUT, images_path),
            "patient_id": text(joined["subject_id"]),
            "part": joined["part"],
            "view": text(joined["ViewPosition"]),
        }
    )
    return Labelled(pd.concat([frame, joined[list(findings)]], axis=1), findings, notes=notes, problems=tuple(problems))


def _official_parts(names: "pd.Series[str]", config: ManifestConfig) -> "pd.Series[str] | None":
    """Part of each image by the split table, None without one; raises ManifestError where they differ."""
    if config.split_path is None:
        return None
    split = read_table(config.split_path)
    require(split, ("dicom_id", "split"), config.split_path)
    parts = pd.Series(text(split["split"]).to_numpy(), index=text(split["dicom_id"]))
    unknown, missing = sorted(set(parts.index) - set(names)), sorted(set(names) - set(parts.index))
    if unknown or missing:
        what = f"names the unknown images {listed(unknown)}" if unknown else f"lacks the images {listed(missing)}"
        raise ManifestError(f"The split {config.split_path} {what}; use the tables of one release.")
    strange = sorted(set(parts) - set(_PARTS))
    if strange or parts.index.has_duplicates:
        raise ManifestError(
            f"The split {config.split_path} must name each image once with train, validate or test,"
            f" but holds {listed(strange) or 'an image twice'}."
        )
    return names.map(parts.map(_PARTS))
